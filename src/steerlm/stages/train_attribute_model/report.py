"""How good an attribute model is on held-out labels, beside the mean and beside what people agree on.

The paper reports nothing of the kind; a steerable model can be no better than the labels it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.conversation import Score
from steerlm.stages.train_attribute_model.examples import FloatArray, LabelledTurn
from steerlm.statistics.metrics import (
    category_report,
    fleiss_kappa,
    human_ceiling,
    indistinguishable_pairs,
    low_range,
    regression_report,
)


def residual_std(
    turns: Sequence[LabelledTurn], scores: Sequence[Mapping[str, Score]], schema: AttributeSchema
) -> dict[str, float]:
    """Return per ordinal attribute the root mean square of (label - score) in levels; attributes without label lack."""
    spread = {}
    for attribute in schema.ordinal:
        errors = [
            float(turn.labels[attribute.name]) - score[attribute.name].mean
            for turn, score in zip(turns, scores, strict=True)
            if attribute.name in turn.labels
        ]
        if errors:
            spread[attribute.name] = math.sqrt(sum(error * error for error in errors) / len(errors))
    return spread


def attribute_reports(
    turns: Sequence[LabelledTurn],
    scores: Sequence[Mapping[str, Score]],
    values: Sequence[Mapping[str, Value]],
    schema: AttributeSchema,
    baselines: Mapping[str, float],
    seed: int,
) -> dict[str, Any]:
    """Compare predictions with held-out labels, per attribute, over all data and per source.

    Args:
        turns: the validation turns.
        scores: their predictions.
        values: the predictions as values on the scale.
        schema: the attributes.
        baselines: mean of the training labels per ordinal attribute.
        seed: of the bootstrap.

    Returns:
        JSON-able: `attributes` and, per source, `sources`; see `metrics.regression_report` and `category_report`. Where
        turns have several ratings, `human_ceiling` and `annotator_kappa` (Fleiss) of the attribute stand beside.
    """
    members = {source: [i for i, turn in enumerate(turns) if turn.source == source] for source in _sources(turns)}

    def reports(indices: Sequence[int]) -> dict[str, Any]:
        chosen = [(turns[i], scores[i], values[i]) for i in indices]
        found = {}
        for attribute in schema:
            rows = [row for row in chosen if attribute.name in row[0].labels]
            if rows:
                found[attribute.name] = _report(attribute, rows, baselines, seed)
        return found

    return {
        "attributes": reports(range(len(turns))),
        "sources": {source: reports(indices) for source, indices in members.items()},
    }


def _sources(turns: Sequence[LabelledTurn]) -> list[str]:
    return sorted({turn.source for turn in turns})


def _report(
    attribute: Attribute,
    rows: Sequence[tuple[LabelledTurn, Mapping[str, Score], Mapping[str, Value]]],
    baselines: Mapping[str, float],
    seed: int,
) -> dict[str, Any]:
    name = attribute.name
    clusters = [turn.group for turn, _, _ in rows]
    truth = [turn.labels[name] for turn, _, _ in rows]
    if attribute.kind == "categorical":
        return category_report(
            [str(label) for label in truth], [str(value[name]) for _, _, value in rows], attribute, clusters, seed
        )
    predicted = [score[name].mean for _, score, _ in rows]
    report = regression_report([float(x) for x in truth], predicted, attribute, clusters, baselines[name], seed)
    ratings = [turn.ratings.get(name, ()) for turn, _, _ in rows]
    if any(len(row) > 1 for row in ratings):
        report["human_ceiling"] = human_ceiling(ratings, clusters, seed)
        levels = [[attribute.round(rating) for rating in row] for row in ratings]
        report["annotator_kappa"] = fleiss_kappa(levels, clusters).to_dict()
    return report


def label_warnings(labels_N_K: FloatArray, schema: AttributeSchema) -> list[str]:
    """Say which attributes the training labels cannot teach apart, or hardly at all (HelpSteer2's correctness, |r| 0.94
    with helpfulness, and coherence, mean 3.64 of 4, are known cases)."""
    columns = {
        attribute.name: column_N.astype(np.float64)
        for attribute, column_N in zip(schema, labels_N_K.T, strict=True)
        if attribute.kind == "ordinal"
    }
    warnings = []
    for pair in indistinguishable_pairs(columns):
        a, b = pair["attributes"]
        warnings.append(
            f"{a} and {b} cannot be told apart in the labels (r = {pair['r']:.2f} over {pair['n']} turns): "
            "turning one dial will turn the other"
        )
    for row in low_range(columns, schema):
        warnings.append(
            f"{row['attribute']}: {row['reason']} (mean {row['mean']:.2f}, standard deviation {row['std']:.2f}, "
            f"{row['n']} labels): the dial will have little effect"
        )
    return warnings
