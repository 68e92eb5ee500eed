"""Samples that something else draws, a task each: what the backends `upstream` and `vllm` have in common.

Neither says which of its samples wait, so all count as being drawn; and neither mixes logits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import Any

from steerlm.server.backend import Answer
from steerlm.server.errors import ApiError
from steerlm.server.metrics import Metrics

_SHORTEST_PAUSE_S = 0.015

Draw = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Draws one sample; is given what to call when its answer has grown."""


def mixes_logits(who: str) -> ApiError:
    """Return the error for a setting that needs several prompts; `who`: what cannot mix them."""
    message = f"guidance and values between two levels mix logits, which {who} cannot do"
    return ApiError(400, f"{message}; use strength 1 and whole levels", "no_guidance", "steer")


class Places:
    """How many samples are drawn at the same time.

    Attributes:
        taken: samples that are being drawn.
    """

    def __init__(self, most: int, metrics: Metrics) -> None:
        """Start with none.

        Args:
            most: at the same time.
            metrics: counts what was stopped early.
        """
        self.taken = 0
        self._most, self._metrics = most, metrics

    def take(self, samples: int) -> None:
        """Count samples in; `free` must follow.

        Raises:
            ApiError: there are too many; whatever a single request asks for has a place when nothing else is drawn.
        """
        if self.taken and self.taken + samples > self._most:
            raise ApiError(429, "the server is busy: too many samples at the same time; try again", "queue_full")
        self.taken += samples

    def free(self, samples: int, given_up: bool) -> None:
        """Count samples out; `given_up`: whether somebody did not want them any more."""
        self.taken -= samples
        if given_up:
            self._metrics.cancelled.inc()


class TaskGeneration:
    """The samples of one request, each drawn by a task; see `Generation`."""

    def __init__(self, answers: Sequence[Answer], draws: Sequence[Draw], prompt_tokens: int, places: Places) -> None:
        """Start the tasks.

        Args:
            answers: in order.
            draws: fill and conclude them; an `ApiError` of one of them ends the request.
            prompt_tokens: tokens of the prompt.
            places: taken already; freed by `close`.
        """
        self.answers = answers
        self.prompt_tokens = prompt_tokens
        self._places = places
        self._event = asyncio.Event()
        self._failure: ApiError | None = None
        self._tasks = [asyncio.create_task(self._run(draw)) for draw in draws]

    async def _run(self, draw: Draw) -> None:
        try:
            await draw(self._event.set)
        except ApiError as error:
            self._failure = error
        finally:
            self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true, which is looked at whenever an answer may have grown.

        Raises:
            ApiError: there will be no answer.
        """
        while not condition():
            await self._wait()
        self._event.set()

    async def _wait(self) -> None:
        await self._event.wait()
        self._event.clear()
        if self._failure is not None:
            raise self._failure
        for task in self._tasks:
            if task.done():
                task.result()  # a mistake of ours shall not look like a slow backend

    async def steps(self) -> AsyncGenerator[None]:
        """See `Generation.steps`."""
        while True:
            await self._wait()
            yield
            if all(answer.finish_reason for answer in self.answers):
                return
            await asyncio.sleep(_SHORTEST_PAUSE_S)

    def close(self) -> None:
        """See `Generation.close`."""
        for task in self._tasks:
            task.cancel()
        finished = all(answer.finish_reason for answer in self.answers)
        self._places.free(len(self._tasks), not finished and self._failure is None)
