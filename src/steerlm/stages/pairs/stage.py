"""Training pairs for rewriting by hindsight: a text, and what a related text became of it, labelled with what it is.

    steerlm pairs --texts answers-of-a.jsonl --texts answers-of-b.jsonl --out pairs

Any two related texts are a pair: whatever the second measures is taken for what was asked, so that the label has no
error and needs no annotator. Sources are texts on one question that share enough of their words, edits by rule (there
and back), and a model's own rewrites, of which none is thrown away.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from steerlm.attributes import AttributeSchema, Value
from steerlm.conversation import Conversation, Message, Score, write_conversations
from steerlm.errors import UserError
from steerlm.scorers.dials import check_dials, fit_dials
from steerlm.scorers.labelling import SchemaLabels, open_labels
from steerlm.scorers.measures import words
from steerlm.scorers.protocol import Scores, Turn
from steerlm.stages.pairs.edits import edits_of
from steerlm.statistics.steerability import uniform_weights
from steerlm.storage.claims import claim_file, digest_of
from steerlm.storage.files import read_json, write_json
from steerlm.storage.progress import progress
from steerlm.storage.resumable import map_lines, read_rows

INSTRUCTION = "Rewrite the following text."
"""What the user says before the text; where its measures should go stands in the header."""
_SHORTEST_CONTENT_WORD = 4
_CHUNK = 64


class Related(NamedTuple):
    """A text and what became of it.

    Attributes:
        group: what both belong to; a split keeps it on one side.
        how: `texts` (two texts on one question), `edit`, `undone edit` or `rewrite`.
    """

    group: str
    source: str
    target: str
    how: str


@dataclass(frozen=True)
class PairsPlan:
    """Which pairs are made.

    Attributes:
        schema: the attributes; those with a measure or classifier need nothing else.
        attribute_model: says the others; None: they are left out of the labels.
        edits: make edits by rule as well.
        min_overlap: share of content words that two texts on one question must have in common.
        most: draw so many, evenly over where texts come from and go to; None: all.
        seed: of the draw.
    """

    schema: AttributeSchema
    attribute_model: Path | None
    edits: bool
    min_overlap: float
    most: int | None
    seed: int


def make_pairs(
    plan: PairsPlan, texts: Mapping[str, Sequence[str]], rewrites: Sequence[Related], out: Path
) -> Mapping[str, object]:
    """Write the pairs.

    Args:
        plan: which.
        texts: by question (or whatever relates them) the texts on it.
        rewrites: a model's own, with their sources.
        out: receives `pairs.jsonl`, conversations that `prepare` reads, and `attributes.yaml`, the schema with its cuts
            for a recipe; beside them what was measured (`cuts.json`, `labels.jsonl`), so that a second call goes on.

    Returns:
        A summary: pairs by kind, how many attributes move in a pair, how often two of them move the same way.

    Raises:
        UserError: a measure whose package or model is not installed, no pair, or a measure that cannot be cut into
            levels.
    """
    check_dials(plan.schema)  # what is not installed should be missed before all texts are paired
    found = list(dict.fromkeys([*_of_texts(plan, texts), *rewrites]))
    if not found:
        raise UserError(
            f"no pairs: no two texts on one question share {plan.min_overlap:.0%} of their content words; give "
            "--edits, --rewrites, more files, or a smaller --min-overlap"
        )
    different = list(dict.fromkeys(text for pair in found for text in (pair.source, pair.target)))
    turns = [(Message("user", INSTRUCTION), Message("assistant", text)) for text in different]
    schema = _with_cuts(plan.schema, turns, out / "cuts.json")
    labels = open_labels(schema, plan.attribute_model)
    scores = dict(zip(different, _scored(labels, turns, out / "labels.jsonl"), strict=True))
    known = [pair for pair in found if scores[pair.source] and scores[pair.target]]
    levels = {text: labels.values(row) for text, row in scores.items() if row}
    chosen = _drawn(known, schema, levels, plan)

    def conversations() -> Iterator[Conversation]:
        for number, pair in enumerate(chosen):
            values, row = levels[pair.target], scores[pair.target]
            said = Message("assistant", pair.target, values, scores=row, labelled_by=labels.labelled_by(values))
            asked = Message("user", f"{INSTRUCTION}\n\n{pair.source}")
            yield Conversation(f"pair/{number}", (asked, said), pair.how, pair.group)

    written = write_conversations(out / "pairs.jsonl", conversations(), schema)
    write_json(out / "attributes.yaml", schema.to_dict())  # JSON is YAML
    return {
        "pairs": written,
        "texts": len(different),
        "kinds": dict(Counter(pair.how for pair in chosen)),
        "unlabelled": len(found) - len(known),
        "moved": _moved(chosen, levels),
        "same_way": _same_way(chosen, schema, levels),
    }


def _with_cuts(schema: AttributeSchema, turns: Sequence[Turn], path: Path) -> AttributeSchema:
    """Return the schema with all its cuts; `path` keeps those that the texts say."""
    if all(attribute.learned or attribute.cuts or attribute.categories for attribute in schema):
        return schema
    claim_file(path, digest_of(schema.to_dict(), [turn[-1].content for turn in turns]))
    if not path.is_file():
        fitted, _ = fit_dials(schema, turns, lambda rows: progress(rows, len(rows), "cuts"))
        write_json(path, {attribute.name: attribute.cuts for attribute in fitted if attribute.cuts})
    return schema.with_cuts(read_json(path))


def _scored(labels: SchemaLabels, turns: Sequence[Turn], path: Path) -> Iterator[Scores | None]:
    """Yield what is said of every turn; `path` keeps it."""

    def work(chunk: list[Turn]) -> list[Mapping[str, object] | None]:
        return [row and {name: score.to_dict() for name, score in row.items()} for row in labels.score(chunk)]

    claim_file(path, digest_of(labels.key, labels.schema.signature, [turn[-1].content for turn in turns]))
    map_lines(path, turns, work, chunk=_CHUNK, description="labels")
    for row in read_rows(path):
        yield row and {name: Score(**score) for name, score in row.items()}


def content_overlap(first: str, second: str) -> float:
    """Return the share of their content words (four letters or more) that two texts have in common."""
    a, b = ({w for w in words(text) if len(w) >= _SHORTEST_CONTENT_WORD} for text in (first, second))
    return len(a & b) / len(a | b) if a | b else 1.0


def _of_texts(plan: PairsPlan, texts: Mapping[str, Sequence[str]]) -> Iterator[Related]:
    for group, answers in texts.items():
        different = list(dict.fromkeys(text for text in answers if text.strip()))
        for first, second in itertools.combinations(different, 2):
            if content_overlap(first, second) >= plan.min_overlap:
                yield Related(group, first, second, "texts")
                yield Related(group, second, first, "texts")
        for text in different if plan.edits else ():
            for edited in edits_of(text).values():
                yield Related(group, text, edited, "edit")
                yield Related(group, edited, text, "undone edit")


def _drawn(
    pairs: Sequence[Related], schema: AttributeSchema, levels: Mapping[str, Mapping[str, Value]], plan: PairsPlan
) -> list[Related]:
    """Draw pairs so that where they come from and go to is spread evenly: data move attributes together."""
    if plan.most is None or plan.most >= len(pairs):
        return list(pairs)

    def place(text: str) -> list[float]:
        found = [levels[text].get(attribute.name) for attribute in schema.ordinal]
        # an attribute that the text does not define says nothing about where it stands
        return [
            0.5 if value is None else attribute.to_unit(float(value))
            for attribute, value in zip(schema.ordinal, found, strict=True)
        ]

    points = np.array([[*place(pair.source), *place(pair.target)] for pair in pairs])
    weights = uniform_weights(points, np.random.RandomState(plan.seed))
    order = np.random.RandomState(plan.seed).choice(len(pairs), size=plan.most, replace=False, p=weights)
    return [pairs[i] for i in sorted(order)]


def _moved(pairs: Sequence[Related], levels: Mapping[str, Mapping[str, Value]]) -> Mapping[str, int]:
    """Return in how many pairs so many attributes change their level."""
    counts = Counter(
        sum(levels[pair.source].get(name) != value for name, value in levels[pair.target].items()) for pair in pairs
    )
    return {str(number): counts[number] for number in sorted(counts)}


def _same_way(
    pairs: Sequence[Related], schema: AttributeSchema, levels: Mapping[str, Mapping[str, Value]]
) -> Mapping[str, float]:
    """Return per two attributes the share of pairs in which both move that move them the same way."""
    out = {}
    for first, second in itertools.combinations(schema.ordinal, 2):
        signs = []
        for pair in pairs:
            a, b = levels[pair.source], levels[pair.target]
            if all(name in x for name in (first.name, second.name) for x in (a, b)):
                product = np.prod([float(b[n]) - float(a[n]) for n in (first.name, second.name)])
                signs += [product > 0] if product else []
        if signs:
            out[f"{first.name}, {second.name}"] = float(np.mean(signs))
    return out
