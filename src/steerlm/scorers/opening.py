"""Who measures an evaluation: exact measures of the text, independent attribute models, and the annotating one.

The attribute model that labelled the training data never counts as independent: a steerable model that learned its
mistakes would look perfect to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import EvaluateConfig, JudgeScorerConfig
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.scorers import measures

Measure = Callable[[Sequence[Message]], dict[str, float]]
"""What the last turn of a conversation measures, by attribute (on its scale) or by the name of a statistic."""
Measured = Mapping[str, float] | None
"""Attribute -> level (or index of the category), some of them perhaps missing; None where the scorer has no answer."""


@dataclass(frozen=True)
class Scorer:
    """Who measured.

    Attributes:
        id: `measure`, `attribute-model-<number>`, `classifier-<number>`, `judge` or `annotator`.
        label: for people.
        independent: whether it had no part in labelling the training data.
        attributes: what it measures.
        score: reads conversations that end with the answer to measure.
        key: identifies it; its stored scores are used again while it is the same.
    """

    id: str
    label: str
    independent: bool
    attributes: tuple[str, ...]
    score: Callable[[Sequence[Sequence[Message]]], list[Measured]]
    key: str

    def to_dict(self) -> dict[str, Any]:
        """Return who it is, JSON-able."""
        described = {"id": self.id, "label": self.label, "independent": self.independent}
        return {**described, "attributes": list(self.attributes)}


def exact_measure(name: Literal["playground", "text", "none"]) -> Measure | None:
    """Return the exact measure that a recipe names."""
    if name == "playground":
        from steerlm import playground

        return playground.measure
    return measures.measure if name == "text" else None


def make_scorers(config: EvaluateConfig, schema: AttributeSchema, annotator: Path | None) -> list[Scorer]:
    """Independent scorers first: exact measures, further attribute models, classifiers, a judge; last the annotator.

    Raises:
        UserError: a model that cannot be loaded or has nothing in common with the schema.
    """
    from steerlm.scorers.classifiers import classifier_scorer

    scorers = []
    measure = exact_measure(config.measure)
    if measure is not None:
        scorers.append(_exact(config.measure, measure, schema))
    for number, path in enumerate(config.attribute_models, 1):
        scorers.append(_attribute_model(f"attribute-model-{number}", path, schema, config, annotator))
    for number, classifier in enumerate(config.classifiers, 1):
        scorers.append(classifier_scorer(f"classifier-{number}", classifier, schema, config.precision, annotator))
    if config.judge is not None:
        scorers.append(_judge(config.judge, schema))
    if annotator is not None:
        scorers.append(_attribute_model("annotator", annotator, schema, config, annotator))
    return [scorer for scorer in scorers if scorer.attributes]


def _exact(name: str, measure: Measure, schema: AttributeSchema) -> Scorer:
    probe = measure([Message("user", "What is this?"), Message("assistant", "It is a probe.")])
    names = tuple(a.name for a in schema.ordinal if a.name in probe)

    def score(conversations: Sequence[Sequence[Message]]) -> list[Measured]:
        return [measure(messages) for messages in conversations]

    return Scorer("measure", f"exact measures ({name})", True, names, score, name)


def _attribute_model(
    scorer_id: str, path: Path, schema: AttributeSchema, config: EvaluateConfig, annotator: Path | None
) -> Scorer:
    """An attribute model as a scorer of the attributes whose name and scale it shares with the schema."""
    from steerlm.checkpoint.models import fingerprint, load_info
    from steerlm.scorers.attribute_models import AttributeModel, load_attribute_model

    theirs = load_info(path).schema
    shared = tuple(a for a in schema if a.name in theirs and theirs[a.name].signature == a.signature)
    if not shared:
        raise UserError(
            f"attribute model {path} measures {theirs.signature!r}: no attribute and scale in common with the models' "
            f"{schema.signature!r}"
        )
    model: AttributeModel | None = None

    def score(conversations: Sequence[Sequence[Message]]) -> list[Measured]:
        nonlocal model
        model = model or load_attribute_model(path, config.precision)
        # an attribute model reads no empty turn; an answer without text has no score of it
        said = [i for i, messages in enumerate(conversations) if messages[-1].content.strip()]
        rows = model.score([conversations[i] for i in said])
        scores: list[Measured] = [None] * len(conversations)
        for i, row in zip(said, rows, strict=True):
            if row is not None:
                values = model.values(row)
                scores[i] = {a.name: _number(a, row[a.name], values[a.name]) for a in shared}
        return scores

    key = fingerprint(path)
    independent = annotator is None or key != fingerprint(annotator)
    label = f"attribute model {path.parent.name}/{path.name}"
    names = tuple(a.name for a in shared)
    return Scorer(scorer_id, label, independent and scorer_id != "annotator", names, score, key)


def _judge(config: JudgeScorerConfig, schema: AttributeSchema) -> Scorer:
    """An LLM as a scorer; an answer whose rating cannot be read has none."""
    from steerlm.scorers.llm.client import Endpoint, JudgeClient
    from steerlm.scorers.llm.judge import rate_attributes

    rated = AttributeSchema(tuple(schema[name] for name in config.attributes)) if config.attributes else schema
    endpoint = Endpoint.from_environment(config.base_url, config.model)
    client = JudgeClient(
        endpoint,
        config.folder / "replies.jsonl",
        config.max_in_flight,
        reasoning=config.reasoning,
        max_tokens=config.max_tokens,
    )

    def score(conversations: Sequence[Sequence[Message]]) -> list[Measured]:
        said = [i for i, messages in enumerate(conversations) if messages[-1].content.strip()]
        asked = [conversations[i] for i in said]
        # the judgements stay readable: a file per request for scores, named after what was rated
        texts = [[(m.role, m.content) for m in messages] for messages in asked]
        name = hashlib.sha256(orjson.dumps([texts, rated.signature])).hexdigest()[:16]
        rows = rate_attributes(asked, rated, client, config.folder / "judgements" / f"{name}.jsonl") if asked else []
        scores: list[Measured] = [None] * len(conversations)
        for i, row in zip(said, rows, strict=True):
            scores[i] = row or None
        return scores

    descriptions = [(a.name, a.description) for a in rated]
    key = hashlib.sha256(orjson.dumps([endpoint.base_url, endpoint.model, rated.signature, descriptions])).hexdigest()
    return Scorer("judge", f"LLM judge {endpoint.model}", True, rated.names, score, key)


def _number(attribute: Attribute, score: Any, value: Any) -> float:
    """The real-valued score of an ordinal attribute, the index of the likeliest category of a categorical one."""
    return float(score.mean) if attribute.kind == "ordinal" else float(attribute.levels.index(value))


def headline_scorers(schema: AttributeSchema, scorers: Sequence[Scorer]) -> dict[str, str]:
    """Per attribute the scorer that the headline quotes: the first independent one, else the annotator."""
    out = {}
    for attribute in schema:
        measuring = [s for s in scorers if attribute.name in s.attributes]
        if measuring:
            out[attribute.name] = next((s for s in measuring if s.independent), measuring[0]).id
    return out
