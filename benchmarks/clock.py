"""Times the training loop of any Hugging Face Trainer from outside, so that both sides are watched by the same eyes.

A callback that every Trainer of the process gets leaves out the warm-up steps, counts what the later ones trained on
and ends the training once that is enough, before it validates or saves anything.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Enough(Exception):
    """Ends a training that has been measured."""


class Clock(TrainerCallback):  # type: ignore[misc]
    """Measures one training.

    Args:
        warmup_steps: optimizer steps before the measurement.
        tokens: real tokens to train on while it is measured; the step that reaches them is the last.

    Attributes:
        batch_tokens: real tokens of every batch so far.
        losses: mean loss of every step.
        seconds: what the measured steps took.
        cpu_seconds: processor time of them, of all threads: what other programs do to `seconds` it hardly shows.
    """

    def __init__(self, warmup_steps: int, tokens: int):
        self.batch_tokens: list[int] = []
        self.losses: list[Tensor] = []
        self.seconds = 0.0
        self.cpu_seconds = 0.0
        self._warmup_steps = warmup_steps
        self._tokens = tokens
        self._steps = 0
        self._began = 0.0
        self._cpu_began = 0.0

    @property
    def timed_tokens(self) -> int:
        """Real tokens of the measured steps."""
        return sum(self.batch_tokens[self._warmup_steps : self._steps])

    @property
    def trained_tokens(self) -> int:
        """Real tokens of all steps."""
        return sum(self.batch_tokens[: self._steps])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start after the warm-up, stop after enough tokens."""
        self._steps += 1
        if self._steps < self._warmup_steps:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if self._steps == self._warmup_steps:
            self._began, self._cpu_began = time.perf_counter(), time.process_time()
        elif self.timed_tokens >= self._tokens:
            self.seconds = time.perf_counter() - self._began
            self.cpu_seconds = time.process_time() - self._cpu_began
            raise Enough

    def facts(self) -> dict[str, Any]:
        """Return what was trained, and the mean loss of the first and of the last quarter of the steps."""
        losses = [float(loss) for loss in self.losses[: self._steps]]
        quarter = max(1, len(losses) // 4)
        return {
            "steps": self._steps,
            "trained_tokens": self.trained_tokens,
            "timed_tokens": self.timed_tokens,
            "cpu_seconds": round(self.cpu_seconds, 2),
            "first_loss": round(sum(losses[:quarter]) / quarter, 4),
            "last_loss": round(sum(losses[-quarter:]) / quarter, 4),
        }


def watch(clock: Clock, train: Callable[[], object]) -> None:
    """Make a Trainer and run it under the clock, which ends it.

    Args:
        clock: what is to be filled.
        train: constructs the Trainer (which takes the callback then) and trains.
    """
    transformers.trainer.DEFAULT_CALLBACKS.append(clock)
    original = Trainer.training_step

    def observed(self: Trainer, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        # ours says how many tokens a batch has with every shared prompt counted as often as it occurs
        tokens = inputs["num_tokens"] if "num_tokens" in inputs else inputs["attention_mask"].sum()
        clock.batch_tokens.append(int(tokens))
        loss: Tensor = original(self, model, inputs, *args, **kwargs)
        clock.losses.append(loss.detach())
        return loss

    Trainer.training_step = observed
    try:
        train()
    except Enough:
        return
    finally:
        Trainer.training_step = original
        transformers.trainer.DEFAULT_CALLBACKS.remove(clock)
    raise AssertionError(f"the training ended after {len(clock.losses)} steps: too little data to measure")


def shuffled_batches(order: list[int], rows: int, seed: int) -> list[int]:
    """Return an epoch's order with its batches of `rows` in another order, each with the same members.

    A sampler that goes from long to short would otherwise show only its longest batches to a short measurement.
    """
    whole = [order[i : i + rows] for i in range(0, len(order) - rows + 1, rows)]
    generator = torch.Generator().manual_seed(seed)
    return list(itertools.chain.from_iterable(whole[i] for i in torch.randperm(len(whole), generator=generator)))
