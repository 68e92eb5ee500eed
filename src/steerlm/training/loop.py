"""One training loop for both objectives: attribute regression and (attribute-conditioned) SFT.

Everything random is a function of (seed, epoch) or restored from the checkpoint, so a run that was interrupted
ends with the parameters of one that was not (to the last bits with `--threads`: else the number is chosen by speed).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import DistributedType, PartialState
from accelerate.utils import is_deepspeed_available
from transformers import (
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import is_liger_kernel_available

from steerlm.attributes import AttributeSchema
from steerlm.batching.batches import Examples, RowPlan
from steerlm.batching.groups import GroupedExamples
from steerlm.batching.ragged_attention import RAGGED
from steerlm.batching.shared_prompts import can_be_ragged, core_model, sharing_of
from steerlm.checkpoint.models import autocast_bf16, head_size, quiet
from steerlm.config import TrainingSection
from steerlm.errors import UserError
from steerlm.storage.claims import claim
from steerlm.training.checkpoints import TRAINER_STATE, identity, last_checkpoint, truncate_metrics
from steerlm.training.distributed import ranks
from steerlm.training.flow import FlowCallback, should_stop_early
from steerlm.training.header_gain import HeaderProbe
from steerlm.training.losses import GroupLoss
from steerlm.training.threads import chosen_threads
from steerlm.training.trainer import Objective, SteerTrainer

BEST = "best"
"""Folder of the best weights of a sharded training."""

SHORT = 160
"""Mean length in tokens up to which plain attention was faster than the fused kernel (bf16, one CPU core)."""


def _total_batches(config: TrainingSection, plan: RowPlan, world_size: int) -> tuple[int, float]:
    """Return the optimizer steps of the whole run and the steps of one epoch."""
    accumulation = config.gradient_accumulation_steps
    first = plan.num_batches(0, world_size)
    if config.max_steps > 0:
        return config.max_steps, first / accumulation
    whole = math.floor(config.epochs)
    total = first
    for epoch in range(1, whole):
        total += plan.num_batches(epoch, world_size)
    if whole == 0:
        total = math.ceil(first * config.epochs)
    elif config.epochs > whole:
        rest = plan.num_batches(whole, world_size)
        total += math.ceil(rest * (config.epochs - whole))
    return max(1, math.ceil(total / accumulation)), first / accumulation


def recompute_argument() -> str:
    """Return what this transformers calls the choice to compute activations again; it renamed it, and warns."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    return "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"


def training_arguments(
    config: TrainingSection,
    objective: Objective,
    checkpoints: Path,
    seed: int,
    max_steps: int,
    steps_per_epoch: float,
) -> TrainingArguments:
    """Translate a recipe section into Hugging Face's training arguments."""
    interval = min(config.eval_steps or max(1, round(steps_per_epoch)), max_steps)
    recompute = recompute_argument()
    sharding: dict[str, Any] = {}
    if config.fsdp:
        # what `accelerate launch` said about loading has taken effect already, and must be repeated
        spread = os.environ.get("FSDP_CPU_RAM_EFFICIENT_LOADING", "false").lower() == "true"
        settings = {"version": 2, "state_dict_type": "SHARDED_STATE_DICT", "cpu_ram_efficient_loading": spread}
        if config.gradient_checkpointing:
            settings["activation_checkpointing"] = True
        sharding = {"fsdp": True, "fsdp_config": settings}
    elif config.gradient_checkpointing:
        sharding = {recompute: True, f"{recompute}_kwargs": {"use_reentrant": False}}
    return TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=max_steps,
        learning_rate=config.learning_rate,
        # Hugging Face's `constant` would ignore the warm-up
        lr_scheduler_type="constant_with_warmup" if config.lr_schedule == "constant" else config.lr_schedule,
        warmup_steps=warmup_within(config.warmup_steps, max_steps),
        weight_decay=config.weight_decay,
        adam_beta2=config.adam_beta2,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch_fused",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        bf16=autocast_bf16(config.precision),
        use_cpu=not torch.accelerator.is_available(),
        seed=seed,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=10,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        report_to=list(config.report_to),
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        deepspeed=str(config.deepspeed) if config.deepspeed else None,
        **_liger(objective, torch.cuda.is_available()),
        **sharding,
    )


