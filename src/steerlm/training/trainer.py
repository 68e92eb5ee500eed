"""Hugging Face's Trainer with our batches and losses.

What differs from the stock Trainer: batches come from a token budget; a loss is a sum divided once by the
number of trained tokens (or labels) of the whole optimizer step over all ranks; it is computed at response positions
only, and logits never all at once; a loss that is not finite stops before the optimizer step; a checkpoint counts only
when it is complete.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
)
from transformers.trainer_utils import EvalLoopOutput

from steerlm.attributes import AttributeSchema
from steerlm.batching.batches import IGNORED, BatchStream, EpochView, RowPlan, sorted_batches
from steerlm.batching.collating import collate_regression, collate_responses, collate_sft
from steerlm.batching.groups import collate_groups
from steerlm.batching.model_inputs import ModelInputs, model_inputs
from steerlm.batching.shared_prompts import ResponseScores, core_model, is_causal
from steerlm.checkpoint.heads import head_in_fp32
from steerlm.checkpoint.weights import let_others_read
from steerlm.errors import UserError
from steerlm.training.checkpoints import complete_checkpoints, mark_complete, saving
from steerlm.training.losses import GroupLoss, Loss, group_log_probabilities, masked_attribute_loss
from steerlm.training.new_rows import learn_faster
from steerlm.training.response_loss import ResponseLoss

Objective = Literal["sft", "regression", "head", "refine", "contrast"]


class HeadedModel(Protocol):
    """A model that is trained together with a head of its own (objective `head`)."""

    def parameter_groups(self, rate: float, weight_decay: float) -> list[dict[str, object]]:
        """Return the optimizer's groups, each with its peak learning rate."""
        ...

    def loss(self, outputs_N_O: Tensor, labels_N_O: Tensor, mask_N_O: Tensor) -> Loss:
        """Return the loss of outputs."""
        ...

    def errors(self, outputs_N_O: Tensor, labels_N_O: Tensor, mask_N_O: Tensor) -> Tensor:
        """Return the squared errors (2, O) of the outputs and of what they are compared with, summed."""
        ...


_COLLATE: dict[Objective, Any] = {"sft": collate_sft, "regression": collate_regression, "head": collate_responses}


