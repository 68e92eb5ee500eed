"""Asking people: which answers they see, whether they have answered, and what becomes of it."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.config import PlaygroundConfig
from steerlm.conversation import Conversation, Message, Score, read_conversations, write_conversations
from steerlm.stages.bootstrap.data import scored_prompts
from steerlm.stages.bootstrap.selection import ScoredSample
from steerlm.studies.rate.export import export_ratings
from steerlm.studies.rate.items import rated_turns
from steerlm.studies.rate.store import DATABASE, annotators, create_study, finished, open_study, read_answers

_QUESTION = "How do you rate the last answer?"


def write_unsure(folder: Path, schema: AttributeSchema, count: int) -> None:
    """Write `to_rate.jsonl`: the answers of a round of which the attribute model is least sure, one per prompt.

    Unsure is a spread that is wide for its attribute; only attributes that people rate count.

    Args:
        folder: of the round, with prompts, samples and scores.
    """
    path = folder / "to_rate.jsonl"
    if not path.is_file():
        found = _scored(folder, schema)
        usual = {
            a.name: sum(scores[a.name].std for _, scores in found if a.name in scores) / max(1, len(found)) or 1.0
            for a in schema.ordinal
            if a.learned
        }

        def doubt(scores: Mapping[str, Score]) -> float:
            return sum(scores[name].std / usual[name] for name in usual if name in scores)

        ranked = sorted(found, key=lambda row: (-doubt(row[1]), row[0].id))
        chosen: dict[str, Conversation] = {}
        for record, _ in ranked:
            chosen.setdefault(record.id.rpartition("/")[0], record)
        write_conversations(path, list(chosen.values())[:count], schema)


def _scored(folder: Path, schema: AttributeSchema) -> list[tuple[Conversation, Mapping[str, Score]]]:
    found = []
    for prompt, samples, scored in scored_prompts(folder, schema):
        for i, (sample, row) in enumerate(zip(samples, scored, strict=True)):
            if isinstance(row, ScoredSample):
                turns = (*prompt.messages, Message("assistant", sample["text"]))
                found.append((Conversation(f"{prompt.id}/grow-{i}", turns, "ratings", prompt.group), row.scores))
    return found


def ask_people(folder: Path, schema: AttributeSchema, seed: int, go_on: bool) -> Path | None:
    """Return the ratings of `to_rate.jsonl` once people have given them; None while they have not.

    Args:
        folder: of the round; the study lies in its `rate/`.
        schema: what people rate.
        seed: of the order in which they see the answers.
        go_on: take what there is, even nothing: then the file is empty.
    """
    path, study = folder / "ratings.jsonl", folder / "rate"
    if path.is_file():
        return path
    if not (study / DATABASE).is_file():
        items = rated_turns(folder / "to_rate.jsonl", "last", None, seed)
        create_study(study, items, question=_QUESTION, schema=schema, systems=[], seed=seed)
    opened = open_study(study)
    rated = {item for person in annotators(opened) for item in finished(opened, read_answers(opened, person))}
    if len(rated) < opened.num_items and not go_on:
        return None
    if any(answer.attribute for answer in read_answers(opened)):
        export_ratings(opened, path)
    else:
        write_conversations(path, [], schema)
    return path


def ask_playground(folder: Path, schema: AttributeSchema, world: PlaygroundConfig, seed: int) -> Path:
    """Return the ratings that the playground's simulated annotators give to `to_rate.jsonl`.

    Args:
        schema: what people rate.
    """
    from steerlm.playground.annotators import draw_annotators, rate
    from steerlm.playground.measuring import measure

    path = folder / "ratings.jsonl"
    if not path.is_file():
        people = draw_annotators(world.num_annotators, world.annotator_bias, schema, seed)
        dice = random.Random(f"ratings {seed} {folder.name}")
        rated = []
        for record in read_conversations(folder / "to_rate.jsonl"):  # in the run's schema, of which people rate a part
            found = measure(record.messages)
            truth = {name: schema[name].round(value) for name, value in found.items() if name in schema}
            raters = dice.sample(people, min(world.annotators_per_response, len(people)))
            ratings = rate(truth, raters, world.label_noise, world.missing_fraction, schema, dice)
            rated.append(_with_ratings(record, ratings, schema))
        write_conversations(path, rated, schema)
    return path


def _with_ratings(record: Conversation, ratings: dict[str, tuple[float, ...]], schema: AttributeSchema) -> Conversation:
    means = {name: schema[name].round(sum(given) / len(given)) for name, given in ratings.items()}
    answer = replace(record.messages[-1], attributes=means, ratings=ratings, labelled_by="human")
    return record.with_message(len(record.messages) - 1, answer)


def count_ratings(files: Sequence[Path]) -> int:
    """Return how many single ratings files hold."""
    return sum(
        len(given)
        for file in files
        for record in read_conversations(file)
        for message in record.messages
        for given in (message.ratings or {}).values()
    )
