"""DPO (Rafailov et al., 2023) and RLOO (Ahmadian et al., 2024) through TRL, within a budget of tokens.

TRL's trainers are taken as they are but for two hooks each: prompts and responses come as ids (see `encoding`), and the
tokens that go through the model are counted, so that a run ends when its budget is spent.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback, TrainingArguments
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from steerlm.checkpoint.model_card import model_card
from steerlm.checkpoint.models import autocast_bf16, load_causal_lm, load_info, load_tokenizer, quiet, save_model
from steerlm.config import BaselinesConfig, TrainSftConfig
from steerlm.conversation import Message
from steerlm.results.studies import TrialCourse
from steerlm.studies.baselines.encoding import EncodedPair
from steerlm.studies.baselines.reward import Reward


@dataclasses.dataclass
class Spent:
    """Tokens so far: that went through the model in training steps, and that it sampled."""

    budget: int
    trained: int = 0
    sampled: int = 0

    @property
    def all(self) -> int:
        return self.trained + self.sampled


class _StopWhenSpent(TrainerCallback):  # type: ignore[misc]
    def __init__(self, spent: Spent):
        self._spent = spent

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._spent.all >= self._spent.budget:
            control.should_training_stop = True


class PreparedDPOTrainer(DPOTrainer):
    """DPO on pairs that are ids already."""

    spent: Spent

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.spent.trained += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call]


class PreparedRLOOTrainer(RLOOTrainer):
    """RLOO on prompts that are ids already; a prompt's text is its number."""

    spent: Spent
    prompt_ids: Sequence[list[int]]

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        return [list(self.prompt_ids[int(number)]) for number in prompts], None, {}

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        said = int(output["completion_mask"].sum())
        self.spent.sampled += said
        self.spent.trained += int(output["prompt_mask"].sum()) + said
        return output


def train_dpo(
    policy: Path,
    pairs: Sequence[EncodedPair],
    config: BaselinesConfig,
    sft: TrainSftConfig,
    learning_rate: float,
    out: Path,
    budget: int,
    seed: int,
) -> TrialCourse:
    """Tune a plain SFT model on preference pairs; the policy itself is the reference.

    Args:
        out: receives `model/`.
        budget: tokens that may go through the model (both answers of a pair, with their prompt); the reference's pass
            is not counted.
    """
    model, tokenizer = load_causal_lm(policy), load_tokenizer(policy)
    spent = Spent(budget)
    batch = min(config.dpo_batch_size, len(pairs))
    per_step = batch * sum(pair.tokens for pair in pairs) / len(pairs)
    steps = max(1, math.ceil(budget / per_step))
    arguments = DPOConfig(
        **_common(sft, out, learning_rate, steps, seed),
        lr_scheduler_type="cosine",
        per_device_train_batch_size=batch,
        beta=config.dpo_beta,
        max_length=None,
    )
    dataset = Dataset.from_list([pair._asdict() for pair in pairs])
    with quiet():
        trainer = PreparedDPOTrainer(
            model=model,
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[_StopWhenSpent(spent)],
        )
        trainer.spent = spent
        _run(trainer)
    _save(policy, trainer, tokenizer, out, {"method": "dpo", "learning_rate": learning_rate, "beta": config.dpo_beta})
    return dataclasses.replace(
        _course(trainer, spent, learning_rate), epochs=trainer.state.global_step * batch / len(pairs)
    )


def train_rloo(
    policy: Path,
    prompts: Sequence[tuple[tuple[Message, ...], list[int]]],
    reward: Reward,
    decode: Callable[[Sequence[int]], str],
    config: BaselinesConfig,
    sft: TrainSftConfig,
    max_new_tokens: int,
    learning_rate: float,
    out: Path,
    budget: int,
    seed: int,
) -> TrialCourse:
    """Tune a plain SFT model online: sample, score, reinforce.

    Args:
        out: receives `model/`.
        budget: tokens that may be sampled or go through the model in training steps; the reference's and the reward
            model's passes are not counted.
    """
    model, tokenizer = load_causal_lm(policy), load_tokenizer(policy)
    spent = Spent(budget)
    # a response has at least one token and each step is at least a batch of them: the budget ends the run before
    shortest = sum(len(ids) for _, ids in prompts) / len(prompts) + 2
    steps = max(1, math.ceil(budget / (config.rloo_batch_size * shortest)))
    arguments = RLOOConfig(
        **_common(sft, out, learning_rate, steps, seed),
        lr_scheduler_type="constant_with_warmup",
        per_device_train_batch_size=config.rloo_batch_size,
        num_generations=config.num_generations,
        max_completion_length=max_new_tokens,
        temperature=1.0,
        beta=config.rloo_beta,
        logging_steps=1,
    )

    def rewards(prompts: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float]:
        return reward([(histories[int(n)], decode(ids)) for n, ids in zip(prompts, completion_ids, strict=True)])

    histories = [messages for messages, _ in prompts]
    dataset = Dataset.from_dict({"prompt": [str(number) for number in range(len(prompts))]})
    with quiet():
        trainer = PreparedRLOOTrainer(
            model=model,
            reward_funcs=[rewards],
            args=arguments,
            train_dataset=dataset,
            processing_class=tokenizer,
            callbacks=[_StopWhenSpent(spent)],
        )
        trainer.spent, trainer.prompt_ids = spent, [ids for _, ids in prompts]
        _run(trainer)
    _save(policy, trainer, tokenizer, out, {"method": "rloo", "learning_rate": learning_rate, "beta": config.rloo_beta})
    seen = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    tenth = max(1, len(seen) // 10)
    return dataclasses.replace(
        _course(trainer, spent, learning_rate),
        first_reward=sum(seen[:tenth]) / tenth,
        last_reward=sum(seen[-tenth:]) / tenth,
    )


def _common(sft: TrainSftConfig, out: Path, learning_rate: float, steps: int, seed: int) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    # transformers renamed gradient_checkpointing, and warns about the old name
    recompute = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {
        "output_dir": str(out / "trl"),
        "max_steps": steps,
        "learning_rate": learning_rate,
        "warmup_steps": min(sft.warmup_steps, max(1, steps // 10)),
        "weight_decay": sft.weight_decay,
        "adam_beta2": sft.adam_beta2,
        "max_grad_norm": sft.max_grad_norm,
        "bf16": autocast_bf16(sft.precision),
        recompute: sft.gradient_checkpointing,
        "use_cpu": not torch.accelerator.is_available(),
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
        "seed": seed,
    }


def _run(trainer: Any) -> None:
    trainer.remove_callback(PrinterCallback)
    with warnings.catch_warnings():
        # TRL still asks transformers for the old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        trainer.train()


def _course(trainer: Any, spent: Spent, learning_rate: float) -> TrialCourse:
    return TrialCourse(
        learning_rate=learning_rate,
        steps=trainer.state.global_step,
        trained_tokens=spent.trained,
        sampled_tokens=spent.sampled,
    )


def _save(policy: Path, trainer: Any, tokenizer: PreTrainedTokenizerBase, out: Path, how: Mapping[str, object]) -> None:
    """Write the tuned model as an ordinary plain checkpoint (its weights in a fresh model: TRL patches the forward)."""
    info = load_info(policy)
    info = dataclasses.replace(info, provenance={**info.provenance, "tuned": how})
    fresh = load_causal_lm(policy)
    fresh.load_state_dict(trainer.accelerator.unwrap_model(trainer.model).state_dict())
    save_model(out / "model", fresh, tokenizer, info, model_card(info, {}, {}))
