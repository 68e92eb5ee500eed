"""`auto`: a setting proposed from the prompt, which people may override.

A ridge regression from the embedded prompts of the training data to the attributes of their best answers. Best is what
the schema calls so: an attribute with a best end is proposed at it, and the others are learned from the answers that
come nearest to those ends. An attribute that prompts do not foretell stays at its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.conversation import Message
from steerlm.generation.demonstrations import Demonstration, Demonstrations
from steerlm.generation.embedding import LetterEmbedder, Vectors
from steerlm.scorers.ridge import Floats, GroupedRidge

_LEARNED = 0.95
"""An attribute is foretold where the error on prompts held out is below this share of the mean's."""
_FEWEST = 50


@dataclass(frozen=True)
class LearnedDial:
    """How a dial follows from a prompt.

    Attributes:
        weights: (D, C) one column, or one per category.
        bias: (C,).
        error_ratio: error on prompts held out, as a share of that of the mean.
    """

    weights: Floats
    bias: Floats
    error_ratio: float


@dataclass(frozen=True)
class Proposer:
    """Proposes settings.

    Attributes:
        embedder: of prompts.
        fixed: what is proposed whatever the prompt says.
        learned: by attribute; the others are fixed.
    """

    schema: AttributeSchema
    embedder: LetterEmbedder
    fixed: Mapping[str, Value]
    learned: Mapping[str, LearnedDial]

    def propose(self, messages: Sequence[Message]) -> dict[str, Value]:
        """Return a full setting for the last thing that the user said."""
        asked = next((m.content for m in reversed(messages) if m.role == "user"), "")
        vector = self.embedder([asked])[0].astype(np.float64)
        setting: dict[str, Value] = {}
        for attribute in self.schema:
            dial = self.learned.get(attribute.name)
            if dial is None:
                setting[attribute.name] = self.fixed[attribute.name]
                continue
            scores = vector @ dial.weights + dial.bias
            if attribute.kind == "categorical":
                setting[attribute.name] = attribute.categories[int(scores.argmax())]
            else:
                setting[attribute.name] = attribute.round(attribute.from_unit(float(scores[0])))
        return setting


def fit_proposer(shown: Demonstrations) -> Proposer:
    """Learn from the best answer to every prompt; of equally good ones, all."""
    schema = shown.schema
    best = _best_answers(shown.examples, schema)
    fixed = {a.name: a.default_value if a.best_value is None else a.best_value for a in schema}
    open_attributes = [a for a in schema if a.best_value is None]
    rows = {a.name: [i for i in best if shown.examples[i].value(a.name) is not None] for a in open_attributes}
    learned: dict[str, LearnedDial] = {}
    ridges: dict[tuple[int, ...], GroupedRidge] = {}
    for attribute in open_attributes:
        mine = rows[attribute.name]
        groups = [shown.examples[i].prompt for i in mine]
        if len(set(groups)) < _FEWEST:
            continue
        key = tuple(mine)
        if key not in ridges:
            ridges[key] = GroupedRidge(_features(shown.vectors, mine), groups)
        dial = _fit(ridges[key], attribute, [shown.examples[i] for i in mine])
        if dial.error_ratio < _LEARNED:
            learned[attribute.name] = dial
    return Proposer(schema, shown.embedder, fixed, learned)


def _features(vectors: Vectors, rows: Sequence[int]) -> Vectors:
    chosen: Vectors = vectors[np.asarray(rows)]
    return chosen


def _best_answers(examples: Sequence[Demonstration], schema: AttributeSchema) -> list[int]:
    """Return the examples that are the best answers to their prompts, in order."""
    ranked = [_badness(example, schema) for example in examples]
    least: dict[str, float] = {}
    for example, badness in zip(examples, ranked, strict=True):
        least[example.prompt] = min(badness, least.get(example.prompt, np.inf))
    return [i for i, example in enumerate(examples) if ranked[i] == least[example.prompt]]


def _badness(example: Demonstration, schema: AttributeSchema) -> float:
    """Return how far labels are from their best ends; levels, not scores, so that there are ties."""
    labels = example.answer.attributes or {}
    far = 0.0
    for attribute in schema.ordinal:
        if attribute.best_value is not None:
            label, best = labels.get(attribute.name), float(attribute.best_value)
            far += 1.0 if label is None else abs(attribute.to_unit(float(label)) - attribute.to_unit(best))
    return far


def _fit(ridge: GroupedRidge, attribute: Attribute, examples: Sequence[Demonstration]) -> LearnedDial:
    values = [example.value(attribute.name) for example in examples]
    if attribute.kind == "categorical":
        targets = [[float(value == category) for value in values] for category in attribute.categories]
    else:
        targets = [[attribute.to_unit(float(value)) for value in values if value is not None]]
    fits = [ridge.fit(np.array(column)) for column in targets]
    return LearnedDial(
        np.stack([fit.weight for fit in fits], axis=1),
        np.array([fit.bias for fit in fits]),
        float(np.mean([fit.error_ratio for fit in fits])),
    )
