"""The number of threads that train on a CPU: chosen by the speed of the optimizer steps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from steerlm.threads import ThreadChooser, thread_chooser

if TYPE_CHECKING:
    from steerlm.training.trainer import SteerTrainer


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


@contextmanager
def chosen_threads(trainer: SteerTrainer) -> Iterator[None]:
    """Let the training choose how many threads compute, where that is ours to choose; afterwards it is as before."""
    chooser = thread_chooser(trainer.core, "training")
    if chooser is None:
        yield
        return
    trainer.add_callback(ThreadsCallback(trainer, chooser))
    with chooser.in_use():
        yield
