"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        """Start at zero."""
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "steerlm_requests_total", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "steerlm_request_seconds", "Time to the end of the answer.", ["route"],
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            "steerlm_first_token_seconds", "Time to the first text of a streamed answer.",
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self.prompt_tokens = Counter("steerlm_prompt_tokens_total", "Tokens of prompts.", registry=self._registry)
        self.completion_tokens = Counter(
            "steerlm_completion_tokens_total", "Tokens of answers.", registry=self._registry
        )
        self.cancelled = Counter(
            "steerlm_cancelled_total", "Requests whose decoding was stopped early.", registry=self._registry
        )
        self.locked = Counter("steerlm_locked_total", "Requests refused by a lock.", registry=self._registry)
        self.far = Counter("steerlm_far_from_training_total", "Settings far from training.", registry=self._registry)

    def watch(self, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        """Report the samples in the batch and those that wait for it."""
        gauge = Gauge("steerlm_samples_running", "Samples being decoded.", registry=self._registry)
        gauge.set_function(running)
        gauge = Gauge("steerlm_samples_waiting", "Samples waiting for a place.", registry=self._registry)
        gauge.set_function(waiting)

    def text(self) -> bytes:
        """Return the exposition format."""
        return generate_latest(self._registry)
