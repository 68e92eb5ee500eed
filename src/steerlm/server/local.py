"""The built-in engine behind the server: a worker decodes for all requests, the event loop reads along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from steerlm.generation.detokenizing import TokenTexts
from steerlm.generation.online import QueueFull, Scheduler, SchedulerStopped
from steerlm.generation.prompting import Prompting
from steerlm.generation.requests import Draw, LogProb, said
from steerlm.generation.worker import Worker
from steerlm.server.backend import Encoding, Plan, Reader, check_room
from steerlm.server.errors import ApiError, model_stopped
from steerlm.server.metrics import Metrics


class LocalBackend:
    """A `Backend` on the built-in engine.

    Attributes:
        scheduler: has the samples decoded.
    """

    cannot_mix = ""

    def __init__(
        self, prompting: Prompting, worker: Worker, batch_size: int, max_waiting: int, metrics: Metrics
    ) -> None:
        """Wait until the worker is ready.

        Raises:
            UserError: the worker could not load the model.
        """
        self.encoder, self.context = prompting.encoder, prompting.context
        self.encoding = Encoding()
        self.scheduler = Scheduler(worker, max_waiting)
        self._prompting, self._batch_size, self._metrics = prompting, batch_size, metrics
        self._texts = TokenTexts(prompting.encoder)

    @property
    def running(self) -> bool:
        return self.scheduler.running

    @property
    def num_running(self) -> int:
        return self.scheduler.num_running

    @property
    def num_waiting(self) -> int:
        return self.scheduler.num_waiting

    async def start(self, plan: Plan) -> LocalGeneration:
        draws = await self.encoding(self._draws, plan)
        readers = [Reader(draw, self.encoder, self._texts, plan) for draw in draws]
        return LocalGeneration(draws, readers, plan.every_step or bool(plan.stop), self.scheduler, self._metrics)

    def _draws(self, plan: Plan) -> list[Draw]:
        messages = said(plan.request.messages)
        return self._prompting.draws(plan.request, plan.sampling, messages, self._batch_size, plan.num_logprobs)

    async def read(self, ids: Sequence[int], num_top: int) -> list[LogProb]:
        check_room(self._prompting.room(len(ids)), len(ids))
        try:
            return await asyncio.wrap_future(self.scheduler.read(ids, num_top))
        except QueueFull:
            raise _busy() from None
        except SchedulerStopped:
            raise model_stopped() from None

    async def close(self) -> None:
        self.scheduler.close()
        self.encoding.close()


class LocalGeneration:
    """The samples of one request while they are decoded; see `Generation`."""

    def __init__(
        self, draws: Sequence[Draw], readers: Sequence[Reader], every_step: bool, scheduler: Scheduler, metrics: Metrics
    ) -> None:
        """Submit samples; `every_step`: whether they must be read while they grow."""
        self.prompt_tokens = max(len(lane.prompt) for lane in draws[0].lanes)
        self.answers = [reader.answer for reader in readers]
        self._draws, self._readers = draws, readers
        self._scheduler, self._metrics = scheduler, metrics
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        try:
            self._job = scheduler.submit(draws, self._notify, every_step=every_step)
        except QueueFull:
            raise _busy() from None
        except SchedulerStopped:
            raise model_stopped() from None

    def _notify(self) -> None:
        """Wake the request, from another thread."""
        self._loop.call_soon_threadsafe(self._event.set)

    async def steps(self) -> AsyncGenerator[None]:
        while True:
            await self._event.wait()
            self._event.clear()
            if not self._scheduler.running and not all(draw.done for draw in self._draws):
                raise model_stopped()
            for reader, draw in zip(self._readers, self._draws, strict=True):
                reader.look()
                if reader.answer.finish_reason is not None and not draw.done:
                    self._scheduler.cancel(self._job, [draw])
            yield
            if all(answer.finish_reason for answer in self.answers):
                return

    def close(self) -> None:
        if not self._job.done:
            if not all(answer.finish_reason for answer in self.answers):
                self._metrics.cancelled.inc()
            self._scheduler.cancel(self._job)


def _busy() -> ApiError:
    return ApiError("queue_full", "the server is busy: too many samples wait; try again")
