"""Decoding of requests that come at any time: a worker decodes, others submit samples and cancel them.

    scheduler = Scheduler(process_worker("runs/playground/bootstrap/model", batch_size=64), max_waiting=256)
    job = scheduler.submit(prompting.draws(request, sampling, said(request.messages), 64), notify=print)
    ...                       # job.rows fill up; `notify` is called now and then, in a thread of its own
    scheduler.close()

Samples of all jobs share the batch and get, greedy or seeded and with fp32 weights, token for token what they would get
alone.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from steerlm.errors import UserError
from steerlm.generation.requests import Draw, LogProb
from steerlm.generation.worker import Cancelled, Counts, Growth, Read, Reading, Report, Submitted, Wanted, Worker


class QueueFull(Exception):
    """As many samples wait as may wait."""


class SchedulerStopped(Exception):
    """The worker has ended, by `close` or by an error that it printed."""


@dataclass(eq=False)
class Job:
    """Samples that somebody waits for.

    Attributes:
        rows: the samples; they fill up.
        notify: called after news of one of the rows, and when the worker ends; must be quick and must not raise.
    """

    number: int
    rows: Sequence[Draw]
    notify: Callable[[], None]

    @property
    def done(self) -> bool:
        return all(row.done for row in self.rows)


class Scheduler:
    """Gives a worker its samples and takes in what has come of them.

    Attributes:
        running: whether the worker is alive.
    """

    def __init__(self, worker: Worker, max_waiting: int) -> None:
        """Wait until the worker is ready."""
        self._connection, self._body = worker
        self._max_waiting = max_waiting
        self._lock = threading.Lock()
        self._jobs: dict[int, Job] = {}
        self._readings: dict[int, Future[list[LogProb]]] = {}
        self._num_submitted = self._num_readings = 0
        self._counts = Counts(0, 0, -1)
        try:
            mistake = self._connection.recv().mistake
        except EOFError:
            mistake = "the process that loads the model has ended; is there too little memory?"
        if mistake is not None:
            raise UserError(mistake)
        self.running = True
        self._reader = threading.Thread(target=self._read, name="steerlm-reports", daemon=True)
        self._reader.start()

    @property
    def num_running(self) -> int:
        """Samples that are being decoded."""
        return self._counts.running

    @property
    def num_waiting(self) -> int:
        """Samples that wait for a place in the batch."""
        counts = self._counts
        new = [job for job in tuple(self._jobs.values()) if job.number > counts.last_job]
        return counts.waiting + sum(len(job.rows) for job in new)

    def submit(self, rows: Sequence[Draw], notify: Callable[[], None], every_step: bool = True) -> Job:
        """Let samples be decoded.

        Args:
            notify: see `Job`.
            every_step: whether somebody wants to see them grow; otherwise they come when they are done, each at once.
        """
        with self._lock:
            waiting = self.num_waiting
            if not self.running:
                raise SchedulerStopped
            if waiting and waiting + len(rows) > self._max_waiting:
                raise QueueFull
            job = Job(self._num_submitted, rows, notify)
            self._num_submitted += 1
            self._jobs[job.number] = job
            self._send(Submitted(job.number, rows, every_step))
        return job

    def read(self, ids: Sequence[int], num_top: int) -> Future[list[LogProb]]:
        """Ask for the log-probabilities of every token of a text but the first, with those of the likeliest ones."""
        with self._lock:
            if not self.running:
                raise SchedulerStopped
            if self._readings and len(self._readings) >= self._max_waiting:
                raise QueueFull
            future: Future[list[LogProb]] = Future()
            future.set_running_or_notify_cancel()
            self._readings[self._num_readings] = future
            self._send(Reading(self._num_readings, ids, num_top))
            self._num_readings += 1
        return future

    def cancel(self, job: Job, rows: Sequence[Draw] | None = None) -> None:
        """Free the places of a job's samples (or of some of them) before the next step; no harm where they are done."""
        gone = [row for row in (job.rows if rows is None else rows) if not row.done]
        if not gone:
            return
        with self._lock:
            for row in gone:
                row.cancelled = True
            self._send(Cancelled(job.number, [place for place, row in enumerate(job.rows) if row in gone]))
            if job.done:
                self._jobs.pop(job.number, None)
        job.notify()

    def close(self) -> None:
        """End the worker after its current step; jobs that are not done stay so, and are notified."""
        with self._lock:
            self.running = False
            self._send(None)
        self._body.join()
        self._reader.join()
        self._connection.close()

    def _send(self, message: Wanted) -> None:
        with contextlib.suppress(OSError):  # the worker has ended: `_read` says so to everybody
            self._connection.send(message)

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):  # the worker was killed
            while (report := self._connection.recv()) is not None:
                if isinstance(report, Read):
                    self._readings.pop(report.number).set_result(report.logprobs)
                else:
                    self._take(report)
        with self._lock:
            self.running = False
            left, unread = list(self._jobs.values()), list(self._readings.values())
        for job in left:
            job.notify()
        for future in unread:
            future.set_exception(SchedulerStopped())

    def _take(self, report: Report) -> None:
        touched: dict[Job, None] = {}
        with self._lock:
            self._counts = report.counts
            for growth in report.growths:
                job = self._jobs.get(growth.job)
                if job is not None:
                    _grow(job.rows[growth.place], growth)
                    touched[job] = None
            for job in touched:
                if job.done:
                    del self._jobs[job.number]
        for job in touched:
            job.notify()


def _grow(row: Draw, growth: Growth) -> None:
    """Add what is new; whoever reads at the same time sees tokens with their probabilities, and the end last."""
    if not row.cancelled:
        row.logprobs += growth.logprobs
        row.tokens += growth.tokens
        row.stopped = growth.stopped
