"""Where decoding happens while others talk to clients: a process of its own.

A worker has a pipe. It takes samples and cancellations from it, decodes without pause and tells what has come of them;
`steerlm.generation.online.Scheduler` is the other end. Python runs one thread at a time: in one process, the texts of
many clients would take turns with the decoding.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Protocol

from steerlm.errors import UserError
from steerlm.generation.decoding import Decoder
from steerlm.generation.engine import load_engine
from steerlm.generation.requests import Draw, LogProb

_PAUSE_S = 0.012
"""Between two reports about samples that only grow: writing to a client costs more than drawing a token."""
_MOST_AT_ONCE = 8
"""Such samples in one report: with many they take turns, or those who write would do nothing else for too long."""


class Submitted(NamedTuple):
    """Samples that somebody wants, and whether to see them grow."""

    job: int
    rows: Sequence[Draw]
    every_step: bool


class Cancelled(NamedTuple):
    """Samples that nobody wants any more, by their places in the job."""

    job: int
    places: Sequence[int]


class Reading(NamedTuple):
    """A text, as ids, of which somebody wants the log-probabilities, with so many of the likeliest tokens."""

    number: int
    ids: Sequence[int]
    num_top: int


class Read(NamedTuple):
    """The answer to a `Reading`: of every token but the first."""

    number: int
    logprobs: list[LogProb]


class Ready(NamedTuple):
    """The first message of a worker: the model is loaded, or why it is not."""

    mistake: str | None


class Counts(NamedTuple):
    """How many samples are being decoded and wait for that, and the last job among them."""

    running: int
    waiting: int
    last_job: int


class Growth(NamedTuple):
    """What is new of a sample, by its job and its place there."""

    job: int
    place: int
    tokens: list[int]
    logprobs: list[LogProb]
    stopped: bool


class Report(NamedTuple):
    """What a worker tells; None is its last word."""

    counts: Counts
    growths: list[Growth]


Wanted = Submitted | Cancelled | Reading | None
"""What a worker is told; None ends it."""


class _Joinable(Protocol):
    def join(self) -> None: ...


class Worker(NamedTuple):
    """A worker that runs.

    Attributes:
        connection: our end of its pipe; it ends when this is closed.
        body: its thread or process.
    """

    connection: Connection
    body: _Joinable


def process_worker(path: str | Path, batch_size: int) -> Worker:
    """Start a worker that loads a steerable checkpoint, as `load_engine` does, and return at once."""
    ours, theirs = multiprocessing.Pipe()
    # not forked: this process may hold threads and a GPU
    process = multiprocessing.get_context("spawn").Process(
        target=_load_and_work, args=(path, batch_size, theirs), name="steerlm-decoding", daemon=True
    )
    process.start()
    theirs.close()  # or its end would not be noticed
    return Worker(ours, process)


def _load_and_work(path: str | Path, batch_size: int, connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both: the one that listens ends in order, then this
    try:
        decoder = load_engine(path, batch_size=batch_size).decoder()
    except UserError as error:
        connection.send(Ready(str(error)))
        return
    gc.collect()
    gc.freeze()  # what has been loaded stays: a collector that looked through all of it would stop every sample
    work(decoder, connection)


def work(decoder: Decoder, connection: Connection) -> None:
    """Decode what comes through the connection until its other end is gone; only this uses the decoder from now on."""
    try:
        connection.send(Ready(None))
        with decoder.in_use():
            _Loop(decoder, connection).run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # nobody listens any more
    finally:
        # closing would not end what `_receive` waits for
        with contextlib.suppress(OSError):
            connection.send(None)


class _Loop:
    """Decodes whatever comes."""

    def __init__(self, decoder: Decoder, connection: Connection) -> None:
        self._decoder, self._connection = decoder, connection
        self._inbox: queue.SimpleQueue[Wanted] = queue.SimpleQueue()
        self._readings: deque[Reading] = deque()
        self._jobs: dict[int, Sequence[Draw]] = {}
        self._places: dict[Draw, tuple[int, int]] = {}
        self._told: dict[Draw, int] = {}
        self._silent: set[Draw] = set()
        self._grown: dict[Draw, None] = {}
        self._last_job = -1
        self._counts = Counts(0, 0, -1)
        self._next_report = 0.0

    def run(self) -> None:
        """Decode until the other end wants no more."""
        # whoever sends must never wait for a step to end
        threading.Thread(target=self._receive, name="steerlm-inbox", daemon=True).start()
        while self._take():
            if self._readings:  # one between two steps: those who draw wait no longer than for a prompt
                reading = self._readings.popleft()
                self._connection.send(Read(reading.number, self._decoder.read(reading.ids, reading.num_top)))
            rows = self._decoder.step()
            self._grown |= dict.fromkeys(row for row in rows if row.done or row not in self._silent)
            self._report()

    def _receive(self) -> None:
        message: Wanted
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError):  # the other end is gone
                message = None
            self._inbox.put(message)
            if message is None:
                return

    def _take(self) -> bool:
        """Wait for work and hand it to the decoder; returns whether to go on."""
        if not self._decoder.busy and not self._readings and not self._handle(self._inbox.get()):
            return False
        while True:
            try:
                message = self._inbox.get_nowait()
            except queue.Empty:
                return True
            if not self._handle(message):
                return False

    def _handle(self, message: Wanted) -> bool:
        match message:
            case Submitted(job, rows, every_step):
                self._silent.update(() if every_step else rows)
                self._jobs[job] = rows
                self._places |= {row: (job, place) for place, row in enumerate(rows)}
                self._told |= dict.fromkeys(rows, 0)
                self._decoder.add(rows)
                self._last_job = job
            case Cancelled(job, places):
                for row in [self._jobs[job][place] for place in places] if job in self._jobs else []:
                    row.cancelled = True
                    self._forget(row)
            case Reading():
                self._readings.append(message)
        return message is not None

    def _report(self) -> None:
        """Tell about beginnings and ends at once, about what only grows now and then."""
        now = time.monotonic()
        if now >= self._next_report:
            # those about whom nobody was told for the longest time come first
            turn = set(itertools.islice(self._grown, _MOST_AT_ONCE))
            self._next_report = now + _PAUSE_S
        else:
            turn = set()
        rows = [row for row in self._grown if row in turn or row.done or self._told[row] == 0]
        counts = Counts(self._decoder.num_running, self._decoder.num_waiting, self._last_job)
        if not rows and counts == self._counts:
            return
        self._counts = counts
        self._connection.send(Report(counts, [self._growth(row) for row in rows]))
        for row in rows:
            del self._grown[row]
            if row.done:
                self._forget(row)

    def _growth(self, row: Draw) -> Growth:
        begin = self._told[row]
        self._told[row] = len(row.tokens)
        return Growth(*self._places[row], row.tokens[begin:], row.logprobs[begin:], row.stopped)

    def _forget(self, row: Draw) -> None:
        if row not in self._places:
            return
        job, _ = self._places.pop(row)
        del self._told[row]
        self._silent.discard(row)
        self._grown.pop(row, None)
        if not any(other in self._places for other in self._jobs[job]):
            del self._jobs[job]