class SteerTrainer(Trainer):  # type: ignore[misc]
    """Hugging Face's Trainer with token-budget batches and globally normalised (sum, count) losses.

    Args:
        model: the model (or its adapters).
        args: training arguments; `max_steps` must be set.
        train_plan: data to train on, in rows.
        validation_plan: data to validate on, in rows.
        objective: `sft` (language model; labels are tokens), `regression` (labels are attribute values), `head`
            (likewise, by a `HeadedModel`), or one on groups of responses.
        schema: the attributes (regression).
        group_loss: of an objective on groups.
        shared: whether a group is one row.
        new_ids: tokens that the model has not known before; their rows learn faster.
        pad_id: padding token.
        steps_per_epoch: optimizer steps that the log counts as one epoch.
        processing_class: the tokenizer, saved with every checkpoint.
        callbacks: further callbacks.
        max_checkpoints: kept beside the best one.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        train_plan: RowPlan,
        validation_plan: RowPlan,
        objective: Objective,
        schema: AttributeSchema | None,
        pad_id: int,
        steps_per_epoch: float,
        processing_class: PreTrainedTokenizerBase,
        callbacks: list[TrainerCallback],
        max_checkpoints: int,
        group_loss: GroupLoss | None = None,
        shared: bool = False,
        new_ids: Sequence[int] = (),
    ):
        assert (schema is not None) == (objective == "regression")
        assert (group_loss is not None) == (objective in ("refine", "contrast"))
        self.group_loss = group_loss
        self.shared = shared
        self.new_ids = new_ids
        self.train_plan = train_plan
        self.validation_plan = validation_plan
        self.objective = objective
        self.schema = schema
        self.pad_id = pad_id
        self.steps_per_epoch = steps_per_epoch
        self.max_checkpoints = max_checkpoints
        self.step_losses: list[Tensor] = []
        self.tokens = 0
        self.since = time.monotonic()
        self.control = TrainerControl()
        super().__init__(
            model=model,
            args=args,
            train_dataset=EpochView(train_plan.examples),
            eval_dataset=EpochView(validation_plan.examples),
            processing_class=processing_class,
            callbacks=callbacks,
        )
        # our loss is already divided by the global count; Trainer must not divide it by the accumulation steps
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.core = core_model(self.accelerator.unwrap_model(model))
        self.response_loss = None if objective in ("regression", "head") else ResponseLoss(self.core)
        if objective == "regression":
            head_in_fp32(self.accelerator.unwrap_model(model))
        regression_at_places = objective == "regression" and is_causal(self.core)
        self.response_scores = ResponseScores(self.core) if regression_at_places else None

    def _loader(self, examples: EpochView, stream: BatchStream) -> DataLoader[Any]:
        if self.group_loss is not None:
            collate: Any = functools.partial(collate_groups, shared=self.shared)
        else:
            collate = _COLLATE[self.objective]
        return DataLoader(
            examples,
            batch_sampler=stream,
            collate_fn=functools.partial(collate, pad_id=self.pad_id),
            pin_memory=self.args.dataloader_pin_memory,
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return this rank's batches of all epochs in a row."""
        batches = self.args.max_steps * self.args.gradient_accumulation_steps
        stream = BatchStream(
            self.train_plan,
            self.args.seed,
            batches,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        return self._loader(self.train_dataset, stream)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Return this rank's batches of the validation data."""
        rows = self.validation_plan.rows(0)
        count = len(sorted_batches(rows.lengths, self.validation_plan.tokens_per_batch))
        stream = BatchStream(
            self.validation_plan,
            self.args.seed,
            -(-count // self.accelerator.num_processes),
            self.accelerator.process_index,
            self.accelerator.num_processes,
            shuffle=False,
        )
        return self._loader(self.eval_dataset, stream)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Return the batches of one optimizer step and its number of trained tokens or labels over all ranks."""
        batches = list(itertools.islice(epoch_iterator, num_batches))
        count = torch.tensor(sum(map(self._count, batches)), device=device)
        if self.accelerator.num_processes > 1:
            count = self.accelerator.reduce(count, "sum")
        return batches, count

    def _count(self, batch: dict[str, Tensor]) -> int:
        """Return the trained tokens, the labels, or the groups of a batch."""
        if self.group_loss is not None:
            return int(batch["present"].any(dim=1).sum())
        return len(batch["targets"]) if self.objective == "sft" else int(batch["label_mask"].sum())

    def _model_inputs(self, inputs: dict[str, Tensor]) -> ModelInputs:
        """Return what a decoder is called with."""
        dtype = torch.bfloat16 if self.args.bf16 else self.core.dtype
        return model_inputs(inputs, self.core.config, dtype)

    @property
    def _headed(self) -> HeadedModel:
        headed: HeadedModel = self.accelerator.unwrap_model(self.model)
        return headed

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Return the optimizer; a model with a head says at what rate each of its parts learns, as do new rows."""
        if self.objective == "head":
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = self._headed.parameter_groups(self.args.learning_rate, self.args.weight_decay)
            self.optimizer: torch.optim.Optimizer | None = kind(groups, **settings)
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        # DeepSpeed's optimizer keeps the weights elsewhere
        new_ids = () if self.is_deepspeed_enabled else self.new_ids
        learn_faster(optimizer, self.core, new_ids, self.args.learning_rate)
        # a sharded checkpoint gives groups their settings back by what is in them
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _outputs(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the outputs of a model with a head (N, O)."""
        places: Tensor | None = None
        arguments: dict[str, object] = {"input_ids": inputs["tokens"], "attention_mask": inputs["present"]}
        if is_causal(self.core):
            given = self._model_inputs(inputs)
            places, arguments = given.places(inputs["token_places"]), given.arguments
        outputs: Tensor = model(arguments, inputs["tokens"], inputs["present"], places)
        return outputs

    def loss_sum(self, model: nn.Module, inputs: dict[str, Tensor]) -> Loss:
        """Return the loss of one batch, summed, with its count."""
        if self.objective == "head":
            return self._headed.loss(self._outputs(model, inputs), inputs["labels"], inputs["label_mask"])
        if self.objective == "regression":
            assert self.schema is not None
            if self.response_scores is None:
                outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
            else:
                given = self._model_inputs(inputs)
                outputs = self.response_scores(model, given.places(inputs["places"]), given.arguments)
            return masked_attribute_loss(outputs, inputs["labels"], inputs["label_mask"], self.schema)
        if self.group_loss is None:
            return Loss(self.response_losses(model, inputs), len(inputs["targets"]))
        log_probs_N = -self.response_losses(model, inputs, apart=True)[: len(inputs["targets"])]
        loss_G = self.group_loss(group_log_probabilities(log_probs_N, inputs), model.training)
        return Loss(loss_G.sum(), self._count(inputs))

    def response_losses(self, model: nn.Module, inputs: dict[str, Tensor], apart: bool = False) -> Tensor:
        """Return the sum of the losses of the N trained tokens of a batch, or each of them and some zeros behind."""
        assert self.response_loss is not None
        given = self._model_inputs(inputs)
        spare = -len(inputs["targets"]) % given.multiple
        places_N = functional.pad(given.places(inputs["positions"]), (0, spare))
        targets_N = functional.pad(inputs["targets"], (0, spare), value=IGNORED)
        return self.response_loss(model, places_N, targets_N, given.arguments, apart)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the batch's share of the step's mean loss, times the ranks over which gradients are averaged."""
        assert num_items_in_batch is not None
        assert not return_outputs
        total = self.loss_sum(model, inputs).sum
        loss: Tensor = total * (self.accelerator.num_processes / torch.as_tensor(num_items_in_batch).clamp(min=1))
        return loss

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Run one batch and remember its loss for the check before the optimizer step."""
        self.tokens += int(inputs["num_tokens"])
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.step_losses.append(loss)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # gradients are summed over ranks by now, so every rank sees what happened on any
        if norm is not None:
            self.step_losses.append(torch.as_tensor(norm, device=self.args.device))
        return norm

    def stop_if_not_finite(self) -> None:
        """Raise before the optimizer step when the loss or the gradient of this step is NaN or infinite.

        Raises:
            UserError: with the step, the learning rate and what to do; nothing is updated or saved.
        """
        values = torch.stack([value.detach().float().reshape(()) for value in self.step_losses])
        self.step_losses.clear()
        if not torch.isfinite(values).all():
            rate = self._get_learning_rate()
            raise UserError(
                f"the loss or its gradient is not finite ({values.tolist()}) at step {self.state.global_step + 1}, "
                f"learning rate {rate:.3g}: stopped before the optimizer step; the checkpoints up to here are intact. "
                "Lower learning_rate or max_grad_norm, raise warmup_steps, or set precision: fp32"
            )

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Return the mean loss over all trained tokens (or labels) of the validation data.

        Of a model with a head it is the error over that of what it is compared with, averaged over the outputs.
        """
        model = self._wrap_model(self.model_wrapped, training=False)
        model.eval()
        totals = torch.zeros((), dtype=torch.float64, device=self.args.device)
        for inputs in dataloader:
            prepared = self._prepare_inputs(inputs)
            with torch.no_grad(), self.compute_loss_context_manager():
                if self.objective == "head":
                    outputs = self._outputs(model, prepared)
                    found = self._headed.errors(outputs, prepared["labels"], prepared["label_mask"]).double()
                else:
                    loss = self.loss_sum(model, prepared)
                    found = torch.stack([loss.sum.double(), torch.tensor(loss.num, device=totals.device).double()])
            totals = totals + found
            self.control = self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if self.accelerator.num_processes > 1:
            totals = self.accelerator.reduce(totals, "sum")
        if self.objective == "head":
            judged = totals[1] > 0
            mean = (totals[0][judged] / totals[1][judged]).sqrt().mean().item() if judged.any() else 1.0
        else:
            mean = (totals[0] / totals[1]).item()
        if not math.isfinite(mean):
            raise UserError(
                f"the validation loss is {mean} at step {self.state.global_step}: the weights have diverged; "
                "lower learning_rate; the checkpoints up to here are intact"
            )
        count = len(self.validation_plan.examples.lengths)
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": mean}, count)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: counting parameters at every step costs more than a small model's forward pass."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log with the epoch of the data (the Trainer sees all epochs as one) and the speed."""
        if "loss" in logs:
            now = time.monotonic()
            logs["tokens_per_second"] = self.tokens * self.accelerator.num_processes / max(now - self.since, 1e-9)
            self.tokens, self.since = 0, now
        self.state.epoch = self.state.global_step / self.steps_per_epoch
        super().log(logs, start_time)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(folder, ignore_errors=True)
        with saving(folder):
            super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            let_others_read(folder)
            mark_complete(folder)
            best = f"checkpoint-{self.state.best_global_step}"
            others = [path for path in complete_checkpoints(folder.parent) if path.name != best]
            for old in others[: -self.max_checkpoints]:
                shutil.rmtree(old)

    def load_best(self) -> None:
        """Load the weights with the lowest validation loss."""
        assert self.state.best_global_step is not None
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        self.state.best_model_checkpoint = str(best)
        self._load_best_model()

    def save_whole(self, folder: Path) -> None:
        """Gather sharded weights and write them as an ordinary folder, whole or not at all."""
        partial = folder.with_name(f".{folder.name}.partial")
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        self.save_model(str(partial))
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            let_others_read(partial)
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(partial, folder)
        self.accelerator.wait_for_everyone()
