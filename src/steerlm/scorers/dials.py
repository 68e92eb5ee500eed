"""Attributes that need no attribute model: an exact measure of the text or a classifier says their value.

The schema says which, and where the figures are cut into levels; whoever labels, evaluates or serves opens the same
scorers from it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.config import ClassifierConfig
from steerlm.conversation import Message, Score
from steerlm.errors import UserError, did_you_mean
from steerlm.scorers.classifiers import CategoryScorer, ClassifierScorer
from steerlm.scorers.levels import quantile_cuts, score_of
from steerlm.scorers.protocol import Scorer, Scores, Turn
from steerlm.scorers.text_measures.language import language_of, languages
from steerlm.scorers.text_measures.registry import Measured, find_measure

if TYPE_CHECKING:
    from steerlm.checkpoint.models import Precision


class DialMeasures:
    """The measured attributes of a schema; exact, and so independent of the labels that they set.

    Args:
        schema: the attributes; cuts are needed for `score` only.

    Raises:
        UserError: no such measure.
    """

    label = "the dial's own measure (exact)"

    def __init__(self, schema: AttributeSchema, attributes: Sequence[Attribute]) -> None:
        self._measured = [(attribute, find_measure(attribute.measure)) for attribute in attributes]
        self.attributes = tuple(attribute.name for attribute in attributes)
        self.who = "measure:" + ",".join(attribute.measure for attribute in attributes)

    def independent_of(self, training: Collection[str]) -> bool:
        """See `Scorer.independent_of`."""
        return True

    def figures(self, turn: Turn) -> dict[str, Measured]:
        """Measure the last turn; None where the text does not define it.

        A reply too short to tell its language is in that of what was said before it; the measure `language` itself
        knows the reply alone.
        """
        text = turn[-1].content
        spoken = around = None
        if any(measure.needs_language for _, measure in self._measured):
            spoken = around = language_of(text)
            if spoken is None and len(turn) > 1:
                around = language_of("\n".join([text, *(message.content for message in reversed(turn[:-1]))]))
        return {
            attribute.name: measure.of(text, spoken if measure.categorical else around)
            for attribute, measure in self._measured
        }

    def score(self, turns: Sequence[Turn]) -> list[Scores | None]:
        return [self._scores(self.figures(turn)) for turn in turns]

    def _scores(self, figures: Mapping[str, Measured]) -> dict[str, Score]:
        scores: dict[str, Score] = {}
        for attribute, _ in self._measured:
            figure = figures[attribute.name]
            if attribute.kind == "categorical":
                if figure in attribute.categories:
                    scores[attribute.name] = Score(0.0, 0.0, {c: float(c == figure) for c in attribute.categories})
            elif isinstance(figure, float):
                scores[attribute.name] = score_of(attribute, figure)
        return scores


class DialClassifier:
    """A classifier that says one or more ordinal attributes of a schema.

    Args:
        model: the classifier, Hugging Face id or folder.

    Raises:
        UserError: see `ClassifierScorer`.
    """

    def __init__(
        self, schema: AttributeSchema, model: str, attributes: Sequence[Attribute], precision: Precision = "auto"
    ) -> None:
        labels = {a.classifier.label: a.name for a in attributes if a.classifier is not None}
        self._schema = schema
        self._scorer = ClassifierScorer(ClassifierConfig(model=model, labels=labels), schema, precision)
        self.attributes = self._scorer.attributes
        self.label, self.who = self._scorer.label, self._scorer.who

    def independent_of(self, training: Collection[str]) -> bool:
        """See `Scorer.independent_of`."""
        return self._scorer.independent_of(training)

    def figures(self, turns: Sequence[Turn]) -> list[dict[str, Measured]]:
        """Return per turn the probability (0..1) of the attributes' labels."""
        return [dict(row) for row in self._shares(turns)]

    def score(self, turns: Sequence[Turn]) -> list[Scores | None]:
        return [
            {name: score_of(self._schema[name], share) for name, share in row.items()} if row else None
            for row in self._shares(turns)
        ]

    def _shares(self, turns: Sequence[Turn]) -> list[dict[str, float]]:
        rows = self._scorer.score(turns)
        return [{} if row is None else {n: self._schema[n].to_unit(s.mean) for n, s in row.items()} for row in rows]


def open_measures(schema: AttributeSchema) -> DialMeasures | None:
    """Return what measures attributes of a schema; None where none is measured."""
    measured = [attribute for attribute in schema if attribute.measure]
    return DialMeasures(schema, measured) if measured else None


def open_classifiers(schema: AttributeSchema, precision: Precision = "auto") -> list[DialClassifier | CategoryScorer]:
    by_model: dict[str, list[Attribute]] = {}
    for attribute in schema.ordinal:
        if attribute.classifier is not None:
            by_model.setdefault(attribute.classifier.model, []).append(attribute)
    return [
        *(DialClassifier(schema, model, said, precision) for model, said in by_model.items()),
        *(CategoryScorer(a, precision) for a in schema if a.classifier is not None and a.kind == "categorical"),
    ]


def open_dials(schema: AttributeSchema, precision: Precision = "auto") -> list[Scorer]:
    measures = open_measures(schema)
    return [*([measures] if measures is not None else []), *open_classifiers(schema, precision)]


def tellers(schema: AttributeSchema, scorers: Sequence[Scorer]) -> dict[str, str]:
    """Return who says each attribute: a measure by its own name, a classifier as the scorer says."""
    who = {name: scorer.who for scorer in scorers for name in scorer.attributes}
    return {name: f"measure:{schema[name].measure}" if schema[name].measure else who[name] for name in who}


