"""What the baselines learn from annotated conversations: the best records, and pairs of answers to one history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Conversation, Message, Score, read_conversations, write_conversations
from steerlm.stages.tuning.quality import predicted_quality
from steerlm.studies.ablate.measuring import without_labels

BEST_SHARE = 0.1
"""Share of the records that counts as the best; the paper's best samples are 7 % of its labelled conversations."""
MARGIN = 0.5
"""Least difference in quality, in levels: below it the attribute model's order is mostly noise."""


@dataclass(frozen=True)
class Pair:
    """Two answers to one history (which carries no labels: the baselines know none)."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str


def write_best(source: Path, target: Path, schema: AttributeSchema, quality: Sequence[str]) -> int:
    """Copy the records with the best worst answer by the attribute model, in order; returns how many (0: no scores)."""

    def worst(record: Conversation) -> float | None:
        scores = [record.messages[i].scores for i in record.assistant_turns]
        levels = [
            predicted_quality(schema, quality, score)
            for score in scores
            if score is not None and _complete(score, quality)
        ]
        return min(levels) if levels and len(levels) == len(scores) else None

    found = [level for record in read_conversations(source, schema) if (level := worst(record)) is not None]
    if not found:
        return 0
    least = sorted(found, reverse=True)[max(1, round(BEST_SHARE * len(found))) - 1]
    best = (r for r in read_conversations(source, schema) if (level := worst(r)) is not None and level >= least)
    return write_conversations(target, best, schema)


def read_pairs(path: Path, schema: AttributeSchema, quality: Sequence[str]) -> list[Pair]:
    """Return per history the best and the worst of its answers, where they differ by `MARGIN`.

    Args:
        path: annotated conversations; every assistant turn is an answer to what was said before it.
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
