"""DPO (Rafailov et al., 2023) and RLOO (Ahmadian et al., 2024) through TRL, within a budget of tokens.

TRL's trainers are taken as they are but for two hooks each: prompts and responses come as ids (see `encoding`), and the
tokens that go through the model are counted, so that a run ends when its budget is spent.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.rloo_config import RLOOConfig
from trl.trainer.rloo_trainer import RLOOTrainer

from steerlm.checkpoint.models import load_causal_lm, load_tokenizer, quiet
from steerlm.config import BaselinesConfig, TrainSftConfig
from steerlm.conversation import Message
from steerlm.results.studies import TrialCourse
from steerlm.stages.reinforce.stage import save_reinforced
from steerlm.stages.reinforce.trainer import Keeper, PreparedPrompts, Tokens, common_arguments, trained_weights
from steerlm.studies.baselines.encoding import EncodedPair
from steerlm.studies.baselines.reward import Reward, mean_of_known


class PreparedDPOTrainer(DPOTrainer):
    """DPO on pairs that are ids already."""

    spent: Tokens

    def _prepare_dataset(self, dataset: Dataset, *args: Any, **kwargs: Any) -> Dataset:
        return dataset

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.spent.trained += int(inputs["attention_mask"].sum())
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call]


class PreparedRLOOTrainer(PreparedPrompts, RLOOTrainer):
    """RLOO on prompts that are ids already."""


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
    spent = Tokens()
    batch = min(config.dpo_batch_size, len(pairs))
    per_step = batch * sum(pair.tokens for pair in pairs) / len(pairs)
    steps = max(1, math.ceil(budget / per_step))
    arguments = DPOConfig(
        **common_arguments(sft, out / "trl", learning_rate, steps, seed),
        save_strategy="no",
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
            callbacks=[Keeper(spent, budget)],
        )
        trainer.spent = spent
        weights = trained_weights(trainer)
    tuned = {"method": "dpo", "learning_rate": learning_rate, "beta": config.dpo_beta}
    save_reinforced(policy, weights, out, tuned=tuned)
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
    spent = Tokens()
    # a response has at least one token and each step is at least a batch of them: the budget ends the run before
    shortest = sum(len(ids) for _, ids in prompts) / len(prompts) + 2
    steps = max(1, math.ceil(budget / (config.rloo_batch_size * shortest)))
    arguments = RLOOConfig(
        **common_arguments(sft, out / "trl", learning_rate, steps, seed),
        save_strategy="no",
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
            callbacks=[Keeper(spent, budget)],
        )
        trainer.spent, trainer.prompt_ids = spent, [ids for _, ids in prompts]
        weights = trained_weights(trainer)
    tuned = {"method": "rloo", "learning_rate": learning_rate, "beta": config.rloo_beta}
    save_reinforced(policy, weights, out, tuned=tuned)
    seen = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    tenth = max(1, len(seen) // 10)
    return dataclasses.replace(
        _course(trainer, spent, learning_rate),
        first_reward=mean_of_known(seen[:tenth]),
        last_reward=mean_of_known(seen[-tenth:]),
    )


def _course(trainer: Any, spent: Tokens, learning_rate: float) -> TrialCourse:
    return TrialCourse(
        learning_rate=learning_rate,
        steps=trainer.state.global_step,
        trained_tokens=spent.trained,
        sampled_tokens=spent.sampled,
    )