def values_of(schema: AttributeSchema, scores: Scores) -> dict[str, Value]:
    """Return the levels of scores that `score_of` made, and the likeliest categories."""
    values: dict[str, Value] = {}
    for name, score in scores.items():
        attribute = schema[name]
        if score.probabilities is not None and attribute.kind == "categorical":
            values[name] = max(score.probabilities, key=score.probabilities.__getitem__)
        else:
            values[name] = attribute.round(score.mean)
    return values


_PROBE = (Message("user", "What is this, please?"), Message("assistant", "It is a probe of what is installed here."))
_CLASSIFIED = 1000
"""Turns that show where a classifier's probabilities are cut."""


def check_dials(schema: AttributeSchema) -> None:
    """Refuse a schema whose measures or classifiers cannot work here; reads no weights.

    Raises:
        UserError: an unknown measure or label, a package that is missing, a category that a measure never says, a
            number for a categorical attribute or a category for an ordinal one.
    """
    measures = open_measures(schema)
    open_classifiers(schema)
    found = measures.figures(_PROBE) if measures is not None else {}
    for attribute in schema:
        if not attribute.measure:
            continue
        measure = find_measure(attribute.measure)
        categorical = measure.categorical or isinstance(found[attribute.name], str)
        if categorical and attribute.kind == "ordinal":
            raise UserError(
                f"attribute {attribute.name!r}: measure {measure.name} says a category; list those that the dial has, "
                "for example categories: [en, de]"
            )
        if attribute.kind == "categorical" and isinstance(found[attribute.name], float):
            raise UserError(
                f"attribute {attribute.name!r}: measure {measure.name} says a number, which is none of the categories "
                f"{', '.join(attribute.categories)}; leave categories out"
            )
        if measure.name == "language":
            for category in attribute.categories:
                if category not in languages():
                    raise UserError(f"attribute {attribute.name!r}: {did_you_mean(category, languages())}")


def fit_dials(
    schema: AttributeSchema, turns: Sequence[Turn], progress: Callable[[Sequence[Turn]], Iterable[Turn]] | None = None
) -> tuple[AttributeSchema, dict[str, int]]:
    """Return the schema with all its cuts, and how many of the turns do not define each attribute.

    Args:
        turns: of the training data.
        progress: wraps the turns that are gone through.

    Raises:
        UserError: a constant measure, fewer figures than levels, a category that no turn has, a measure that is
            defined nowhere.
    """
    measures = open_measures(schema)
    rows: list[dict[str, Measured]] = [{} for _ in turns]
    if measures is not None:
        for row, turn in zip(rows, progress(turns) if progress else turns, strict=True):
            row.update(measures.figures(turn))
    for classifier in open_classifiers(schema):
        for row, found in zip(rows, classifier.figures(turns[:_CLASSIFIED]), strict=False):
            row.update(found)
    cuts: dict[str, Sequence[float]] = {}
    undefined: dict[str, int] = {}
    for attribute in schema:
        if attribute.learned:
            continue
        asked = [row.get(attribute.name) for row in (rows if attribute.measure else rows[:_CLASSIFIED])]
        figures = [figure for figure in asked if figure is not None]
        undefined[attribute.name] = len(asked) - len(figures)
        if not figures:
            raise UserError(
                f"attribute {attribute.name!r}: none of the {len(asked):,} turns looked at defines "
                f"{attribute.measure or 'it'}; take another measure, or leave the attribute out"
            )
        if attribute.kind == "categorical":
            _require_categories(attribute, figures)
        elif attribute.cuts:
            _require_levels(attribute, [float(figure) for figure in figures])
        else:
            cuts[attribute.name] = quantile_cuts(attribute, [float(figure) for figure in figures])
    return schema.with_cuts(cuts), undefined


def _require_categories(attribute: Attribute, figures: Sequence[Measured]) -> None:
    for category in attribute.categories:
        if category not in figures:
            seen = sorted({str(figure) for figure in figures}, key=[str(f) for f in figures].count, reverse=True)
            raise UserError(
                f"attribute {attribute.name!r}: none of the {len(figures):,} turns looked at is {category!r}; "
                f"commonest: {', '.join(seen[:8])}. Leave the category out, or add data that have it"
            )


def _require_levels(attribute: Attribute, figures: Sequence[float]) -> None:
    if len(set(figures)) == 1:
        raise UserError(
            f"attribute {attribute.name!r}: {attribute.measure or 'its classifier'} is {figures[0]:g} on all "
            f"{len(figures):,} turns looked at: a dial cannot be learned from a constant; take another measure, or "
            "leave the attribute out"
        )
    if all(figure < attribute.cuts[0] for figure in figures) or all(f >= attribute.cuts[-1] for f in figures):
        raise UserError(
            f"attribute {attribute.name!r}: all {len(figures):,} turns looked at lie between {min(figures):g} and "
            f"{max(figures):g}, on one side of every cut ({', '.join(f'{cut:g}' for cut in attribute.cuts)}); set "
            "other cuts, or leave them out for quantiles"
        )


def without_own_measures(schema: AttributeSchema) -> AttributeSchema:
    """Return the schema of a checkpoint with shipped measures only: a stranger's may name any function there is."""
    return AttributeSchema(
        tuple(dataclasses.replace(a, measure="", cuts=()) if ":" in a.measure else a for a in schema.attributes)
    )
