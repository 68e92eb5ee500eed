"""Steerable reinforcement learning: every dial is trained at once, by its distance from what was asked for.

    steerlm reinforce RECIPE

The model answers training prompts at settings drawn from those that the training labels have; each attribute's reward
is minus the distance between what was requested and what an answer obtained, by the attribute model and the measures of
the schema. GRPO (through TRL) normalises each reward among the answers to a request, then adds them up (GDPO, arXiv
2601.05242), so that no dial drowns the others. Reinforcement learning for one goal, as the baselines have it, leaves no
dials; this keeps them.

    OUT/trl/checkpoint-N   to go on from
    OUT/held_out/round-0.jsonl  round-1.jsonl  OUT/report.json  OUT/model/
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlm.attributes import AttributeSchema, Value
from steerlm.checkpoint.model_card import model_card
from steerlm.checkpoint.models import (
    context_length,
    load_causal_lm,
    load_config,
    load_info,
    load_tokenizer,
    save_model,
)
from steerlm.config import ReinforceConfig, TrainSftConfig
from steerlm.errors import UserError, needs_extra, refuse_ranks
from steerlm.generation.engine import Sampling
from steerlm.scorers.rewards import attribute_rewards
from steerlm.stages.evaluate.sweeping import read_prompts
from steerlm.stages.tuning.held_out import HeldOut
from steerlm.stages.tuning.models import require_models, tuning_inputs
from steerlm.storage.claims import claim
from steerlm.storage.files import read_json, write_json
from steerlm.storage.hash_set import hash64
from steerlm.template.conversation_encoder import ConversationEncoder

_HELD_OUT_BATCH = 64


def reinforce(
    config: ReinforceConfig,
    *,
    sft: TrainSftConfig,
    steerable_model: Path,
    attribute_model: Path | None,
    data: Path,
    validation: Path,
    schema: AttributeSchema,
    out: Path,
    seed: int,
) -> Mapping[str, Any]:
    """Reinforce a steerable model for all its dials.

    Args:
        sft: the section of the fine-tuning: context, precision, warm-up and clipping are its.
        steerable_model: the model to begin with, and the reference.
        attribute_model: rewards; None where the measures and classifiers of the schema say everything.
        data: training conversations, whose prompts are answered.
        validation: held-out conversations: before and after are compared on their prompts.
        out: see the module's docstring. Called again after an interruption, it goes on where it stopped.

    Returns:
        What is in `out/report.json`: the course, with the rewards of the first and the last steps; quality and error
        before and after.

    Raises:
        UserError: TRL is not installed, a model of another kind or schema, no prompt with room for an answer, or an
            `out` that holds something else.
    """
    with needs_extra("baselines", "steerlm reinforce"):
        from steerlm.stages.reinforce.trainer import train_grpo
    refuse_ranks("reinforce", "there is no distributed way")
    _, settings = require_models(steerable_model, attribute_model, schema)
    inputs = tuning_inputs("reinforce", config, sft, steerable_model, attribute_model, data, validation, schema, seed)
    claim(out / "inputs.json", inputs, otherwise="refuse", holds="a reinforcement")
    held_out = HeldOut(
        out / "held_out",
        attribute_model,
        validation,
        schema,
        settings,
        Sampling(config.max_new_tokens, config.temperature),
        _HELD_OUT_BATCH,
        seed,
    )
    before = held_out.answers(0, steerable_model)
    course_path = out / "course.json"
    if not course_path.is_file():
        tokenizer = load_tokenizer(steerable_model)
        encoder = ConversationEncoder(tokenizer, schema)
        longest = min(sft.max_length, context_length(load_config(steerable_model), tokenizer))
        count = config.steps * config.batch_size // config.num_generations
        asks = draw_asks(encoder, data, schema, settings, longest - config.max_new_tokens, count, seed)
        rewards = attribute_rewards(attribute_model, schema)
        done = train_grpo(steerable_model, asks, rewards, encoder.decode, config, sft, out / "trl", seed)
        how = {"method": "grpo", "seed": seed, **config.model_dump(mode="json")}
        save_reinforced(steerable_model, done.weights, out, base_model=str(steerable_model), tuned=how)
        write_json(course_path, done.course)
    course = read_json(course_path)
    report = {
        "training": course,
        "held_out": held_out.compare(before, held_out.answers(1, out / "model")),
    }
    write_json(out / "report.json", report)
    return report


def draw_asks(
    encoder: ConversationEncoder,
    data: Path,
    schema: AttributeSchema,
    settings: Sequence[Mapping[str, Value]],
    room: int,
    count: int,
    seed: int,
) -> list[Any]:
    """Return `count` prompts at settings: all prompts in a random order, then again at other settings.

    Args:
        data: conversations, each used up to its last user turn.
        room: most tokens of a prompt.
    """
    from steerlm.stages.reinforce.trainer import SteeredPrompt

    prompts = list(read_prompts(data, schema, None, seed))
    prompts.sort(key=lambda prompt: hash64(str(seed), "order", prompt.id))
    longest = max(settings, key=lambda setting: len(encoder.prompt(prompts[0].messages, setting))) if prompts else {}
    fitting = [p for p in prompts if len(encoder.prompt(p.messages, longest)) <= room]
    if not fitting:
        raise UserError(
            f"no prompt of {data} leaves room for an answer; raise train_sft.max_length or lower "
            "reinforce.max_new_tokens"
        )
    asks = []
    for i in range(count):
        prompt = fitting[i % len(fitting)]
        requested = settings[hash64(str(seed), str(i // len(fitting)), prompt.id) % len(settings)]
        asks.append(SteeredPrompt(prompt.messages, requested, encoder.prompt(prompt.messages, requested)))
    return asks


def save_reinforced(policy: Path, weights: Mapping[str, Any], out: Path, **provenance: object) -> None:
    """Write `out/model`: the weights in a fresh model, as TRL patches the forward of its own."""
    info = load_info(policy)
    info = dataclasses.replace(info, provenance={**info.provenance, **provenance}, strengths={})
    fresh = load_causal_lm(policy)
    fresh.load_state_dict(weights)
    save_model(out / "model", fresh, load_tokenizer(policy), info, model_card(info, {}, {}))
