"""Build the playground: data files with simulated human labels, held-out prompts, and a base model.

steerlm playground playground

OUT/labelled.jsonl      dialogues whose replies simulated annotators rated (noisy, biased, some labels missing)
   /unlabelled.jsonl    dialogues without labels
   /prompts.jsonl       held-out questions; every one is asked for combinations that no training reply has
   /base_model/         a small Llama, pretrained from scratch on the text of the dialogues
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.config import PlaygroundConfig
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.playground.annotators import SimulatedAnnotator, draw_annotators, rate
from steerlm.playground.generate import (
    Dialogue,
    draw_dialogues,
    draw_openings,
    max_prompts,
    withheld_levels,
)
from steerlm.playground.lexicon import ATTRIBUTES, LEVELS
from steerlm.storage.files import write_json


def build(config: PlaygroundConfig, schema: AttributeSchema, out: Path, seed: int) -> dict[str, object]:
    """Generate the world and pretrain its base model.

    Args:
        schema: must hold the world's attributes, 0..4 each, in any order; further ones must be measured.
        out: see the module's docstring; also receives `summary.json`. Called again after an interruption it goes on.

    Raises:
        UserError: another schema, or more prompts than the world can ask.
    """
    _check(config, schema)
    summary_path = out / "summary.json"
    if summary_path.is_file():
        finished: dict[str, object] = json.loads(summary_path.read_text(encoding="utf-8"))
        return finished
    dialogues, prompts = generate(config, seed)
    labelled, unlabelled = label(dialogues, config, schema, seed)
    write_conversations(out / "labelled.jsonl", labelled, schema)
    write_conversations(out / "unlabelled.jsonl", unlabelled, schema)
    write_conversations(out / "prompts.jsonl", prompts_of(prompts, config, schema, seed), schema)

    from steerlm.playground.pretrain import pretrain

    documents = [[message.content for message in dialogue.messages()] for dialogue in dialogues]
    summary = {
        "dialogues": len(dialogues),
        "replies": sum(len(dialogue.turns) for dialogue in dialogues),
        "labelled": len(labelled),
        "unlabelled": len(unlabelled),
        "held_out_prompts": len(prompts),
        "pretraining": pretrain(config, documents, schema, out, seed),
    }
    write_json(summary_path, summary)
    return summary


def generate(config: PlaygroundConfig, seed: int) -> tuple[list[Dialogue], list[Dialogue]]:
    """Generate the training dialogues, and held-out ones whose last reply is left out when they become prompts."""
    openings, held_out = draw_openings(config.languages, config.num_prompts, config.num_held_out, seed)
    withheld = withheld_levels(config.languages, seed)
    dialogues = [
        dialogue
        for opening in openings
        for dialogue in draw_dialogues(opening, config, config.responses_per_prompt, withheld, seed)
    ]
    prompts = [dialogue for opening in held_out for dialogue in draw_dialogues(opening, config, 1, withheld, seed)]
    return dialogues, prompts


def label(
    dialogues: Sequence[Dialogue], config: PlaygroundConfig, schema: AttributeSchema, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Let simulated annotators rate a share of the prompts, as far as they speak the language.

    Returns:
        (labelled, unlabelled) records; both carry the truth in `meta`.
    """
    schema = AttributeSchema(tuple(attribute for attribute in schema if attribute.name in ATTRIBUTES))
    annotators = draw_annotators(config.num_annotators, config.annotator_bias, schema, seed)
    spoken = set(config.labelled_languages or config.languages)
    numbers = sorted({dialogue.prompt for dialogue in dialogues})
    random.Random(f"labelled {seed}").shuffle(numbers)
    rated = set(numbers[: round(config.labelled_fraction * len(numbers))])
    labelled: list[Conversation] = []
    unlabelled: list[Conversation] = []
    for index, dialogue in enumerate(dialogues):
        rng = random.Random(f"ratings {seed} {index}")
        messages: list[Message] = []
        is_rated = dialogue.prompt in rated and dialogue.languages() <= spoken
        for message, truth in _replies(dialogue):
            if truth is not None and is_rated:
                message = _rated(message, truth, annotators, config, schema, rng)
            messages.append(message)
        record = Conversation(
            f"playground-{index:05d}",
            tuple(messages),
            _source(dialogue, config),
            f"prompt-{dialogue.prompt:05d}",
            _meta(dialogue),
        )
        (labelled if is_rated else unlabelled).append(record)
    return labelled, unlabelled


