"""Exact attribute values of a reply, from its text alone: what `evaluate` holds the steering against.

The world's lexicon is closed, so nothing is estimated: facts count if they are facts that the question
asks for, remarks count if they stand there word for word, and each counts once however often it is
repeated. Half a joke is no joke. Question and reply may be in different languages of the world.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.playground.lexicon import ATTRIBUTES, LANGUAGES, Kind, Language, Topic, lexicon

Words = tuple[str, ...]


class AskedFor(NamedTuple):
    """What the last user turn asks for; None where the world does not know it."""

    topic: Topic | None
    kind: Kind | None


class Remark(NamedTuple):
    """What one phrase of the lexicon is worth."""

    attribute: str
    points: int


class _Phrases(NamedTuple):
    """Phrases to look for.

    Attributes:
        known: the words of each.
        lengths: by first word how many words the phrases have that begin so.
    """

    known: frozenset[Words]
    lengths: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, phrases: Iterable[Words]) -> _Phrases:
        """Lay phrases out for the search."""
        known = frozenset(phrases)
        lengths: dict[str, set[int]] = {}
        for phrase in known:
            lengths.setdefault(phrase[0], set()).add(len(phrase))
        return cls(known, {first: sorted(found) for first, found in lengths.items()})


def measure(messages: Sequence[Message]) -> dict[str, float]:
    """Measure the last assistant turn.

    Returns:
        Attribute name -> value in 0..4. Helpfulness is four times the share of the facts asked for that
        the reply gives (0 where the question is not one of the world's); the others are the points of the
        distinct remarks found, at most 4.
    """
    if not messages or messages[-1].role != "assistant":
        raise UserError("playground.measure needs a conversation that ends with an assistant turn")
    sentences = [_words(sentence) for sentence in re.split(r"[.!?:\n]+", messages[-1].content)]
    points: dict[str, float] = dict.fromkeys(ATTRIBUTES, 0.0)
    remarks, phrases = _remarks()
    for phrase in _found(sentences, phrases):
        remark = remarks[phrase]
        points[remark.attribute] += remark.points
    question = parse_question(messages[:-1])
    if question.topic is not None and question.kind is not None:
        points["helpfulness"] = max(
            _share_of_facts(sentences, question.topic.said_in(language), question.kind) for language in LANGUAGES
        )
    return {name: min(value, 4.0) for name, value in points.items()}


def _share_of_facts(sentences: Sequence[Words], topic: Topic, kind: Kind) -> float:
    facts = _phrases(tuple(topic.facts(kind)))
    return 4.0 * len(_found(sentences, facts)) / len(facts.known)


def parse_question(messages: Sequence[Message]) -> AskedFor:
    """Find the topic and the kind of the last question; a follow-up takes over what it leaves unsaid.

    Words such as "tango" name a topic in several languages: the first language counts in which both are said.
    """
    found = [_parse_question(messages, language) for language in LANGUAGES]
    return next((asked for asked in found if None not in asked), found[0])


def _parse_question(messages: Sequence[Message], language: Language) -> AskedFor:
    topic: Topic | None = None
    kind: Kind | None = None
    for message in reversed(messages):
        if message.role != "user":
            continue
        words = _words(message.content)
        topic = topic or find_topic(words, language)
        kind = kind or find_kind(words, language)
        if topic is not None and kind is not None:
            break
    return AskedFor(topic, kind)


def find_topic(words: Words, language: Language) -> Topic | None:
    """Find the topic that words name, by the longest of its phrases."""
    topics, phrases = _topics(language)
    hits = _found([words], phrases)
    return topics[max(hits, key=len)] if hits else None


def find_kind(words: Words, language: Language) -> Kind | None:
    """Find what words ask for."""
    for kind, cues in lexicon(language).cues.items():
        if _found([words], _phrases(tuple(cues))):
            return kind
    return None


def _found(sentences: Iterable[Words], phrases: _Phrases) -> list[Words]:
    """Return the distinct phrases that stand word for word within one of the sentences, in a fixed order."""
    found: dict[Words, None] = {}
    for words in sentences:
        for start, first in enumerate(words):
            for length in phrases.lengths.get(first, ()):
                candidate = words[start : start + length]
                if candidate in phrases.known:
                    found[candidate] = None
    return list(found)


def _words(text: str) -> Words:
    return tuple(re.findall(r"(?:[^\W_]|')+", text.lower()))


@functools.cache
def _phrases(texts: tuple[str, ...]) -> _Phrases:
    return _Phrases.of(map(_words, texts))


@functools.cache
def _remarks() -> tuple[dict[Words, Remark], _Phrases]:
    """Return every remark of every language by its words."""
    remarks: dict[Words, Remark] = {}
    for language in LANGUAGES:
        for attribute, points, text in lexicon(language).remarks():
            remarks[_words(text)] = Remark(attribute, points)
    return remarks, _Phrases.of(remarks)


@functools.cache
def _topics(language: Language) -> tuple[dict[Words, Topic], _Phrases]:
    """Return every topic by the words that name it."""
    topics: dict[Words, Topic] = {}
    for topic in lexicon(language).topics:
        for text in (topic.name, topic.do, topic.doing):
            topics[_words(text)] = topic
    return topics, _Phrases.of(topics)
