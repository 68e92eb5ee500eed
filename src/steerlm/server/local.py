"""The built-in engine behind the server: one thread decodes for all requests, the event loop reads along."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

from steerlm.errors import UserError
from steerlm.generation.decoding import Row
from steerlm.generation.engine import LocalEngine, said
from steerlm.generation.online import QueueFull, Scheduler, SchedulerStopped
from steerlm.server.backend import Order
from steerlm.server.errors import ApiError, model_stopped, unusable_prompt
from steerlm.server.metrics import Metrics
from steerlm.server.reading import Reader
from steerlm.template import ConversationEncoder

_SHORTEST_PAUSE_S = 0.015
"""Between two looks at the streams' new tokens: they share a wake-up, and nobody sees the difference."""
_PAUSE_PER_STREAM_S = 0.0015
"""Writing to a client takes time from decoding: with many streams they are looked at less often."""


class LocalBackend:
    """A `Backend` on the built-in engine.

    Attributes:
        engine: the steerable model.
        scheduler: decodes.
    """

    guides = True

    def __init__(self, engine: LocalEngine, max_waiting: int, metrics: Metrics) -> None:
        """Start the decoding thread.

        Args:
            engine: the steerable model.
            max_waiting: most samples that may wait for a place in the batch.
            metrics: counts what was stopped early.
        """
        self.engine = engine
        self.scheduler = Scheduler(engine.decoder(), max_waiting)
        self._metrics = metrics
        self._bell = _Bell()
        # one worker: encoding waits in line rather than take the processor from decoding
        self._encoding = ThreadPoolExecutor(1, "steerlm-encoding")

    @property
    def running(self) -> bool:
        """See `Backend.running`."""
        return self.scheduler.running

    @property
    def num_running(self) -> int:
        """See `Backend.num_running`."""
        return self.scheduler.num_running

    @property
    def num_waiting(self) -> int:
        """See `Backend.num_waiting`."""
        return self.scheduler.num_waiting

    async def start(self, order: Order) -> LocalGeneration:
        """See `Backend.start`."""
        loop = asyncio.get_running_loop()
        request = order.request
        try:
            rows = await loop.run_in_executor(
                self._encoding, self.engine.rows, request, order.sampling, said(request.messages), order.num_logprobs
            )
        except UserError as error:
            raise unusable_prompt(error) from None
        return LocalGeneration(rows, order, self.engine.encoder, self.scheduler, self._metrics, self._bell)

    async def close(self) -> None:
        """See `Backend.close`."""
        self.scheduler.close()
        self._encoding.shutdown(cancel_futures=True)


class _Bell:
    """Wakes the streams that have new tokens together and now and then: a wake-up each would slow the decoding down."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[asyncio.Event] = []
        self._resting = False

    def ring(self, loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
        """Let an event be set soon; called in the decoding thread."""
        with self._lock:
            self._waiting.append(event)
            resting, self._resting = self._resting, True
        if not resting:
            loop.call_soon_threadsafe(self._wake, loop)

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            events, self._waiting = self._waiting, []
            self._resting = bool(events)
        for event in events:
            event.set()
        if events:
            loop.call_later(max(_SHORTEST_PAUSE_S, _PAUSE_PER_STREAM_S * len(events)), self._wake, loop)


class LocalGeneration:
    """The samples of one request while they are decoded; see `Generation`."""

    def __init__(
        self,
        rows: Sequence[Row],
        order: Order,
        encoder: ConversationEncoder,
        scheduler: Scheduler,
        metrics: Metrics,
        bell: _Bell,
    ) -> None:
        """Submit samples.

        Raises:
            ApiError: too many samples wait, or the decoding has ended.
        """
        self.prompt_tokens = max(len(lane.prompt) for lane in rows[0].lanes)
        self._readers = [Reader(row, encoder, order.stop) for row in rows]
        self.answers = [reader.answer for reader in self._readers]
        self._rows = rows
        self._scheduler, self._metrics = scheduler, metrics
        self._every_step = order.every_step or bool(order.stop)
        self._loop = asyncio.get_running_loop()
        self._bell = bell
        self._event = asyncio.Event()
        self._signalled = False
        try:
            self._job = scheduler.submit(rows, self._notify)
        except QueueFull:
            raise ApiError(429, "the server is busy: too many samples wait; try again", "queue_full") from None
        except SchedulerStopped:
            raise model_stopped() from None

    def _notify(self) -> None:
        """Wake the request, from the decoding thread: at once at the end, before with others and once at a time."""
        if self._ended:
            self._loop.call_soon_threadsafe(self._event.set)
        elif self._every_step and not self._signalled:
            self._signalled = True
            self._bell.ring(self._loop, self._event)

    @property
    def _ended(self) -> bool:
        return all(row.done for row in self._rows) or not self._scheduler.running

    async def steps(self) -> AsyncGenerator[None]:
        """See `Generation.steps`."""
        while True:
            await self._event.wait()
            self._event.clear()
            self._signalled = False
            # read after `_signalled`: whatever comes later wakes us again
            if self._ended and not all(row.done for row in self._rows):
                raise model_stopped()
            for reader, row in zip(self._readers, self._rows, strict=True):
                reader.look()
                if reader.answer.finish_reason is not None and not row.done:
                    self._scheduler.cancel(self._job, [row])
            yield
            if all(answer.finish_reason for answer in self.answers):
                return

    def close(self) -> None:
        """See `Generation.close`."""
        if not self._job.done:
            if not all(answer.finish_reason for answer in self.answers):
                self._metrics.cancelled.inc()
            self._scheduler.cancel(self._job)