def warmup_within(wanted: float, max_steps: int) -> int:
    """Return the steps of a warm-up that is given in steps, or below 1 as a share. One as long as the training would
    end before the rate it leads to: a single step would have rate 0."""
    return min(math.ceil(max_steps * wanted) if wanted < 1 else int(wanted), max_steps - 1)


def _liger(objective: Objective, on_gpu: bool) -> dict[str, Any]:
    """Return the settings for liger's kernels where they are installed: all but its losses, which take the place of
    `forward` and would compute logits at every position. Of Gemma 3 it knows the language model alone."""
    if objective in ("regression", "head") or not (on_gpu and is_liger_kernel_available()):
        return {}
    return {
        "use_liger_kernel": True,
        "liger_kernel_config": {"cross_entropy": False, "fused_linear_cross_entropy": False},
    }


def _check_environment(config: TrainingSection, processes: PartialState) -> None:
    """Raise when the recipe asks for what is not installed or not running.

    Raises:
        UserError: naming the key and what to do.
    """
    available = get_available_reporting_integrations()
    for logger in config.report_to:
        if logger not in available:
            raise UserError(
                f"report_to: {logger!r} is not installed; pip install it, or choose from: "
                f"{', '.join(sorted(available)) or 'none is installed'}"
            )
    if config.fsdp and processes.distributed_type == DistributedType.NO:
        raise UserError(
            "fsdp: true needs a process per GPU; start with `accelerate launch --use_fsdp --fsdp_version 2 "
            "--fsdp_cpu_ram_efficient_loading true -m steerlm …`, or set fsdp: false"
        )
    if config.deepspeed is not None:
        if not config.deepspeed.is_file():
            raise UserError(f"deepspeed: no such file: {config.deepspeed}")
        if not is_deepspeed_available():
            raise UserError("deepspeed: the package is not installed; pip install deepspeed, or use fsdp: true")


