"""Preference pairs out of annotated conversations: two answers to the same history, the better one by its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerlm.ablation.measuring import without_labels
from steerlm.attributes import AttributeSchema
from steerlm.bootstrapping.selection import predicted_quality
from steerlm.conversation import Message, Score, read_conversations

MARGIN = 0.5
"""Least difference in quality, in levels: below it the attribute model's order is mostly noise."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one history (which carries no labels: the baselines know none)."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str


def read_pairs(path: Path, schema: AttributeSchema, quality: Sequence[str]) -> list[Pair]:
    """Return per history the best and the worst of its answers, where they differ by `MARGIN`.

    Args:
        path: annotated conversations; every assistant turn is an answer to what was said before it.
        schema: the attributes.
        quality: names of the attributes whose mean predicted level, each towards its best end, says what is better.
    """
    found: dict[tuple[tuple[str, str], ...], list[tuple[float, tuple[Message, ...]]]] = {}
    for record in read_conversations(path, schema):
        for i in record.assistant_turns:
            scores = record.messages[i].scores
            if scores is not None and _complete(scores, quality):
                history = tuple((message.role, message.content) for message in record.messages[:i])
                level = predicted_quality(schema, quality, scores)
                found.setdefault(history, []).append((level, record.messages[: i + 1]))
    pairs = []
    for answers in found.values():
        best = max(answers, key=lambda answer: answer[0])
        worst = min(answers, key=lambda answer: answer[0])
        if best[0] - worst[0] >= MARGIN:
            pairs.append(Pair(without_labels(best[1][:-1]), best[1][-1].content, worst[1][-1].content))
    return pairs


def _complete(scores: Mapping[str, Score], quality: Sequence[str]) -> bool:
    return all(name in scores for name in quality)
