"""GRPO (arXiv 2402.03300) through TRL with one reward per attribute, on ids that our own encoder made.

TRL's trainer is taken as it is but for the prompts, which come as ids, so that no text becomes a control token; the
tokens it spends are counted, so that a run can end when its budget is spent. Checkpoints count when they are whole.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from steerlm.attributes import Value
from steerlm.checkpoint.models import autocast_bf16, load_causal_lm, load_tokenizer, quiet
from steerlm.config import ReinforceConfig, TrainSftConfig
from steerlm.conversation import Message
from steerlm.scorers.rewards import RewardFunction
from steerlm.storage.files import read_json, write_json
from steerlm.training.checkpoints import complete_checkpoints, mark_complete
from steerlm.training.loop import recompute_argument, warmup_within

_SPENT = "spent.json"

log = logging.getLogger(__name__)


class SteeredPrompt(NamedTuple):
    """A prompt at a request: the conversation, what is asked for, and the ids of both."""

    messages: tuple[Message, ...]
    requested: Mapping[str, Value]
    ids: list[int]


@dataclasses.dataclass
class Tokens:
    """Tokens so far: that went through the model in training steps, and that it sampled."""

    trained: int = 0
    sampled: int = 0

    @property
    def all(self) -> int:
        return self.trained + self.sampled


class PreparedPrompts:
    """For TRL's online trainers: prompts are ids already (a prompt's text is its number), and tokens are counted."""

    spent: Tokens
    prompt_ids: Sequence[list[int]]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.prompt_ids[int(number)]) for number in prompts], None, {}

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        said = int(output["completion_mask"].sum())
        self.spent.sampled += said
        self.spent.trained += int(output["prompt_mask"].sum()) + said
        return output


class PreparedGRPOTrainer(PreparedPrompts, GRPOTrainer):
    """GRPO on prompts that are ids already."""


class Keeper(TrainerCallback):  # type: ignore[misc]
    """Marks checkpoints that are whole, keeps the newest alone, and stops when the budget is spent."""

    def __init__(self, spent: Tokens, budget: int | None):
        self._spent = spent
        self._budget = budget

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._budget is not None and self._spent.all >= self._budget:
            control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        newest = folder / f"checkpoint-{state.global_step}"
        write_json(newest / _SPENT, dataclasses.asdict(self._spent))
        mark_complete(newest)
        for old in complete_checkpoints(folder):
            if old != newest:
                shutil.rmtree(old)


class Reinforced(NamedTuple):
    """What a training left: its weights, and its course."""

    weights: Mapping[str, torch.Tensor]
    course: Mapping[str, Any]


def train_grpo(
    policy: Path,
    asks: Sequence[SteeredPrompt],
    rewards: Sequence[RewardFunction],
    decode: Callable[[Sequence[int]], str],
    config: ReinforceConfig,
    sft: TrainSftConfig,
    out: Path,
    seed: int,
    budget: int | None = None,
) -> Reinforced:
    """Reinforce a steerable model online.

    Called again after an interruption, it goes on from the last whole checkpoint in `out`.

    Args:
        policy: the model to start from, and the reference.
        asks: prompts at requests, in the order in which they come; used again from the start when they run out.
        rewards: one per attribute (`scorers.rewards`).
        decode: text of sampled ids.
        config: how to sample and train.
        sft: warm-up, weight decay, clipping and precision are its.
        out: receives checkpoints.
        budget: tokens that may be sampled or go through the model in training steps; None: `config` says the steps.

    Returns:
        The weights, and the course: `steps`, `trained_tokens`, `sampled_tokens`, and per attribute the mean reward over
        the first and the last tenth of the steps.
    """
    model, tokenizer = load_causal_lm(policy), load_tokenizer(policy)
    spent = Tokens()
    for folder in sorted(out.glob("checkpoint-*")):
        if folder not in complete_checkpoints(out):
            log.warning("%s is incomplete (interrupted while it was written): going on without it", folder)
            shutil.rmtree(folder)
    start = next(reversed(complete_checkpoints(out)), None)
    if start is not None:
        spent = Tokens(**read_json(start / _SPENT))
    names = {field.name for field in dataclasses.fields(GRPOConfig)}
    newer: Any = {}  # what not every TRL and transformers has, or calls by this name
    if config.normalize_then_sum and "multi_objective_aggregation" in names:
        newer["multi_objective_aggregation"] = "normalize_then_sum"
    elif config.normalize_then_sum:
        log.warning("this TRL cannot normalise rewards by themselves: they are added first; pip install -U trl")
    arguments = GRPOConfig(
        **common_arguments(sft, out, config.learning_rate, config.steps, seed),
        lr_scheduler_type="constant_with_warmup",
        per_device_train_batch_size=config.batch_size,
        num_generations=config.num_generations,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        beta=config.beta,
        shuffle_dataset=False,
        save_strategy="steps",
        save_steps=config.save_steps,
        logging_steps=1,
        **newer,
    )
    rows = {"prompt": [str(number) for number in range(len(asks))]}
    with quiet():
        trainer = PreparedGRPOTrainer(
            model=model,
            reward_funcs=[_on_numbers(reward, asks, decode) for reward in rewards],
            args=arguments,
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            callbacks=[Keeper(spent, budget)],
        )
        trainer.spent, trainer.prompt_ids = spent, [ask.ids for ask in asks]
        weights = trained_weights(trainer, start)
    return Reinforced(weights, _course(trainer, spent, rewards))


def common_arguments(sft: TrainSftConfig, out: Path, learning_rate: float, steps: int, seed: int) -> Mapping[str, Any]:
    """Return what every trainer of TRL is told: warm-up, decay, clipping and precision are those of the fine-tuning."""
    return {
        "output_dir": str(out),
        "max_steps": steps,
        "learning_rate": learning_rate,
        "warmup_steps": warmup_within(sft.further_warmup, steps),
        "weight_decay": sft.weight_decay,
        "adam_beta2": sft.adam_beta2,
        "max_grad_norm": sft.max_grad_norm,
        "bf16": autocast_bf16(sft.precision),
        recompute_argument(): sft.gradient_checkpointing,
        "use_cpu": not torch.accelerator.is_available(),
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "seed": seed,
    }


def trained_weights(trainer: Any, start: Path | None = None) -> Mapping[str, torch.Tensor]:
    """Let a trainer of TRL train, from a checkpoint where one is given, and return the weights."""
    trainer.remove_callback(PrinterCallback)
    with warnings.catch_warnings():
        # TRL still asks transformers for the old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    weights: Mapping[str, torch.Tensor] = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    return weights


def _on_numbers(
    reward: RewardFunction, asks: Sequence[SteeredPrompt], decode: Callable[[Sequence[int]], str]
) -> RewardFunction:
    """Return a reward that is told a prompt's number and an answer's ids."""

    def numbered(prompts: list[str], completion_ids: list[list[int]], **columns: object) -> list[float | None]:
        asked = [asks[int(number)] for number in prompts]
        said = [decode(ids) for ids in completion_ids]
        return reward([ask.messages for ask in asked], said, attributes=[ask.requested for ask in asked])

    numbered.__name__ = reward.__name__
    return numbered


def _course(trainer: Any, spent: Tokens, rewards: Sequence[RewardFunction]) -> Mapping[str, Any]:
    """Return what the training spent and how the rewards went."""
    course: dict[str, object] = {
        "steps": trainer.state.global_step,
        "trained_tokens": spent.trained,
        "sampled_tokens": spent.sampled,
    }
    for when, tenth in (("first", slice(None, 1)), ("last", slice(-1, None))):
        found = {}
        for reward in rewards:
            key = f"rewards/{reward.__name__}/mean"
            seen = [row[key] for row in trainer.state.log_history if key in row]
            share = max(1, len(seen) // 10)
            part = seen[:share] if tenth.stop == 1 else seen[-share:]
            found[reward.__name__] = round(sum(part) / len(part), 6) if part else None
        course[f"{when}_rewards"] = found
    return course
