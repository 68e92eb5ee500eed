"""All that says the values of a schema: its measures, its classifiers, and for the rest an attribute model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.attributes import AttributeSchema, Value
from steerlm.config.section import ScoringEngine
from steerlm.scorers.classifiers import CategoryScorer
from steerlm.scorers.dials import DialClassifier, DialMeasures, open_classifiers, open_measures, tellers, values_of
from steerlm.scorers.protocol import Scorer, Scores, Turn

if TYPE_CHECKING:
    from steerlm.checkpoint.models import Precision
    from steerlm.scorers.attribute_models import LoadedAttributeModel


@dataclass
class SchemaLabels:
    """Says the values of a schema's attributes, each by who says it.

    Attributes:
        schema: the attributes, with their cuts.
        model_path: folder of the attribute model; None: it has none, and nothing says what only people know.
        fingerprint: of the attribute model; empty without one.
        precision: of models.
        classifiers: what classifiers say.
        devices: that share the attribute model.
        engine: that computes it.
    """

    schema: AttributeSchema
    model_path: Path | None
    fingerprint: str
    precision: Precision
    measures: DialMeasures | None = field(init=False)
    classifiers: list[DialClassifier | CategoryScorer] = field(init=False)
    _model: LoadedAttributeModel | None = None
    devices: int = 1
    engine: ScoringEngine = "local"

    def __post_init__(self) -> None:
        self.measures = open_measures(self.schema)
        self.classifiers = open_classifiers(self.schema, self.precision)

    @property
    def model(self) -> LoadedAttributeModel | None:
        """The attribute model, loaded when it is first needed."""
        if self._model is None and self.model_path is not None:
            from steerlm.scorers.spread import open_attribute_model

            self._model = open_attribute_model(self.model_path, self.precision, self.devices, self.engine)
        return self._model

    @property
    def who(self) -> dict[str, str]:
        """Who says each attribute that is said."""
        dials: list[Scorer] = [*([self.measures] if self.measures is not None else []), *self.classifiers]
        who = tellers(self.schema, dials)
        if self.fingerprint:
            who |= {a.name: f"model:{self.fingerprint}" for a in self.schema if a.learned}
        return {name: who[name] for name in self.schema.names if name in who}

    @property
    def key(self) -> str:
        """Identify it with its cuts; the attribute model's fingerprint where there is nothing else."""
        if self.measures is None and not self.classifiers:
            return self.fingerprint
        cuts = [[attribute.name, *attribute.cuts] for attribute in self.schema if not attribute.learned]
        return hashlib.sha256(repr([sorted(self.who.items()), cuts]).encode()).hexdigest()[:16]

    def score(self, turns: Sequence[Turn], tokens_per_batch: int | None = None) -> list[Scores | None]:
        """Score turns; None where nothing can be said of one."""
        model = self.model
        learned = [None] * len(turns) if model is None else model.score(turns, tokens_per_batch)
        measured = [None] * len(turns) if self.measures is None else self.measures.score(turns)
        return self.merge(turns, learned, measured)

    def merge(
        self, turns: Sequence[Turn], learned: Sequence[Scores | None], measured: Sequence[Scores | None]
    ) -> list[Scores | None]:
        """Put together what the attribute model and the measures say of turns, and ask the classifiers."""
        if self.measures is None and not self.classifiers:
            return list(learned)
        parts = [learned, measured, *(classifier.score(turns) for classifier in self.classifiers)]
        merged: list[Scores | None] = []
        for rows in zip(*parts, strict=True):
            found = {name: score for row in rows if row is not None for name, score in row.items()}
            merged.append({name: found[name] for name in self.schema.names if name in found} or None)
        return merged

    def values(self, scores: Scores) -> dict[str, Value]:
        """Return the levels and categories that scores stand for."""
        dials = {name: score for name, score in scores.items() if not self.schema[name].learned}
        values = values_of(self.schema, dials)
        rest = {name: score for name, score in scores.items() if name not in dials}
        if rest:
            assert self.model is not None
            values |= self.model.values(rest)
        return {name: values[name] for name in self.schema.names if name in values}

    def places(self, scores: Scores) -> dict[str, float]:
        """Return where the scores of ordinal attributes lie on the scale, an attribute model's cuts at the halves."""
        places = {name: score.mean for name, score in scores.items() if self.schema[name].kind == "ordinal"}
        if self.model is not None:
            places |= self.model.places({name: scores[name] for name in places if self.schema[name].learned})
        return places

    def labelled_by(self, names: Iterable[str]) -> str | Mapping[str, str] | None:
        """Return who said these attributes: one for all, or by attribute."""
        return one_for_all({name: self.who[name] for name in names})


def one_for_all(who: Mapping[str, str]) -> str | Mapping[str, str] | None:
    """Return what `Message.labelled_by` says: one teller where it is the same for all attributes."""
    tellers = set(who.values())
    return who if len(tellers) > 1 else next(iter(tellers), None)


def open_labels(
    schema: AttributeSchema,
    model: Path | None,
    precision: Precision = "auto",
    loaded: LoadedAttributeModel | None = None,
    devices: int = 1,
    engine: ScoringEngine = "local",
) -> SchemaLabels:
    """Return what says the values of a schema.

    Args:
        schema: the attributes, with their cuts.
        model: folder of the attribute model of those that are learned; None: there is none.
        loaded: the attribute model, where it is loaded already.

    Raises:
        UserError: an attribute model of other attributes; an unknown measure or label.
    """
    from steerlm.checkpoint.models import fingerprint, load_info

    learned = schema.learned
    if model is None or learned is None:
        return SchemaLabels(schema, None, "", precision)
    theirs = load_info(model).schema if loaded is None else loaded.schema
    learned.require_same(theirs.signature, "the recipe", str(model))
    known = fingerprint(model) if loaded is None else loaded.fingerprint
    return SchemaLabels(schema, model, known, precision, loaded, devices, engine)
