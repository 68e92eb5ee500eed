"""Who measures an evaluation: exact measures of the text, independent models, and last the annotating one.

Whoever labelled the training data never counts as independent: a steerable model that learned its mistakes would look
perfect to it. Checkpoints say who that was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.config import EvaluateConfig
from steerlm.conversation import Message
from steerlm.results.evaluation import ScorerLabel
from steerlm.scorers import measures
from steerlm.scorers.dials import open_dials
from steerlm.scorers.measures import Measure
from steerlm.scorers.opening import Named, open_scorer
from steerlm.scorers.protocol import Scorer, number


@dataclass(frozen=True)
class Panelist:
    """A scorer with its place in an evaluation.

    Attributes:
        id: `dials`, `measure`, `attribute-model-<number>`, `classifier-<number>`, `judge` or `annotator`.
        independent: whether it had no part in labelling the training data.
    """

    id: str
    scorer: Scorer
    schema: AttributeSchema
    independent: bool

    @property
    def attributes(self) -> tuple[str, ...]:
        return self.scorer.attributes

    def measure(self, turns: Sequence[Sequence[Message]]) -> list[dict[str, float | None] | None]:
        """Measure last turns: level (or index of the category) by attribute, None where there is none."""
        return [
            None
            if row is None
            # six decimals: far below any error, and the file does not depend on the last bit
            else {n: round(number(self.schema[n], row[n]), 6) if n in row else None for n in self.attributes}
            for row in self.scorer.score(turns)
        ]

    def describe(self) -> ScorerLabel:
        return ScorerLabel(self.id, self.scorer.label, self.independent, self.attributes)


def exact_measure(name: Literal["playground", "text", "none"]) -> Measure | None:
    if name == "playground":
        from steerlm import playground

        return playground.measure
    return measures.measure if name == "text" else None


def make_panel(
    config: EvaluateConfig, schema: AttributeSchema, annotator: Path | None, models: Iterable[CheckpointInfo]
) -> list[Panelist]:
    """Return who measures: what the schema names, exact measures, further attribute models, classifiers, a judge.

    The attribute model that labelled comes last. An exact measure that says an attribute is the definition of its dial
    and counts as independent; a classifier that says one labelled the data and does not.

    Args:
        annotator: the attribute model that labelled the training data, where it is known.
        models: what the evaluated checkpoints say; whoever labelled what one of them was trained on is not independent.

    Raises:
        UserError: a model that cannot be loaded or has nothing in common with the schema.
    """
    measure = exact_measure(config.measure)
    named: dict[str, Named] = {}
    if measure is not None:
        named["measure"] = (config.measure, measure)
    named |= {f"attribute-model-{number}": path for number, path in enumerate(config.attribute_models, 1)}
    named |= {f"classifier-{number}": classifier for number, classifier in enumerate(config.classifiers, 1)}
    if config.judge is not None:
        named["judge"] = config.judge
    if annotator is not None:
        named["annotator"] = annotator
    from steerlm.checkpoint.models import load_info

    dials = open_dials(schema, config.precision)
    scorers = {"dials" if number == 0 else f"dials-{number + 1}": scorer for number, scorer in enumerate(dials)}
    scorers |= {
        id_: open_scorer(what, schema, config.precision, config.devices_per_model) for id_, what in named.items()
    }
    training = {scorer.who for id_, scorer in scorers.items() if id_ == "annotator" or id_.startswith("dials")}
    training |= {who for info in models for who in info.provenance.get("labelled_by", ())}
    if annotator is not None:
        training |= set(load_info(annotator).provenance.get("taught_by", ()))
    return [
        Panelist(id_, scorer, schema, scorer.independent_of(training))
        for id_, scorer in scorers.items()
        if scorer.attributes
    ]


def headline_scorers(schema: AttributeSchema, panel: Sequence[Panelist]) -> Mapping[str, str]:
    """Per attribute the scorer that the headline quotes: the first independent one, else the annotator."""
    out = {}
    for attribute in schema:
        measuring = [p for p in panel if attribute.name in p.attributes]
        if measuring:
            out[attribute.name] = next((p for p in measuring if p.independent), measuring[0]).id
    return out


def ordinal_headlines(schema: AttributeSchema, panel: Sequence[Panelist]) -> Mapping[str, str]:
    """Return `headline_scorers` of the attributes with levels."""
    return {name: id_ for name, id_ in headline_scorers(schema, panel).items() if schema[name].kind == "ordinal"}
