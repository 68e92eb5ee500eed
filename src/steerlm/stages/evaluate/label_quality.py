"""Are the attribute model's labels closer to the truth than the human ones? (SteerLM, section 3.2)

The paper argues that predicted labels beat the noisy human ones they were learned from. Where a measure gives the
truth exactly, as in the playground, that can be checked on the very turns that both have labelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Conversation, Message, read_conversations
from steerlm.results.evaluation import LabelQuality
from steerlm.statistics.estimates import FloatArray, Weights, cluster_bootstrap, divide, mean_absolute_error

Truth = Callable[[Sequence[Message]], Mapping[str, float]]
"""The exact measure of a conversation's last turn."""


class DoublyLabelled(NamedTuple):
    """A turn that carries both labels of an attribute, and the truth; `score` is the prediction before rounding."""

    group: str
    truth: float
    human: float
    predicted: float
    score: float


def label_quality(files: Sequence[Path], measure: Truth, schema: AttributeSchema) -> dict[str, dict[str, LabelQuality]]:
    """Compare human and predicted labels of annotated files with the exact measure.

    Returns:
        Per file name and ordinal attribute, both labels as values on the scale, which is what training conditions on;
        intervals are clustered by group. Attributes without turns that carry both are left out.
    """
    report = {}
    for path in files:
        rows = _rows(read_conversations(path, schema), measure, schema)
        if rows:
            report[path.name] = {a.name: _compare(rows[a.name]) for a in schema.ordinal if a.name in rows}
    return report


def _rows(
    conversations: Iterable[Conversation], measure: Truth, schema: AttributeSchema
) -> dict[str, list[DoublyLabelled]]:
    """Per attribute the turns that carry both labels."""
    rows: dict[str, list[DoublyLabelled]] = {}
    for conversation in conversations:
        for index in conversation.assistant_turns:
            message = conversation.messages[index]
            if not message.human or not message.attributes:
                continue
            truth = measure(conversation.messages[: index + 1])
            for name in (a.name for a in schema.ordinal):
                if name in truth and name in message.human and name in message.attributes:
                    score = message.scores[name].mean if message.scores and name in message.scores else math.nan
                    group = conversation.group or conversation.id
                    labels = float(message.human[name]), float(message.attributes[name])
                    rows.setdefault(name, []).append(DoublyLabelled(group, truth[name], *labels, score))
    return rows


def _compare(rows: Sequence[DoublyLabelled]) -> LabelQuality:
    truth, human, predicted, score = (
        np.array(column, dtype=np.float64) for column in list(zip(*rows, strict=True))[1:]
    )
    groups = [row.group for row in rows]

    def ratio(weights: Weights, truth_N: FloatArray, human_N: FloatArray, predicted_N: FloatArray) -> FloatArray:
        errors = mean_absolute_error(weights, truth_N, predicted_N)
        return divide(errors, mean_absolute_error(weights, truth_N, human_N))

    return LabelQuality(
        n=len(rows),
        human=cluster_bootstrap(mean_absolute_error, [truth, human], groups),
        predicted=cluster_bootstrap(mean_absolute_error, [truth, predicted], groups),
        ratio=cluster_bootstrap(ratio, [truth, human, predicted], groups),
        predicted_score=(
            cluster_bootstrap(mean_absolute_error, [truth, score], groups) if np.isfinite(score).all() else None
        ),
    )
