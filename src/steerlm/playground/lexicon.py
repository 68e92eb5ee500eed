"""The playground's languages: how people ask, and the phrases that move each dial; a folder of data files each.

Four dials are moved by remarks that are worth one point (a light one) or two (a full one), so that every
level from 0 to 4 takes at most two remarks. Helpfulness is moved by the facts themselves. No remark of
one dial contains a remark of another, or a fact of the topic at hand: that is what makes the dials
exactly measurable and separable (tested). All languages have the same topics in the same order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal, get_args

import yaml

from steerlm.config import PlaygroundLanguage

Kind = Literal["needs", "tips", "benefits", "mistakes"]
KINDS: tuple[Kind, ...] = ("needs", "tips", "benefits", "mistakes")
"""What a question about a topic asks for; each has exactly four facts per topic."""

ATTRIBUTES: tuple[str, ...] = ("toxicity", "humor", "creativity", "helpfulness", "verbosity")
"""The dials of the world; each has the levels 0..4."""

LEVELS: tuple[int, ...] = (0, 1, 2, 3, 4)

Language = PlaygroundLanguage
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""The languages of the world (ISO 639)."""


@dataclass(frozen=True)
class Topic:
    """One topic in one language: how to name it and everything the world knows about it (`topics.yaml`).

    Attributes:
        language: of all its texts.
        number: its place among the topics, the same in every language.
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

    language: Language
    number: int
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

    def said_in(self, language: Language) -> Topic:
        """The same topic in a language."""
        return lexicon(language).topics[self.number]


@dataclass(frozen=True)
class Lexicon:
    """One language of the world (`lexicon.yaml`, whose comments say what each list is for)."""

    topics: tuple[Topic, ...]
    greetings: Sequence[str]
    questions: Mapping[Kind, Sequence[str]]
    follow_ups: Mapping[Kind, Sequence[str]]
    closings: Sequence[str]
    cues: Mapping[Kind, Sequence[str]]
    lists: Sequence[str]
    answers: Mapping[Kind, Sequence[str]]
    no_answer: Sequence[str]
    lead_ins: Mapping[str, Sequence[Sequence[str]]]
    rude_openers: Sequence[Sequence[str]]
    rude_closers: Sequence[Sequence[str]]
    light_remarks: Mapping[str, Sequence[str]]

    def remarks(self) -> Iterator[tuple[str, int, str]]:
        """Yield every remark as (attribute, points, text)."""
        for remarks in (self.rude_openers, self.rude_closers):
            for points, texts in enumerate(remarks, 1):
                for text in texts:
                    for topic in self.topics if "{" in text else self.topics[:1]:
                        yield "toxicity", points, text.format(do=topic.do, doing=topic.doing)
        for attribute, texts in self.light_remarks.items():
            for text in texts:
                yield attribute, 1, text
        for topic in self.topics:
            for attribute, full in full_remarks(topic).items():
                for text in full:
                    yield attribute, 2, text


@functools.cache
def lexicon(language: Language) -> Lexicon:
    """Read a language."""
    topics = (Topic(language, number, **fields) for number, fields in enumerate(_read(language, "topics.yaml")))
    return Lexicon(tuple(topics), **_read(language, "lexicon.yaml"))


def _read(language: Language, name: str) -> Any:
    """Return a data file with tuples in place of lists."""
    text = (resources.files("steerlm.playground") / language / name).read_text(encoding="utf-8")
    return _frozen(yaml.safe_load(text))


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def full_remarks(topic: Topic) -> dict[str, Sequence[str]]:
    """The remarks about a topic that are worth two points, by attribute."""
    return {"humor": topic.jokes, "creativity": topic.metaphors, "verbosity": topic.background}