def _replies(dialogue: Dialogue) -> Iterator[tuple[Message, dict[str, int] | None]]:
    """Yield every message, replies with their true levels."""
    for turn in dialogue.turns:
        yield Message("user", turn.question), None
        yield Message("assistant", turn.reply), dict(turn.levels)


def _rated(
    message: Message,
    truth: dict[str, int],
    annotators: Sequence[SimulatedAnnotator],
    config: PlaygroundConfig,
    schema: AttributeSchema,
    rng: random.Random,
) -> Message:
    raters = rng.sample(annotators, config.annotators_per_response)
    ratings = rate(truth, raters, config.label_noise, config.missing_fraction, schema, rng)
    values = {name: schema[name].round(sum(given) / len(given)) for name, given in ratings.items()}
    return Message("assistant", message.content, attributes=values, ratings=ratings, labelled_by="human")


def prompts_of(
    dialogues: Sequence[Dialogue], config: PlaygroundConfig, schema: AttributeSchema, seed: int
) -> Iterator[Conversation]:
    """Cut last replies off; earlier replies are labelled with the truth, as no model has seen them."""
    withheld = withheld_levels(config.languages, seed)
    spoken = [attribute.name for attribute in schema if attribute.measure == "language"]
    for dialogue in dialogues:
        messages = []
        for turn in dialogue.turns:
            truth = {**turn.levels, **dict.fromkeys(spoken, turn.language)}
            messages.append(Message("user", turn.question))
            messages.append(Message("assistant", turn.reply, attributes=truth, labelled_by="measure"))
        number = f"held-out-{dialogue.prompt:05d}"
        meta = _meta(dialogue, withheld[dialogue.topic.name])
        yield Conversation(number, tuple(messages[:-1]), _source(dialogue, config), number, meta)


def _source(dialogue: Dialogue, config: PlaygroundConfig) -> str:
    """Name the question's language where there are several, so that an evaluation by source is one by language."""
    return "playground" if len(config.languages) == 1 else f"playground-{dialogue.topic.language}"


def _meta(dialogue: Dialogue, withheld: dict[str, int] | None = None) -> dict[str, object]:
    known: dict[str, object] = {"topic": dialogue.topic.name, "kinds": [turn.kind for turn in dialogue.turns]}
    if withheld is None:
        known["truth"] = [dict(turn.levels) for turn in dialogue.turns]
    else:
        known["truth"] = [dict(turn.levels) for turn in dialogue.turns[:-1]]
        known["never_in_training"] = withheld
    return {"meta": known}


def _check(config: PlaygroundConfig, schema: AttributeSchema) -> None:
    names = sorted(ATTRIBUTES)
    scales = {attribute.name: attribute.levels for attribute in schema if attribute.said_by != "measure"}
    if sorted(scales) != names or any(levels != LEVELS for levels in scales.values()):
        raise UserError(
            f"the playground's attributes are {', '.join(names)}, each from {LEVELS[0]} to {LEVELS[-1]}; "
            f"the recipe has {schema.signature}: change its `attributes`"
        )
    most = max_prompts(config.languages)
    if config.num_prompts + config.num_held_out > most:
        raise UserError(
            f"playground.num_prompts {config.num_prompts} and num_held_out {config.num_held_out} are more than the "
            f"{most} questions that the playground can ask"
        )
    if config.annotators_per_response > config.num_annotators:
        raise UserError(
            f"playground.annotators_per_response {config.annotators_per_response} is more than "
            f"num_annotators {config.num_annotators}"
        )
