"""What annotation found: histograms, correlations between attributes, and where the model and people disagree.

Computed in one pass over the annotated files, in memory that does not grow with them.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.conversation import Conversation, Message, read_conversations

_DISAGREEMENTS = 50


def summarise(files: Sequence[Path], schema: AttributeSchema, learned: AttributeSchema | None) -> dict[str, Any]:
    """Summarise annotated files.

    Args:
        learned: what an attribute model says; None: there was none.

    Returns:
        JSON-able: `files` with their counts (records, assistant turns, turns labelled, turns that did not fit the
        attribute model);
        `histograms` of the rounded values; `correlations` (Pearson) of the real-valued scores of ordinal attributes,
        null where one is constant; `missing`, the turns without a value; `spread`, the mean over turns of how far off
        a score may be; `human` per attribute: n, mean absolute error of the score in levels (ordinal), and the share of
        equal values; `disagreements`: the turns with the largest difference between human and score, relative to the
        attribute's range.
    """
    summary = _Summary(schema)
    for file in files:
        counts = summary.files.setdefault(file.name, {"records": 0, "turns": 0, "labelled": 0, "too_long": 0})
        for conversation in read_conversations(file, schema):
            counts["records"] += 1
            for index in conversation.assistant_turns:
                counts["turns"] += 1
                counts["labelled"] += summary.add(file.name, conversation, index)
                labels = conversation.messages[index].attributes or {}
                counts["too_long"] += learned is not None and not any(name in labels for name in learned.names)
    return summary.to_dict()


class _Summary:
    """Running sums."""

    def __init__(self, schema: AttributeSchema) -> None:
        self.schema = schema
        self.files: dict[str, dict[str, int]] = {}
        self.histograms = {a.name: {str(level): 0 for level in a.levels} for a in schema}
        self.human = {a.name: {"n": 0, "error": 0.0, "equal": 0} for a in schema}
        self.disagreements: list[tuple[float, int, dict[str, Any]]] = []
        self.seen = 0
        self.spread = {a.name: [0.0, 0] for a in schema.ordinal}
        self.missing = dict.fromkeys(schema.names, 0)
        num_ordinal = len(schema.ordinal)
        self.mean_K = np.zeros(num_ordinal)
        self.scatter_K_K = np.zeros((num_ordinal, num_ordinal))

    def add(self, file: str, conversation: Conversation, index: int) -> bool:
        """Count one assistant turn; returns whether it is labelled."""
        message = conversation.messages[index]
        attributes, scores = message.attributes or {}, message.scores or {}
        for name in self.missing:
            self.missing[name] += name not in attributes
        if not attributes:
            return False
        for name, value in attributes.items():
            self.histograms[name][str(value)] += 1
        for name, sums in self.spread.items():
            if name in scores:
                sums[0] += scores[name].std
                sums[1] += 1
        if all(attribute.name in scores for attribute in self.schema.ordinal):
            self.seen += 1
            self._correlate(np.array([scores[a.name].mean for a in self.schema.ordinal]))
        for attribute in self.schema:
            if attribute.name in attributes and attribute.name in scores:
                self._compare(attribute, message, {"file": file, "id": conversation.id, "turn": index})
        return True

    def _correlate(self, scores_K: Any) -> None:
        """Update mean and scatter (Welford), which stay exact for any number of turns."""
        before_K = scores_K - self.mean_K
        self.mean_K += before_K / self.seen
        self.scatter_K_K += np.outer(before_K, scores_K - self.mean_K)

    def _compare(self, attribute: Attribute, message: Message, place: dict[str, Any]) -> None:
        assert message.attributes is not None
        assert message.scores is not None
        predicted = message.attributes[attribute.name]
        human: float | str
        if attribute.kind == "ordinal":
            target = message.target(attribute.name)
            if target is None:
                return
            score: float | None = message.scores[attribute.name].mean
            human, error = target, abs(target - message.scores[attribute.name].mean)
            distance = error / (attribute.maximum - attribute.minimum)
            equal = attribute.round(target) == predicted
        else:
            label = message.human_labels.get(attribute.name)
            if label is None:
                return
            human, score = str(label), None
            equal = label == predicted
            error = distance = float(not equal)
        sums = self.human[attribute.name]
        sums["n"] += 1
        sums["error"] += error
        sums["equal"] += int(equal)
        row = {**place, "attribute": attribute.name, "human": human, "predicted": predicted, "score": score}
        # the count breaks ties in favour of the earlier turn and never lets two rows be compared
        item = (distance, -sum(int(s["n"]) for s in self.human.values()), row)
        if distance > 0:
            push = heapq.heappush if len(self.disagreements) < _DISAGREEMENTS else heapq.heappushpop
            push(self.disagreements, item)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        ordinal = [attribute.name for attribute in self.schema.ordinal]
        return {
            "files": self.files,
            "histograms": self.histograms,
            "correlations": {
                a: {b: _correlation(self.scatter_K_K, i, j) for j, b in enumerate(ordinal) if i != j}
                for i, a in enumerate(ordinal)
            },
            "missing": self.missing,
            "spread": {name: total / max(1, count) for name, (total, count) in self.spread.items()},
            "human": {a.name: self._agreement(a) for a in self.schema if self.human[a.name]["n"]},
            "disagreements": [row for _, _, row in sorted(self.disagreements, reverse=True, key=lambda item: item[:2])],
        }

    def _agreement(self, attribute: Attribute) -> dict[str, Any]:
        sums = self.human[attribute.name]
        agreement: dict[str, Any] = {"n": sums["n"]}
        if attribute.kind == "ordinal":
            agreement["mae"] = sums["error"] / sums["n"]
        return {**agreement, "equal_share": sums["equal"] / sums["n"]}


def _correlation(scatter_K_K: Any, i: int, j: int) -> float | None:
    product = float(scatter_K_K[i, i] * scatter_K_K[j, j])
    return float(scatter_K_K[i, j]) / math.sqrt(product) if product > 0 else None
