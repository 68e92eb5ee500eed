"""Opens a scorer by what a recipe says of it; models are loaded when they first score."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.attributes import AttributeSchema
from steerlm.config import ClassifierConfig, JudgeScorerConfig
from steerlm.errors import UserError
from steerlm.scorers.classifiers import ClassifierScorer
from steerlm.scorers.measures import Measure, MeasureScorer
from steerlm.scorers.protocol import Scorer, Scores, Turn
from steerlm.scorers.rubric import RubricScorer

if TYPE_CHECKING:
    from steerlm.checkpoint.models import Precision
    from steerlm.scorers.attribute_models import LoadedAttributeModel

Named = tuple[str, Measure] | Path | ClassifierConfig | JudgeScorerConfig
"""A measure with its name, the folder of an attribute model, a classifier, or an LLM with a rubric."""


class AttributeModelScorer:
    """The attribute model in a folder as a scorer of what it shares with a schema.

    Args:
        schema: what is scored, as far as name and scale agree; None: the model's ordinal attributes.

    Raises:
        UserError: no attribute model, or nothing in common with the schema.
    """

    def __init__(
        self, path: Path, schema: AttributeSchema | None, precision: Precision = "auto", devices: int = 1
    ) -> None:
        from steerlm.checkpoint.models import fingerprint, load_info

        theirs = load_info(path).schema
        if schema is None:
            self.attributes = tuple(a.name for a in theirs.ordinal)
        else:
            self.attributes = tuple(
                a.name for a in schema if a.name in theirs and theirs[a.name].signature == a.signature
            )
            if not self.attributes:
                raise UserError(
                    f"attribute model {path} measures {theirs.signature!r}: no attribute and scale in common with the "
                    f"models' {schema.signature!r}"
                )
        self.schema = theirs
        self.label = f"attribute model {path.parent.name}/{path.name}"
        self.who = f"model:{fingerprint(path)}"
        self._path, self._precision, self._devices = path, precision, devices
        self._model: LoadedAttributeModel | None = None

    def independent_of(self, training: Collection[str]) -> bool:
        """See `Scorer.independent_of`."""
        return self.who not in training

    def score(self, turns: Sequence[Turn]) -> list[Scores | None]:
        from steerlm.scorers.spread import open_attribute_model

        self._model = self._model or open_attribute_model(self._path, self._precision, self._devices)
        rows = self._model.score(turns)
        return [None if row is None else {name: row[name] for name in self.attributes} for row in rows]


def _measure(what: tuple[str, Measure], schema: AttributeSchema, precision: Precision, devices: int) -> Scorer:
    # what a measure of its own says is on that one's levels, not on a statistic's figures
    return MeasureScorer(*what, tuple(a.name for a in schema.ordinal if not a.measure))


def _classifier(what: ClassifierConfig, schema: AttributeSchema, precision: Precision, devices: int) -> Scorer:
    return ClassifierScorer(what, schema, precision)


def _rubric(what: JudgeScorerConfig, schema: AttributeSchema, precision: Precision, devices: int) -> Scorer:
    return RubricScorer(what, schema)


_OPENERS: dict[type, Callable[..., Scorer]] = {
    tuple: _measure,
    Path: AttributeModelScorer,
    ClassifierConfig: _classifier,
    JudgeScorerConfig: _rubric,
}


def open_scorer(what: Named, schema: AttributeSchema, precision: Precision = "auto", devices: int = 1) -> Scorer:
    """Return a scorer of those of the schema's attributes that it knows; `devices` share an attribute model.

    Raises:
        UserError: a model that cannot be loaded or has nothing in common with the schema.
    """
    return next(make for kind, make in _OPENERS.items() if isinstance(what, kind))(what, schema, precision, devices)
