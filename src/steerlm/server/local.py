"""The built-in engine behind the server: a worker decodes for all requests, the event loop reads along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from steerlm.generation.online import QueueFull, Scheduler, SchedulerStopped
from steerlm.generation.prompting import Prompting
from steerlm.generation.requests import said
from steerlm.generation.rows import Row
from steerlm.generation.worker import Worker
from steerlm.server.backend import Order
from steerlm.server.encoding import Encoding
from steerlm.server.errors import ApiError, model_stopped
from steerlm.server.metrics import Metrics
from steerlm.server.reading import Reader
from steerlm.template import ConversationEncoder


class LocalBackend:
    """A `Backend` on the built-in engine.

    Attributes:
        encoder: of the model.
        scheduler: has the samples decoded.
    """

    guides = True

    def __init__(
        self, prompting: Prompting, worker: Worker, batch_size: int, max_waiting: int, metrics: Metrics
    ) -> None:
        """Wait until the worker is ready.

        Args:
            prompting: of the model.
            worker: decodes.
            batch_size: most samples decoded together.
            max_waiting: most samples that may wait for a place in the batch.
            metrics: counts what was stopped early.

        Raises:
            UserError: the worker could not load the model.
        """
        self.encoder = prompting.encoder
        self.scheduler = Scheduler(worker, max_waiting)
        self._prompting, self._batch_size, self._metrics = prompting, batch_size, metrics
        self._encoding = Encoding()

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
        rows = await self._encoding(self._rows, order)
        return LocalGeneration(rows, order, self.encoder, self.scheduler, self._metrics)

    def _rows(self, order: Order) -> list[Row]:
        request = order.request
        return self._prompting.rows(
            request, order.sampling, said(request.messages), self._batch_size, order.num_logprobs
        )

    async def close(self) -> None:
        """See `Backend.close`."""
        self.scheduler.close()
        self._encoding.close()


class LocalGeneration:
    """The samples of one request while they are decoded; see `Generation`."""

    def __init__(
        self,
        rows: Sequence[Row],
        order: Order,
        encoder: ConversationEncoder,
        scheduler: Scheduler,
        metrics: Metrics,
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
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        try:
            # an answer that may be cut must be read while it grows
            self._job = scheduler.submit(rows, self._notify, every_step=order.every_step or bool(order.stop))
        except QueueFull:
            raise ApiError(429, "the server is busy: too many samples wait; try again", "queue_full") from None
        except SchedulerStopped:
            raise model_stopped() from None

    def _notify(self) -> None:
        """Wake the request, from another thread."""
        self._loop.call_soon_threadsafe(self._event.set)

    @property
    def _ended(self) -> bool:
        return all(row.done for row in self._rows) or not self._scheduler.running

    async def steps(self) -> AsyncGenerator[None]:
        """See `Generation.steps`."""
        while True:
            await self._event.wait()
            self._event.clear()
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
