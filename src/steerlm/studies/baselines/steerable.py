"""Steerable reinforcement learning beside SteerLM: fine-tuning with attributes, then one reward per attribute."""

from __future__ import annotations

import math
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import load_tokenizer
from steerlm.config import BaselinesConfig, ReinforceConfig, TrainSftConfig
from steerlm.results.studies import TrialCourse
from steerlm.scorers.rewards import attribute_rewards
from steerlm.stages.reinforce.stage import draw_asks, save_reinforced
from steerlm.stages.tuning.models import require_models
from steerlm.studies.baselines.reward import mean_of_known
from steerlm.template.conversation_encoder import ConversationEncoder


def train_steerable(
    policy: Path,
    attribute_model: Path,
    data: Path,
    schema: AttributeSchema,
    config: BaselinesConfig,
    sft: TrainSftConfig,
    max_new_tokens: int,
    learning_rate: float,
    out: Path,
    budget: int,
    seed: int,
) -> TrialCourse:
    """Tune a steerable SFT model online for all its dials, as `steerlm reinforce` does.

    Args:
        config: batch, answers per prompt and divergence are RLOO's.
        out: receives `model/`.
        budget: tokens that may be sampled or go through the model in training steps; the reference's and the reward
            model's passes are not counted.

    Returns:
        The course; `first_reward` and `last_reward` are the means over the attributes.
    """
    from steerlm.stages.reinforce.trainer import train_grpo

    _, settings = require_models(policy, attribute_model, schema)
    encoder = ConversationEncoder(load_tokenizer(policy), schema)
    groups = config.rloo_batch_size // config.num_generations
    room = sft.max_length - max_new_tokens
    shortest = min(len(ask.ids) for ask in draw_asks(encoder, data, schema, settings, room, 64, seed)) + 2
    # a response has at least one token and each step is at least a batch of them: the budget ends the run before
    steps = max(1, math.ceil(budget / (config.rloo_batch_size * shortest)))
    how = ReinforceConfig(
        steps=steps,
        batch_size=config.rloo_batch_size,
        num_generations=config.num_generations,
        max_new_tokens=max_new_tokens,
        learning_rate=learning_rate,
        beta=config.rloo_beta,
        save_steps=steps,
    )
    asks = draw_asks(encoder, data, schema, settings, room, steps * groups, seed)
    rewards = attribute_rewards(attribute_model, schema)
    done = train_grpo(policy, asks, rewards, encoder.decode, how, sft, out / "trl", seed, budget)
    tuned = {"method": "grpo", **how.model_dump(mode="json")}
    save_reinforced(policy, done.weights, out, base_model=str(policy), tuned=tuned)
    return TrialCourse(
        learning_rate=learning_rate,
        prompts=len({tuple(message.content for message in ask.messages) for ask in asks}),
        steps=done.course["steps"],
        trained_tokens=done.course["trained_tokens"],
        sampled_tokens=done.course["sampled_tokens"],
        first_reward=mean_of_known(done.course["first_rewards"].values()),
        last_reward=mean_of_known(done.course["last_rewards"].values()),
    )
