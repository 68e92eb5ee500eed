"""The built-in engine behind the server: one thread decodes for all requests, the event loop reads along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor

from steerlm.errors import UserError
from steerlm.generation.decoding import LogProb, Row
from steerlm.generation.detokenizing import ResponseText
from steerlm.generation.engine import LocalEngine, said
from steerlm.generation.online import QueueFull, Scheduler, SchedulerStopped
from steerlm.server.backend import Answer, Order, TokenLogProb
from steerlm.server.errors import ApiError, unusable_prompt
from steerlm.server.metrics import Metrics
from steerlm.template import ConversationEncoder

_SHORTEST_PAUSE_S = 0.015
"""Between two looks at a stream's new tokens: many streams then share a wake-up, and nobody sees the difference."""


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
        return LocalGeneration(rows, order, self.engine.encoder, self.scheduler, self._metrics)

    async def close(self) -> None:
        """See `Backend.close`."""
        self.scheduler.close()
        self._encoding.shutdown(cancel_futures=True)


class LocalGeneration:
    """The samples of one request while they are decoded; see `Generation`."""

    def __init__(
        self, rows: Sequence[Row], order: Order, encoder: ConversationEncoder, scheduler: Scheduler, metrics: Metrics
    ) -> None:
        """Submit samples.

        Raises:
            ApiError: too many samples wait, or the decoding has ended.
        """
        self.prompt_tokens = max(len(lane.prompt) for lane in rows[0].lanes)
        self._readers = [_Reader(row, encoder, order.stop) for row in rows]
        self.answers = [reader.answer for reader in self._readers]
        self._rows = rows
        self._scheduler, self._metrics = scheduler, metrics
        self._every_step = order.every_step or bool(order.stop)
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._signalled = False
        try:
            self._job = scheduler.submit(rows, self._notify)
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
        return all(row.done for row in self._rows) or not self._scheduler.running

    async def steps(self) -> AsyncGenerator[None]:
        """See `Generation.steps`."""
        while True:
            await self._event.wait()
            self._event.clear()
            self._signalled = False
            # read after `_signalled`: whatever comes later wakes us again
            if self._ended and not all(row.done for row in self._rows):
                raise _stopped()
            for reader in self._readers:
                reader.look()
                if reader.answer.finish_reason is not None and not reader.row.done:
                    self._scheduler.cancel(self._job, [reader.row])
            yield
            if all(answer.finish_reason for answer in self.answers):
                return
            await asyncio.sleep(_SHORTEST_PAUSE_S)

    def close(self) -> None:
        """See `Generation.close`."""
        if not self._job.done:
            if not all(answer.finish_reason for answer in self.answers):
                self._metrics.cancelled.inc()
            self._scheduler.cancel(self._job)


class _Reader:
    """Turns a row's tokens into an answer."""

    def __init__(self, row: Row, encoder: ConversationEncoder, stop: Sequence[str]) -> None:
        self.row = row
        self._encoder = encoder
        self._response = ResponseText(encoder, stop)
        self._read = 0
        self.answer = Answer(self._response.text)

    def look(self) -> None:
        """Take in the tokens that are new."""
        row, response, answer = self.row, self._response, self.answer
        if answer.finish_reason is not None:
            return
        done, tokens = row.done, row.tokens
        if done and self._read == 0 and not response.has_stops:
            # nobody has looked before, and nothing can be found on the way
            self._read = response.num_tokens = len(tokens)
            first = 0
        else:
            first = self._read
            while self._read < len(tokens) and not response.stopped:
                response.push(tokens[self._read])
                self._read += 1
        answer.num_tokens = response.num_tokens
        if row.num_logprobs is not None:
            pairs = zip(tokens[first : self._read], row.logprobs[first : self._read], strict=True)
            answer.logprobs += [self._entry(t, p) for t, p in pairs if t not in self._encoder.control_ids]
        if response.stopped or done:
            answer.text = response.finish(tokens)
            answer.finish_reason = "stop" if response.stopped or row.stopped else "length"

    def _entry(self, token: int, logprob: LogProb) -> TokenLogProb:
        return TokenLogProb(
            self._token(token), logprob.drawn, [(self._token(other), value) for other, value in logprob.top]
        )

    def _token(self, token: int) -> str:
        return "" if token in self._encoder.control_ids else self._encoder.decode([token])


def _stopped() -> ApiError:
    return ApiError(503, "the model has stopped; the operator must restart the server", "model_stopped")
