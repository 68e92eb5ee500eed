"""The decode loop for requests that come at any time: one thread decodes, others submit samples and cancel them.

    scheduler = Scheduler(engine.decoder(), max_waiting=256)
    job = scheduler.submit(engine.rows(request, sampling, said(request.messages)), notify=print)
    ...                       # job.rows fill up; `notify` is called in the decoding thread after each step
    scheduler.close()

Samples of all jobs share the batch and get, greedy or seeded and with fp32 weights, token for token what they would get
alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steerlm.generation.decoding import Decoder, Row


class QueueFull(Exception):
    """As many samples wait as may wait."""


class SchedulerStopped(Exception):
    """The decoding thread has ended, by `close` or by an error that it printed."""


@dataclass(eq=False)
class Job:
    """Samples that somebody waits for.

    Attributes:
        rows: the samples; the decoding thread fills them.
        notify: called in the decoding thread after every step that gave one of the rows a token or ended it, and when
            the thread ends; must be quick and must not raise.
    """

    rows: Sequence[Row]
    notify: Callable[[], None]

    @property
    def done(self) -> bool:
        return all(row.done for row in self.rows)


class Scheduler:
    """Owns the decoding thread."""

    def __init__(self, decoder: Decoder, max_waiting: int) -> None:
        """Start the thread.

        Args:
            decoder: only this thread uses it from now on.
            max_waiting: most samples that may wait for a place in the batch.
        """
        self._decoder = decoder
        self._max_waiting = max_waiting
        self._condition = threading.Condition()
        self._submitted: list[Job] = []
        self._cancelled: list[tuple[Job, Sequence[Row]]] = []
        self._owners: dict[Row, Job] = {}
        self._closed = False
        self._stopped = False
        self.num_running = 0
        """Samples that are being decoded."""
        self.num_waiting = 0
        """Samples that wait for a place in the batch."""
        self._thread = threading.Thread(target=self._run, name="steerlm-decoding", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        """Whether the decoding thread is alive."""
        return not self._stopped

    def submit(self, rows: Sequence[Row], notify: Callable[[], None]) -> Job:
        """Let samples be decoded.

        Args:
            rows: the samples.
            notify: see `Job`.

        Raises:
            QueueFull: too many samples wait; these too would.
            SchedulerStopped: the thread has ended.
        """
        job = Job(rows, notify)
        with self._condition:
            if self._closed or self._stopped:
                raise SchedulerStopped
            waiting = self.num_waiting + sum(len(other.rows) for other in self._submitted)
            if waiting and waiting + len(rows) > self._max_waiting:
                raise QueueFull
            self._submitted.append(job)
            self._condition.notify()
        return job

    def cancel(self, job: Job, rows: Sequence[Row] | None = None) -> None:
        """Free the places of a job's samples (or of some of them) before the next step; no harm where they are done."""
        with self._condition:
            self._cancelled.append((job, job.rows if rows is None else rows))
            self._condition.notify()

    def close(self) -> None:
        """End the thread after its current step; jobs that are not done stay so, and are notified."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take():
                running = self._decoder.step()
                touched = {self._owners[row]: None for row in running}
                for row in running:
                    if row.done:
                        del self._owners[row]
                self.num_running, self.num_waiting = self._decoder.num_running, self._decoder.num_waiting
                for job in touched:
                    job.notify()
        finally:
            with self._condition:
                self._stopped = True
                left = dict.fromkeys((*self._owners.values(), *self._submitted))
            for job in left:
                job.notify()

    def _take(self) -> bool:
        """Wait for work and hand it to the decoder; returns whether to go on."""
        with self._condition:
            self._condition.wait_for(lambda: self._closed or self._submitted or self._cancelled or self._decoder.busy)
            submitted, self._submitted = self._submitted, []
            cancelled, self._cancelled = self._cancelled, []
            # counted as waiting from now on, or two submitters would both find room
            self.num_waiting += sum(len(job.rows) for job in submitted)
            if self._closed:
                self._owners |= {row: job for job in submitted for row in job.rows}
                return False
        for job in submitted:
            self._owners |= dict.fromkeys(job.rows, job)
            self._decoder.add(job.rows)
        for job, rows in cancelled:
            for row in rows:
                row.cancelled = True
                self._owners.pop(row, None)
            job.notify()
        return True
