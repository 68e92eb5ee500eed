"""The rungs of the paper's ablation (SteerLM, table 4), and the records each of them trains on.

Every rung fine-tunes the same base model with the recipe's settings, as the paper does: what differs is which records
it sees and which labels stand in front of the answers. A rung with fewer records therefore takes fewer optimizer
steps; `--set train_sft.max_steps=N` gives every rung the same number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steerlm.attributes import AttributeSchema
from steerlm.config import Recipe, load_recipe
from steerlm.conversation import Conversation, Message, Score, read_conversations, write_conversations
from steerlm.errors import UserError, did_you_mean
from steerlm.stages.tuning.quality import predicted_quality

Data = Literal["labelled", "best", "all"]


@dataclass(frozen=True)
class Rung:
    """One rung.

    Attributes:
        data: `labelled`: the records that people labelled; `best`: those of them with the highest quality; `all`.
        labels: what the answers are conditioned on; None = nothing (plain SFT).
        paper: the paper's score, in percent of ChatGPT-3.5's on the Vicuna prompts (judge GPT-4).
    """

    name: str
    adds: str
    data: Data
    labels: Literal["human", "predicted"] | None
    paper: float


RUNGS = (
    Rung("plain", "SFT without attributes", "labelled", None, 79.7),
    Rung("human", "human attribute labels", "labelled", "human", 96.2),
    Rung("best", "best samples only, attributes kept", "best", "human", 98.1),
    Rung("predicted", "attribute-model labels in place of human ones", "labelled", "predicted", 102.7),
    Rung("more", "more data, annotated by the attribute model", "all", "predicted", 103.7),
    Rung("bootstrap", "bootstrapping", "all", "predicted", 104.2),
)
"""The ladder, in the paper's order."""


def in_folder(recipe: Path, overrides: Mapping[str, Any], out: Path | None) -> tuple[Recipe, Path]:
    """Return a recipe whose run folder is `out/shared`, and `out` (default: its own run folder and `-ablation`)."""
    if out is None:
        run_dir = load_recipe(recipe, dict(overrides)).run_dir
        out = run_dir.with_name(f"{run_dir.name}-ablation")
    return load_recipe(recipe, {**overrides, "run_dir": str(out / "shared")}), out


def chosen_rungs(names: Sequence[str], recipe: Recipe) -> tuple[Rung, ...]:
    """Return the rungs to climb, in the paper's order.

    Args:
        names: as the user gave them; empty = all that the recipe allows (`bootstrap` needs a section of it).
    """
    known = [rung.name for rung in RUNGS]
    for name in names:
        if name not in known:
            raise UserError(f"--rungs: unknown rung {name!r}: {did_you_mean(name, known)}")
    if "bootstrap" in names and recipe.bootstrap is None:
        raise UserError("--rungs: bootstrap needs the section `bootstrap` in the recipe")
    if "bootstrap" in names and not {"predicted", "more"}.intersection(names):
        raise UserError("--rungs: bootstrap starts from the model of the rung `more` or `predicted`; name one of them")
    wanted = names or [name for name in known if name != "bootstrap" or recipe.bootstrap is not None]
    return tuple(rung for rung in RUNGS if rung.name in wanted)


def parent(rungs: Sequence[Rung]) -> Rung:
    """Return the rung whose model bootstrapping starts from: the last one before it with predicted labels."""
    return [rung for rung in rungs if rung.labels == "predicted" and rung.name != "bootstrap"][-1]


def quality_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the attributes that count as quality: those of the section `bootstrap`, else all with a best end."""
    if recipe.bootstrap is not None and recipe.bootstrap.quality_attributes:
        return recipe.bootstrap.quality_attributes
    names = tuple(attribute.name for attribute in recipe.schema_.ordinal if attribute.best is not None)
    if not names:
        raise UserError("no attribute of the recipe has a best end, so nothing says what quality is; set `best`")
    return names


def is_labelled(record: Conversation) -> bool:
    """Whether people labelled an answer of the record."""
    return any(record.messages[i].human_labels for i in record.assistant_turns)


def measured_too(record: Conversation, schema: AttributeSchema) -> Conversation:
    """Return an annotated record whose human labels hold what is measured, which nobody has to rate."""
    measured = [attribute.name for attribute in schema if not attribute.learned]

    def told(message: Message) -> Message:
        values = message.attributes or {}
        found = {name: values[name] for name in measured if name in values}
        return dataclasses.replace(message, human={**message.human_labels, **found}) if found else message

    return dataclasses.replace(record, messages=tuple(map(told, record.messages)))


def human_quality(record: Conversation, schema: AttributeSchema, quality: Sequence[str]) -> float | None:
    """Return the quality of a record's worst answer by its human labels (high = good); None where one is missing."""
    worst = None
    for i in record.assistant_turns:
        labels = record.messages[i].human_labels
        values = {name: labels.get(name) for name in quality}
        scores = {name: Score(float(value), 0.0) for name, value in values.items() if isinstance(value, int)}
        if len(scores) < len(quality):
            return None
        level = predicted_quality(schema, quality, scores)
        worst = level if worst is None else min(worst, level)
    return worst


def write_records(
    source: Path, target: Path, data: Data, schema: AttributeSchema, quality: Sequence[str], human: bool = False
) -> int:
    """Copy the records that a rung sees, in the order of the data; returns how many.

    Args:
        human: they are conditioned on what people say, beside what is measured.

    The best records are those whose every answer reaches the highest human-labelled quality that occurs in the file.
    """

    def read() -> Iterator[Conversation]:
        for record in read_conversations(source, schema):
            yield measured_too(record, schema) if human and is_labelled(record) else record

    def goodness(record: Conversation) -> float | None:
        return human_quality(record, schema, quality)

    highest = None
    if data == "best":
        levels = map(goodness, read())
        highest = max((level for level in levels if level is not None), default=None)

    def seen(record: Conversation) -> bool:
        if data == "labelled":
            return is_labelled(record)
        return data == "all" or (highest is not None and goodness(record) == highest)

    return write_conversations(target, filter(seen, read()), schema)
