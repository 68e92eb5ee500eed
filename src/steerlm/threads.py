"""How many threads compute on a CPU: measured, for more are ruinous where other programs run.

Two threads that share an operation wait for each other at its end. Where one of them has to share its core with another
program, every one of a model's thousands of operations waits until that program's turn is over: beside one busy core
of two, sampling with two threads has taken fifty times as long as with one.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

_SMALL = 30_000_000
"""Parameters up to which any number of threads may be the fastest; larger models gain from every core that is free."""

_STEPS = 3
"""Steps that measure one number of threads, after one that warms up and does not count (unless it is a huge one)."""

_SECONDS = (0.05, 2.0)
"""Least and most time to measure one number of threads: tiny steps are measured for longer, huge ones once."""

_MARGIN = 1.05
"""More threads must be faster by this factor: they take what other programs could use."""

_WINDOW = (20, 5.0)
"""Steps over which the speed is watched, or seconds where these are over sooner."""

_COLLAPSED = 0.5
"""Share of the speed at the choice below which is chosen again."""

_DISTURBED = 0.8
"""Share of the chosen speed below which the next number of threads shows that other programs run: it is tried again."""

_REST = 20
"""Times as long as trying took, until that is tried again."""

log = logging.getLogger(__name__)

T = TypeVar("T")

_said: set[tuple[str, int]] = set()
"""What the log has been told: once for each kind of work, which has many loops."""


class ThreadChooser:
    """Tries numbers of threads on the first steps, stays with the fastest, and tries again when speed collapses.

    Args:
        candidates: numbers of threads, from few to many.
        apply: sets the number of threads.
        work: what is done, for the log.
        unit: in which its speed is counted, for the log.
    """

    def __init__(self, candidates: list[int], apply: Callable[[int], None], work: str, unit: str = "tokens/s"):
        self._candidates = candidates
        self._apply = apply
        self._work, self._unit = work, unit
        self.threads: int | None = None
        self._start(candidates)

    @property
    def current(self) -> int:
        """How many threads the next step is for."""
        return self._left[0] if self._left else self.threads or self._candidates[-1]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Compute with what is chosen; afterwards the number of threads is as before."""
        before = torch.get_num_threads()
        self._apply(self.current)
        try:
            yield
        finally:
            self._apply(before)

    def _start(self, numbers: list[int]) -> None:
        self._speeds: dict[int, float] = {}
        self._left = list(numbers)
        self._tried_s = 0.0
        self._clear()

    def _clear(self) -> None:
        self._done, self._seconds, self._steps = 0, 0.0, 0

    def step(self, done: int, seconds: float) -> None:
        """Take note of a step.

        Args:
            done: what it did, in a unit that takes about the same time in every step (tokens, say).
            seconds: that it took.
        """
        self._steps += 1
        if self._left:
            self._try(done, seconds)
            return
        self._done += done
        self._seconds += seconds
        self._rest_s -= seconds
        steps, most = _WINDOW
        if self._steps < steps and self._seconds < most:
            return
        if self._done < _COLLAPSED * self._reference * self._seconds:
            numbers = self._candidates
        elif self._rest_s <= 0:
            numbers = self._candidates[self._candidates.index(self.current) :]
        else:
            self._clear()
            return
        self._start(numbers)
        self._apply(self.current)

    def _try(self, done: int, seconds: float) -> None:
        least, most = _SECONDS
        self._tried_s += seconds
        if self._steps == 1 and seconds < most:
            return
        self._done += done
        self._seconds += seconds
        if (self._steps <= _STEPS or self._seconds < least) and self._seconds < most:
            return
        self._speeds[self._left.pop(0)] = self._done / max(self._seconds, 1e-9)
        self._clear()
        if not self._left:
            self._choose()
        self._apply(self.current)

    def _choose(self) -> None:
        numbers = list(self._speeds)
        best = numbers[0]
        for number in numbers[1:]:
            if self._speeds[number] > _MARGIN * self._speeds[best]:
                best = number
        if best < self._candidates[-1] and (self._work, best) not in _said:  # that all compute is what one expects
            _said.add((self._work, best))
            tried = ", ".join(f"{number}: {speed:.0f}" for number, speed in self._speeds.items())
            log.info("%s with %d thread(s), the fastest (%s by threads: %s)", self._work, best, self._unit, tried)
        self.threads, self._reference = best, self._speeds[best]
        more = self._speeds[numbers[numbers.index(best) + 1]] if best != numbers[-1] else math.inf
        self._rest_s = _REST * self._tried_s if more < _DISTURBED * self._reference else math.inf


def thread_chooser(model: torch.nn.Module, work: str, unit: str = "tokens/s") -> ThreadChooser | None:
    """Return what chooses the number of threads on a CPU; None where somebody has said how many, or there is one."""
    most = torch.get_num_threads()
    if torch.accelerator.is_available() or "OMP_NUM_THREADS" in os.environ or most < 2:
        return None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return ThreadChooser(candidates(most, parameters), _set, work, unit)


def candidates(most: int, parameters: int) -> list[int]:
    """Return the numbers of threads to try: 1, 2, 4 … all, or for a large model half of them and all."""
    if parameters > _SMALL:
        return [most // 2, most]
    return [2**i for i in range(most.bit_length()) if 2**i < most] + [most]


def _set(number: int) -> None:
    torch.set_num_threads(number)


def paced(batches: Iterable[T], threads: ThreadChooser | None, done: Callable[[T], int]) -> Iterator[T]:
    """Yield batches, and let `threads` choose by the time that each is worked on; None: the number is given.

    Args:
        done: the tokens of a batch.
    """
    if threads is None:
        yield from batches
        return
    with threads.in_use():
        for batch in batches:
            since = time.perf_counter()
            yield batch
            threads.step(done(batch), time.perf_counter() - since)
