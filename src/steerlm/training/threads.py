"""How many threads train a small model on a CPU: measured, for more are ruinous where other programs run."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

if TYPE_CHECKING:
    from steerlm.training.trainer import SteerTrainer

SMALL = 30_000_000
"""Parameters up to which a model is worth measuring; larger ones gain from every core."""

_STEPS = 4
"""Optimizer steps that measure one number of threads; the first of them warms up and does not count."""

_MARGIN = 1.05
"""More threads must be faster by this factor: they take what other programs could use."""

_WINDOW = 20
"""Steps over which the speed is watched."""

_COLLAPSED = 0.5
"""Share of the speed at the choice below which is chosen again."""

log = logging.getLogger(__name__)


class ThreadChooser:
    """Tries 1, 2, 4 … threads on the first steps, stays with the fastest, and tries again when speed collapses.

    Args:
        most: threads to try, at most.
        apply: sets the number of threads.
    """

    def __init__(self, most: int, apply: Callable[[int], None]):
        self._apply = apply
        self._candidates = [2**i for i in range(most.bit_length()) if 2**i < most] + [most]
        self.threads: int | None = None
        self._start()

    def _start(self) -> None:
        self._speeds: dict[int, float] = {}
        self._left = list(self._candidates)
        self._tokens, self._seconds, self._steps = 0, 0.0, 0
        self._reference = 0.0
        self._apply(self._left[0])

    def step(self, tokens: int, seconds: float) -> None:
        """Take note of an optimizer step."""
        self._steps += 1
        if self._left:
            self._try(tokens, seconds)
            return
        self._tokens += tokens
        self._seconds += seconds
        if self._steps == _WINDOW:
            speed = self._tokens / max(self._seconds, 1e-9)
            self._tokens, self._seconds, self._steps = 0, 0.0, 0
            if speed < _COLLAPSED * self._reference:
                log.info("training fell to %.0f tokens/s with %s thread(s): choosing again", speed, self.threads)
                self._start()

    def _try(self, tokens: int, seconds: float) -> None:
        if self._steps > 1:
            self._tokens += tokens
            self._seconds += seconds
        if self._steps < _STEPS:
            return
        self._speeds[self._left.pop(0)] = self._tokens / max(self._seconds, 1e-9)
        self._tokens, self._seconds, self._steps = 0, 0.0, 0
        if self._left:
            self._apply(self._left[0])
            return
        best = self._candidates[0]
        for number in self._candidates[1:]:
            if self._speeds[number] > _MARGIN * self._speeds[best]:
                best = number
        self.threads, self._reference = best, self._speeds[best]
        self._apply(best)
        tried = ", ".join(f"{number}: {speed:.0f}" for number, speed in self._speeds.items())
        log.info("training with %d thread(s), the fastest (tokens/s by threads: %s)", best, tried)


class ThreadsCallback(TrainerCallback):  # type: ignore[misc]
    """Times the optimizer steps of a training for a `ThreadChooser`; validation and checkpoints do not count."""

    def __init__(self, trainer: SteerTrainer, chooser: ThreadChooser):
        self._trainer = trainer
        self._chooser = chooser
        self._since, self._tokens = 0.0, 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since, self._tokens = time.perf_counter(), self._trainer.tokens

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._chooser.step(self._trainer.tokens - self._tokens, time.perf_counter() - self._since)


def may_choose(model: torch.nn.Module) -> bool:
    """Return whether the number of threads is ours to choose: a small model on a CPU, and nobody has said anything."""
    return (
        not torch.accelerator.is_available()
        and "OMP_NUM_THREADS" not in os.environ
        and torch.get_num_threads() > 1
        and sum(parameter.numel() for parameter in model.parameters()) <= SMALL
    )
