"""A real server on loopback, with a tiny random model, for tests."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.checkpoint.label_statistics import label_statistics
from steerlm.conversation import Message, Score
from steerlm.generation.decoding import Decoder
from steerlm.generation.engine import LocalEngine
from steerlm.generation.prompting import Prompting
from steerlm.server.app import create_app
from steerlm.server.backend import Backend
from steerlm.server.gate import Keys
from steerlm.server.local import LocalBackend
from steerlm.server.metrics import Metrics
from steerlm.server.policy import Policy, PolicyFile, build_policy
from steerlm.server.run import build_service
from steerlm.server.service import Service, trained_schema
from steerlm.server.upstream import Upstream, UpstreamBackend
from steerlm.server.vllm import VllmBackend
from tests.thread_worker import thread_worker
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

if TYPE_CHECKING:
    from tests.server.fake_vllm import FakeVllm

# httpx gives up after five seconds of silence, which a busy machine may need
for _phase in ("connect", "read", "write", "pool"):
    setattr(httpx._config.DEFAULT_TIMEOUT_CONFIG, _phase, 60)

SCHEMA = AttributeSchema(
    (
        Attribute("quality", best="max", description="How good."),
        Attribute("toxicity", best="min"),
        Attribute("humor"),
        Attribute("verbosity", default=2),
        Attribute("lang", "categorical", categories=("en", "de")),
        Attribute("untrained"),
    )
)
DIALS = "quality 0..4, toxicity 0..4, humor 0..4, verbosity 0..4, lang en|de"


def statistics() -> dict[str, Any]:
    """Label statistics of training data that hold every combination with toxicity 0 or 1, and nothing untrained."""
    combinations = np.array(
        [
            (quality, toxicity, humor, verbosity, lang, -1)
            for quality in range(5)
            for toxicity in range(2)
            for humor in range(5)
            for verbosity in range(5)
            for lang in range(2)
        ],
        dtype=np.int16,
    )
    return label_statistics(combinations, SCHEMA)


class CountingModel:
    """An attribute model that anybody can recompute: humor is the share of vowels, everything else 1."""

    schema = SCHEMA
    fingerprint = "counting"

    def score(
        self, conversations: Sequence[Sequence[Message]], tokens_per_batch: int = 16384
    ) -> list[dict[str, Score] | None]:
        return self.score_encoded(self.encode(conversations), tokens_per_batch)

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[list[int] | None]:
        return [list(messages[-1].content.encode(errors="surrogatepass")) for messages in conversations]

    def score_encoded(
        self, rows: Sequence[list[int] | None], tokens_per_batch: int = 16384
    ) -> list[dict[str, Score] | None]:
        return [None if row is None else counted(bytes(row).decode(errors="surrogatepass")) for row in rows]

    def values(self, scores: Mapping[str, Score]) -> dict[str, Value]:
        return {a.name: a.round(scores[a.name].mean) if a.kind == "ordinal" else a.categories[0] for a in self.schema}


def counted(text: str) -> dict[str, Score]:
    vowels = sum(c in "aeiouAEIOU" for c in text)
    scores = {a.name: Score(1.0, 0.1) for a in SCHEMA if a.kind == "ordinal"}
    scores["humor"] = Score(4 * vowels / max(1, len(text)), 0.1)
    scores["lang"] = Score(0.0, 0.0, {"en": 0.75, "de": 0.25})
    return scores


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is true.

    Raises:
        AssertionError: it is not after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class WatchedEngine(LocalEngine):
    """An engine that tests can reach into.

    Attributes:
        latest: its latest decoder for requests that come at any time.
    """

    latest: Decoder

    def decoder(self) -> Decoder:
        self.latest = super().decoder()
        return self.latest


def tiny_engine(batch_size: int = 16, context: int = 512, seed: int = 22) -> WatchedEngine:
    """Return an engine whose random answers end now and then."""
    tokenizer = byte_tokenizer(SCHEMA)
    model = random_model(tiny_llama_config(len(tokenizer), context), seed, 0.25)
    return WatchedEngine(model, tokenizer, SCHEMA, batch_size)


_ENGINES: WeakKeyDictionary[Service, WatchedEngine] = WeakKeyDictionary()
"""Of the services with the built-in engine: they hold no more than a pipe to it."""


def _service(
    policy: Mapping[str, Any] | None, key_names: Sequence[str], make: Callable[[Policy, Metrics], Backend]
) -> Service:
    info = CheckpointInfo("sft", SCHEMA, "steerlm", label_statistics=statistics())
    checked = build_policy(PolicyFile.model_validate(policy or {}), trained_schema(info), list(key_names), "policy")
    return build_service(("tiny",), info, checked, CountingModel(), lambda metrics: make(checked, metrics))


def tiny_service(policy: Mapping[str, Any] | None = None, key_names: Sequence[str] = (), **engine: int) -> Service:
    """Return a service with the tiny model and the counting attribute model."""
    watched = tiny_engine(**engine)

    def make(policy: Policy, metrics: Metrics) -> Backend:
        worker = thread_worker(watched.decoder())
        return LocalBackend(watched.prompting, worker, watched.batch_size, policy.limits.max_waiting, metrics)

    service = _service(policy, key_names, make)
    _ENGINES[service] = watched
    return service


def tiny_upstream_service(
    upstream: Upstream, policy: Mapping[str, Any] | None = None, key_names: Sequence[str] = ()
) -> Service:
    """Return a service whose answers another server draws, with the counting attribute model."""
    tokenizer = byte_tokenizer(SCHEMA)
    prompting = Prompting(tokenizer, SCHEMA, tiny_llama_config(len(tokenizer)))

    def make(policy: Policy, metrics: Metrics) -> Backend:
        limits = policy.limits
        return UpstreamBackend(upstream, prompting, limits.max_waiting, limits.upstream_timeout_s, metrics)

    return _service(policy, key_names, make)


def tiny_vllm_service(llm: FakeVllm, policy: Mapping[str, Any] | None = None, key_names: Sequence[str] = ()) -> Service:
    """Return a service whose answers a stand-in for vLLM draws, with the counting attribute model."""

    def make(policy: Policy, metrics: Metrics) -> Backend:
        return VllmBackend(llm, llm.engine.prompting, policy.limits.max_waiting, metrics)

    return _service(policy, key_names, make)


@dataclass(frozen=True)
class Running:
    """A server that listens.

    Attributes:
        url: its address.
        service: what it serves.
        app: the application.
    """

    url: str
    service: Service
    app: FastAPI

    @property
    def engine(self) -> WatchedEngine:
        """The engine whose decoder a thread of this process runs."""
        return _ENGINES[self.service]

    @property
    def local(self) -> LocalBackend:
        """The backend that talks to it."""
        assert isinstance(self.service.backend, LocalBackend)
        return self.service.backend


@contextlib.contextmanager
def running(service: Service, keys: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Serve on a free port of loopback, in a thread."""
    app = create_app(service, Keys(dict(keys or {})), loopback=True)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.005)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(f"http://127.0.0.1:{port}", service, app)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"
        assert not service.backend.running
