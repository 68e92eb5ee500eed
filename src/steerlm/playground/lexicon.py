"""The playground's language: how people ask, and the phrases that move each dial; read from `lexicon.yaml`.

Four dials are moved by remarks that are worth one point (a light one) or two (a full one), so that every
level from 0 to 4 takes at most two remarks. Helpfulness is moved by the facts themselves. No remark of
one dial contains a remark of another, or a fact of the topic at hand: that is what makes the dials
exactly measurable and separable (tested).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import yaml

Kind = Literal["needs", "tips", "benefits", "mistakes"]
KINDS: tuple[Kind, ...] = ("needs", "tips", "benefits", "mistakes")
"""What a question about a topic asks for; each has exactly four facts per topic."""

ATTRIBUTES: tuple[str, ...] = ("toxicity", "humor", "creativity", "helpfulness", "verbosity")
"""The dials of the world; each has the levels 0..4."""

LEVELS: tuple[int, ...] = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Topic:
    """One topic: how to name it and everything the world knows about it (`topics.yaml`).

    Attributes:
        do: verb phrase, "bake bread".
        doing: the same as a gerund, "baking bread".
        needs: four facts asked for by "What do I need to ...?": noun phrases.
        tips: four facts asked for by "How do I get better at ...?": imperatives.
        benefits: four facts asked for by "Why should I ...?": noun phrases.
        mistakes: four facts asked for by "What should I avoid when ...?": noun phrases or gerunds.
        jokes: three sentences that count as full jokes.
        metaphors: three sentences that count as full figurative comparisons.
        background: three sentences that say more than was asked.
    """

    name: str
    do: str
    doing: str
    needs: tuple[str, ...]
    tips: tuple[str, ...]
    benefits: tuple[str, ...]
    mistakes: tuple[str, ...]
    jokes: tuple[str, ...]
    metaphors: tuple[str, ...]
    background: tuple[str, ...]

    def facts(self, kind: Kind) -> tuple[str, ...]:
        """The four facts that a question of this kind asks for."""
        return {"needs": self.needs, "tips": self.tips, "benefits": self.benefits, "mistakes": self.mistakes}[kind]


def _read(name: str) -> Any:
    """Return a data file with tuples in place of lists."""
    text = (resources.files("steerlm.playground") / name).read_text(encoding="utf-8")
    return _frozen(yaml.safe_load(text))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


TOPICS: tuple[Topic, ...] = tuple(Topic(**fields) for fields in _read("topics.yaml"))

_LEXICON = _read("lexicon.yaml")
GREETINGS: Sequence[str] = _LEXICON["greetings"]
QUESTIONS: dict[Kind, Sequence[str]] = _LEXICON["questions"]
FOLLOW_UPS: dict[Kind, Sequence[str]] = _LEXICON["follow_ups"]
CLOSINGS: Sequence[str] = _LEXICON["closings"]
CUES: dict[Kind, Sequence[str]] = _LEXICON["cues"]
ANSWERS: dict[Kind, Sequence[str]] = _LEXICON["answers"]
NO_ANSWER: Sequence[str] = _LEXICON["no_answer"]
LEAD_INS: dict[str, Sequence[Sequence[str]]] = _LEXICON["lead_ins"]
RUDE_OPENERS: Sequence[Sequence[str]] = _LEXICON["rude_openers"]
RUDE_CLOSERS: Sequence[Sequence[str]] = _LEXICON["rude_closers"]
LIGHT_REMARKS: dict[str, Sequence[str]] = _LEXICON["light_remarks"]


def lexicon_remarks() -> Iterator[tuple[str, int, str]]:
    """Yield every remark of the world as (attribute, points, text)."""
    for remarks in (RUDE_OPENERS, RUDE_CLOSERS):
        for points, texts in enumerate(remarks, 1):
            for text in texts:
                for topic in TOPICS if "{" in text else TOPICS[:1]:
                    yield "toxicity", points, text.format(do=topic.do, doing=topic.doing)
    for attribute, texts in LIGHT_REMARKS.items():
        for text in texts:
            yield attribute, 1, text
    for topic in TOPICS:
        for attribute, full in full_remarks(topic).items():
            for text in full:
                yield attribute, 2, text


def full_remarks(topic: Topic) -> dict[str, Sequence[str]]:
    """The remarks about a topic that are worth two points, by attribute."""
    return {"humor": topic.jokes, "creativity": topic.metaphors, "verbosity": topic.background}
