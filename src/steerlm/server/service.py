"""What the routes share: the model, its scheduler, the attribute model, the policy, and running one request."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from steerlm.attribute_models.scoring import AttributeModel
from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.conversation import Message, Score
from steerlm.errors import UserError
from steerlm.generation.decoding import Row
from steerlm.generation.engine import LocalEngine, Request, Sampling, said
from steerlm.generation.online import Job, QueueFull, Scheduler, SchedulerStopped
from steerlm.server.errors import ApiError
from steerlm.server.feasibility import TrainedCombinations
from steerlm.server.metrics import Metrics
from steerlm.server.policy import Policy
from steerlm.server.steering import Dials

_SHORTEST_PAUSE_S = 0.015
"""Between two looks at a stream's new tokens: many streams then share a wake-up, and nobody sees the difference."""
_SCORING_TOKENS = 4096


@dataclass(eq=False)
class Service:
    """A deployment.

    Attributes:
        name: the model's name in the API.
        engine: the steerable model.
        schema: the attributes it was trained on.
        trained: which combinations of them.
        policy: locks, presets, limits.
        attribute_model: scores answers; None where none was given.
        created: when the server started, in Unix seconds.
        metrics: counters and gauges.
        scheduler: decodes.
    """

    name: str
    engine: LocalEngine
    schema: AttributeSchema
    trained: TrainedCombinations
    policy: Policy
    attribute_model: AttributeModel | None
    created: int
    metrics: Metrics
    scheduler: Scheduler
    _running: Counter[str | None] = field(default_factory=Counter)
    # one worker each: encoding and scoring wait in line rather than take the processor from decoding
    _encoding: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "steerlm-encoding"))
    _scoring: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "steerlm-scoring"))

    def dials(self, caller: str | None) -> Dials:
        """Return what a caller, named by its key, may set."""
        return Dials(self.schema, self.policy.locks(caller), self.policy)

    @contextlib.contextmanager
    def admitted(self, caller: str | None) -> Iterator[None]:
        """Count a request of a caller while it runs.

        Raises:
            ApiError: the caller has too many requests at the same time.
        """
        most = self.policy.limits.max_requests_per_key
        if self._running[caller] >= most:
            raise ApiError(429, f"too many requests at the same time, at most {most}; try again", "too_many_requests")
        self._running[caller] += 1
        try:
            yield
        finally:
            self._running[caller] -= 1

    async def rows(self, request: Request, sampling: Sampling, num_logprobs: int | None) -> list[Row]:
        """Return the samples of a request, not decoded yet.

        Raises:
            ApiError: a prompt that cannot be encoded or leaves no room in the context.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(
                self._encoding, self.engine.rows, request, sampling, said(request.messages), num_logprobs
            )
        except UserError as error:
            code = "context_length_exceeded" if "context" in str(error) else "invalid_messages"
            raise ApiError(400, str(error), code, "messages") from None

    async def score(self, conversations: Sequence[Sequence[Message]]) -> list[dict[str, Score] | None]:
        """Score the last turn of each conversation.

        Raises:
            ApiError: there is no attribute model, or a conversation is malformed.
        """
        model = self.attribute_model
        if model is None:
            raise ApiError(
                400, "scores need an attribute model; start the server with --attribute-model", "no_attribute_model"
            )
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._scoring, model.score, conversations, _SCORING_TOKENS)
        except UserError as error:
            raise ApiError(400, str(error), "invalid_messages", "messages") from None

    def close(self) -> None:
        """End all threads."""
        self.scheduler.close()
        self._encoding.shutdown(cancel_futures=True)
        self._scoring.shutdown(cancel_futures=True)


class Generation:
    """The samples of one request while they are decoded; `close` frees their places."""

    def __init__(self, service: Service, rows: Sequence[Row], every_step: bool) -> None:
        """Submit samples.

        Args:
            service: whose scheduler decodes them.
            rows: the samples.
            every_step: whether to look at them before all are done.

        Raises:
            ApiError: too many samples wait, or the decoding has ended.
        """
        self.rows = rows
        self._service = service
        self._every_step = every_step
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + service.policy.limits.request_timeout_s
        self._event = asyncio.Event()
        self._signalled = False
        self._job: Job | None = None
        try:
            self._job = service.scheduler.submit(rows, self._notify)
        except QueueFull:
            raise ApiError(429, "the server is busy: too many samples wait; try again", "queue_full") from None
        except SchedulerStopped:
            raise _stopped() from None

    def _notify(self) -> None:
        """Wake the request, from the decoding thread; one wake-up at a time."""
        wanted = self._every_step or self._ended
        if wanted and not self._signalled:
            self._signalled = True
            self._loop.call_soon_threadsafe(self._event.set)

    @property
    def _ended(self) -> bool:
        return all(row.done for row in self.rows) or not self._service.scheduler.running

    async def steps(self) -> AsyncIterator[bool]:
        """Yield when there may be new tokens, and at the end, with whether it is the end.

        Raises:
            ApiError: the decoding has ended without finishing the samples, or the time is up.
        """
        while True:
            try:
                async with asyncio.timeout_at(self._deadline):
                    await self._event.wait()
            except TimeoutError:
                seconds = self._service.policy.limits.request_timeout_s
                raise ApiError(408, f"the answer took longer than {seconds:g} s", "request_timeout") from None
            self._event.clear()
            self._signalled = False
            # read after `_signalled`: whatever comes later wakes us again
            ended = self._ended
            if ended and not all(row.done for row in self.rows):
                raise _stopped()
            yield ended
            if ended:
                return
            await asyncio.sleep(_SHORTEST_PAUSE_S)

    def drop(self, row: Row) -> None:
        """Free the place of one sample."""
        assert self._job is not None
        if not row.done:
            self._service.scheduler.cancel(self._job, [row])

    def close(self) -> None:
        """Free the places of samples that are not done."""
        assert self._job is not None
        if not self._job.done:
            self._service.metrics.cancelled.inc()
            self._service.scheduler.cancel(self._job)


def _stopped() -> ApiError:
    return ApiError(503, "the model has stopped; the operator must restart the server", "model_stopped")


def trained_schema(info: CheckpointInfo) -> AttributeSchema:
    """Return the attributes that a checkpoint was trained on.

    Raises:
        UserError: there are none.
    """
    statistics: Mapping[str, Mapping[str, object]] = info.label_statistics.get("attributes", {})
    # a checkpoint without statistics (made elsewhere) is taken at its word
    names = [name for name in info.schema.names if name not in statistics or statistics[name]["n"]]
    if not info.conditioning or not names:
        raise UserError(
            "this model was trained without attributes: there is nothing to steer; serve it with any server"
        )
    return AttributeSchema(tuple(info.schema[name] for name in names))


def random_seed() -> int:
    """Return a seed for a request that brings none."""
    return secrets.randbits(62)