def train(
    config: TrainingSection,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    train_dataset: Examples,
    validation_dataset: Examples,
    objective: Objective,
    out: Path,
    seed: int,
    schema: AttributeSchema | None = None,
    probe: HeaderProbe | None = None,
    group_loss: GroupLoss | None = None,
    new_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """Train `model` in place; afterwards it holds the weights with the lowest validation loss.

    Sharded over ranks (`fsdp`, `deepspeed`), no rank holds them: they are in `out/best`, an ordinary folder.
    Resumable: called again with the same arguments it goes on from the newest complete checkpoint in
    `out/checkpoints`, and ends with the same parameters as an uninterrupted run.

    Args:
        config: recipe section.
        model: on the CPU (or as accelerate placed it).
        tokenizer: saved with the checkpoints; its pad token pads.
        train_dataset: examples to train on.
        validation_dataset: examples whose loss picks the best checkpoint.
        objective: `sft`, `regression`, `head`, or one on groups of responses (`GroupedExamples`).
        out: folder of the stage; gets `checkpoints/` and `metrics.jsonl`.
        seed: of data order and dropout.
        schema: the attributes; for `regression` only.
        probe: tries the headers after every validation.
        group_loss: of an objective on groups.
        new_ids: tokens that the model has not known before; their rows learn faster.

    Returns:
        steps, epochs, best_step, validation_loss (the lowest), last_validation_loss, train_loss (last logged), its mean
        over the first and the last quarter of the log, early_stopped, and what the probe found at the best step.

    Raises:
        UserError: no data, a loss that is not finite, or checkpoints of another training in `out`.
    """
    _require_examples(train_dataset, validation_dataset)
    assert tokenizer.pad_token_id is not None
    set_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    checkpoints, metrics = out.resolve() / "checkpoints", out / "metrics.jsonl"
    flow = FlowCallback(metrics, config.early_stopping_patience)
    processes = ranks()
    _check_environment(config, processes)
    layout = _lay_out(config, model, train_dataset, validation_dataset, group_loss)
    plan, validation_plan = layout.plans
    max_steps, steps_per_epoch = _total_batches(config, plan, processes.num_processes)
    whole = out / BEST if config.sharded else None
    with processes.main_process_first():
        # with other processes a step sees other examples
        inputs = {
            "training": identity(config, layout.data, objective, seed),
            "processes": processes.num_processes,
            "steps": max_steps,
            "steps_per_epoch": steps_per_epoch,
        }
        claim(checkpoints / "inputs.json", inputs, otherwise="refuse", holds="checkpoints of a training")
        start, state = _start(checkpoints, max_steps, flow.patience, whole)
    finished = _finished(state, max_steps, flow.patience)
    if processes.is_main_process:
        truncate_metrics(metrics, state.global_step)
    trainer = SteerTrainer(
        model=model,
        args=training_arguments(config, objective, checkpoints, seed, max_steps, steps_per_epoch),
        train_plan=plan,
        validation_plan=validation_plan,
        objective=objective,
        schema=schema,
        pad_id=int(tokenizer.pad_token_id),
        steps_per_epoch=steps_per_epoch,
        processing_class=tokenizer,
        callbacks=[flow] if probe is None else [flow, probe],
        max_checkpoints=config.max_checkpoints,
        group_loss=group_loss,
        shared=layout.shared,
        new_ids=new_ids,
    )
    trainer.remove_callback(PrinterCallback)
    flow.trainer = trainer
    if probe is not None:
        probe.trainer = trainer
    with quiet(), chosen_threads(trainer), _attention(trainer.core, layout, trainer.args):
        if finished:
            trainer.state = state
        else:
            _run(trainer, start, config)
        if whole is None:
            trainer.load_best()
        elif not finished:
            trainer.load_best()
            trainer.save_whole(whole)
        # sharded weights may be the last ones
        gain = None if probe is None else probe.found(trainer.state, by_dial=whole is None)
    course = _summary(trainer.state, trainer, flow.patience)
    return course if probe is None else {**course, "header_gain": gain}


def _require_examples(train_dataset: Examples, validation_dataset: Examples) -> None:
    if len(train_dataset.lengths) == 0 or len(train_dataset.draw(0)) == 0:
        raise UserError("nothing to train on: the training data has no usable example")
    if len(validation_dataset.lengths) == 0:
        raise UserError("the validation data has no usable example; raise prepare.validation_fraction")


class _Layout(NamedTuple):
    """How examples lie in rows, those to train on and those to validate on.

    Attributes:
        data: the examples.
        plans: which of them lie in which row.
        attention: what computes nothing for what a row hides; None: there is none.
        shared: whether the responses of a group lie in one row that holds their prompt once.
    """

    data: tuple[Examples, ...]
    plans: tuple[RowPlan, ...]
    attention: str | None
    shared: bool


def _lay_out(
    config: TrainingSection,
    model: Any,
    train_dataset: Examples,
    validation_dataset: Examples,
    group_loss: GroupLoss | None,
) -> _Layout:
    """Lay examples into rows that share prompts where the model can."""
    data: tuple[Examples, ...] = (train_dataset, validation_dataset)
    longest = max(
        examples.longest if isinstance(examples, GroupedExamples) else int(examples.lengths.max()) for examples in data
    )
    attention = _unmasked(core_model(model))
    sharing = sharing_of(model, longest, attention)
    shared = group_loss is not None and sharing is not None
    data = tuple(examples.in_rows(shared) if isinstance(examples, GroupedExamples) else examples for examples in data)
    return _Layout(
        data, tuple(RowPlan(examples, config.tokens_per_batch, sharing) for examples in data), attention, shared
    )


def _finished(state: TrainerState, max_steps: int, patience: int | None) -> bool:
    return state.global_step >= max_steps or should_stop_early(state, patience)


def _start(
    checkpoints: Path, max_steps: int, patience: int | None, whole: Path | None
) -> tuple[Path | None, TrainerState]:
    """Return the checkpoint to go on from and its state.

    A run that was killed between its last checkpoint and its end has nothing left to train. Where the best weights
    are sharded and not saved yet, the last stretch is trained again: only a running training can gather them.
    """
    while True:
        start = last_checkpoint(checkpoints)
        if start is None:
            return None, TrainerState()
        state = TrainerState.load_from_json(str(start / TRAINER_STATE))
        if whole is None or whole.is_dir() or not _finished(state, max_steps, patience):
            return start, state
        shutil.rmtree(start)


def _run(trainer: SteerTrainer, start: Path | None, config: TrainingSection) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"out of memory with tokens_per_batch: {config.tokens_per_batch}: halve it and double "
            "gradient_accumulation_steps (the result stays the same), or set gradient_checkpointing: true or lora"
        ) from error


