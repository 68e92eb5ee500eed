"""Are the attribute model's labels closer to the truth than the human ones? (SteerLM, section 3.2)

The paper argues that predicted labels beat the noisy human ones they were learned from. Where a measure gives the
truth exactly, as in the playground, that can be checked on the very turns that both have labelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Conversation, Message, read_conversations
from steerlm.statistics.estimates import FloatArray, Weights, cluster_bootstrap, divide, mean_absolute_error

MAX_TURNS = 5000
"""Turns per file that are looked at: enough for an interval of a few hundredths of a level."""


def label_quality(
    files: Sequence[Path], measure: Callable[[Sequence[Message]], Mapping[str, float]], schema: AttributeSchema
) -> dict[str, Any]:
    """Compare human and predicted labels of annotated files with the exact measure.

    Returns:
        JSON-able, per file name and ordinal attribute: `n` turns that carry both labels, the mean absolute errors
        in levels `human` and `predicted` (both as values on the scale, which is what training conditions on),
        `predicted_score` (before rounding), and the `ratio` predicted / human; all with intervals clustered by
        group. Attributes without such turns are left out.
    """
    report = {}
    for path in files:
        rows = _rows(read_conversations(path, schema), measure, schema)
        attributes = {a.name: _compare([row for row in rows if row["attribute"] == a.name]) for a in schema.ordinal}
        found = {name: row for name, row in attributes.items() if row is not None}
        if found:
            report[path.name] = found
    return report


def _rows(
    conversations: Iterable[Conversation],
    measure: Callable[[Sequence[Message]], Mapping[str, float]],
    schema: AttributeSchema,
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    turns = 0
    for conversation in conversations:
        for index in conversation.assistant_turns:
            message = conversation.messages[index]
            if not message.human or not message.attributes:
                continue
            truth = measure(conversation.messages[: index + 1])
            for attribute in schema.ordinal:
                name = attribute.name
                if name in truth and name in message.human and name in message.attributes:
                    row = {"attribute": name, "group": conversation.group or conversation.id, "truth": truth[name]}
                    score = message.scores[name].mean if message.scores and name in message.scores else float("nan")
                    rows.append(
                        {**row, "human": message.human[name], "predicted": message.attributes[name], "score": score}
                    )
            turns += 1
            if turns == MAX_TURNS:
                return rows
    return rows


def _compare(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    truth, human, predicted, score = (
        np.array([row[key] for row in rows], dtype=np.float64) for key in ("truth", "human", "predicted", "score")
    )
    groups = [row["group"] for row in rows]

    def ratio(weights: Weights, truth_N: FloatArray, human_N: FloatArray, predicted_N: FloatArray) -> FloatArray:
        errors = mean_absolute_error(weights, truth_N, predicted_N)
        return divide(errors, mean_absolute_error(weights, truth_N, human_N))

    out = {
        "n": len(rows),
        "human": cluster_bootstrap(mean_absolute_error, [truth, human], groups).to_dict(),
        "predicted": cluster_bootstrap(mean_absolute_error, [truth, predicted], groups).to_dict(),
        "ratio": cluster_bootstrap(ratio, [truth, human, predicted], groups).to_dict(),
    }
    if np.isfinite(score).all():
        out["predicted_score"] = cluster_bootstrap(mean_absolute_error, [truth, score], groups).to_dict()
    return out
