"""When a training writes its metrics, saves and stops; the loop itself is Hugging Face's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from steerlm.training.trainer import SteerTrainer


class FlowCallback(TrainerCallback):  # type: ignore[misc]
    """Stops on a loss that is not finite, logs before every checkpoint, stops early, writes metrics.jsonl."""

    def __init__(self, metrics: Path, patience: int | None):
        self.metrics = metrics
        self.patience = patience
        self.trainer: SteerTrainer | None = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        assert self.trainer is not None
        self.trainer.stop_if_not_finite()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # a logged mean must not straddle a checkpoint, or a resumed run would log another number
        if control.should_save:
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            with self.metrics.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"step": state.global_step, **logs}) + "\n")

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if should_stop_early(state, self.patience):
            control.should_training_stop = True


def should_stop_early(state: TrainerState, patience: int | None) -> bool:
    """Return whether the last `patience` validations brought no improvement; a function of the log alone."""
    losses = [row["eval_loss"] for row in state.log_history if "eval_loss" in row]
    if patience is None or not losses:
        return False
    return len(losses) - 1 - int(np.argmin(losses)) >= patience