def _unmasked(core: Any) -> str | None:
    """Return the attention that computes nothing for what rows that share prompts must not see; None: there is none."""
    if torch.accelerator.is_available():
        return "flex_attention" if _block_sparse(core) else None
    return RAGGED if can_be_ragged(core, training=True) else None


def _block_sparse(core: Any) -> bool:
    """Whether rows that share prompts use flex attention: on CUDA, where its kernels are, for the head sizes they know,
    and without dropout, which it does not have (gpt2 has another name for it)."""
    config = core.config.get_text_config()
    dropout = getattr(config, "attention_dropout", 0.0)  # some models have none
    return (
        torch.cuda.is_available()
        and core._supports_flex_attn
        and config.model_type != "gpt2"
        and head_size(config) in (16, 32, 64, 128, 256)
        and not dropout
    )


@contextlib.contextmanager
def _attention(core: Any, layout: _Layout, args: TrainingArguments) -> Iterator[None]:
    """Use the fastest attention: on CUDA one that skips what a mask hides where prompts are shared; on the CPU one that
    needs no padding, or else in bf16 plain attention for short rows, for which the fused kernel is slower than
    matrices."""
    implementation = core.config._attn_implementation
    wanted, plans = implementation, layout.plans
    shared = layout.shared or any(plan.sharing is not None for plan in plans)
    if layout.attention == RAGGED or (layout.attention is not None and shared):
        wanted = layout.attention
    elif args.use_cpu and args.bf16 and implementation == "sdpa" and float(plans[0].rows(0).lengths.mean()) <= SHORT:
        wanted = "eager"
    if wanted != implementation:
        core.set_attn_implementation(wanted)
    try:
        yield
    finally:
        if wanted != implementation:
            core.set_attn_implementation(implementation)


def _summary(state: TrainerState, trainer: SteerTrainer, patience: int | None) -> dict[str, Any]:
    losses = [row["loss"] for row in state.log_history if "loss" in row]
    validation = [row["eval_loss"] for row in state.log_history if "eval_loss" in row]
    quarter = len(losses) // 4
    return {
        "steps": state.global_step,
        "epochs": state.global_step / trainer.steps_per_epoch,
        "train_loss": losses[-1] if losses else None,
        "train_loss_start": float(np.mean(losses[:quarter])) if quarter else None,
        "train_loss_end": float(np.mean(losses[-quarter:])) if quarter else None,
        "last_validation_loss": validation[-1],
        "validation_loss": min(validation),
        "best_step": state.best_global_step,
        "early_stopped": state.global_step < trainer.args.max_steps and should_stop_early(state, patience),
    }
