"""Text measures: what a reply itself says about its length, vocabulary, readability and defects, without a model.

The paper reports characters and unique words per answer (section 4); the others are standard. Words are runs of
letters and digits (inner apostrophes and hyphens belong to them); in scripts without spaces every character counts as
one, which needs no dictionary.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Message, Score
from steerlm.scorers.protocol import Scores, Turn
from steerlm.scorers.text_measures.words import word_pieces
from steerlm.storage.files import read_yaml

_SENTENCE_END = re.compile(r"[.!?…。！？]+[\"'”’)\]]*(?=\s|$)|[。！？।]+[\"'”’」』）]*|\n\s*\n")
_CONTROL_TEXT = re.compile(r"<\|[A-Za-z_]+\|>|<extra_id_\d+>|</?s>|\[/?INST\]")


class TextStatistics(NamedTuple):
    """Counts of one text; see `text_statistics`."""

    characters: float
    words: float
    unique_words: float
    sentences: float
    words_per_sentence: float
    flesch_reading_ease: float
    flesch_kincaid_grade: float
    distinct_1: float
    distinct_2: float


def words(text: str) -> list[str]:
    """Return the words of a text in order, lower-cased."""
    return word_pieces(text)


def count_sentences(text: str) -> int:
    """Count sentences: pieces between closing punctuation or blank lines that hold a word."""
    return sum(1 for piece in _SENTENCE_END.split(text) if piece and words(piece))


@functools.lru_cache(maxsize=100_000)
def count_syllables(word: str) -> int:
    """Estimate the syllables of an English word from its hyphenation points (within some 5 % over a text)."""
    parts = re.findall(r"[^\W\d_]+", word.lower())
    return sum(len(_dictionary().positions(part)) + 1 for part in parts) or 1


@functools.cache
def _dictionary() -> Any:
    import pyphen

    return pyphen.Pyphen(lang="en_US", left=1, right=1)


def text_statistics(text: str) -> TextStatistics:
    """Measure one text.

    Returns:
        `characters` (of the stripped text), `words`, `unique_words`, `sentences`, `words_per_sentence`,
        `flesch_reading_ease` (Flesch 1948; about 0 hard .. 100 easy) and `flesch_kincaid_grade` (Kincaid 1975; school
        years), both for English with estimated syllables, and `distinct_1`, `distinct_2`: distinct words and word
        pairs as a share of all. A text without words has zeros everywhere but in `characters`.
    """
    tokens = words(text)
    characters = float(len(text.strip()))
    if not tokens:
        return TextStatistics(characters, *[0.0] * 8)
    sentences = max(1, count_sentences(text))
    per_sentence = len(tokens) / sentences
    per_word = sum(count_syllables(token) for token in tokens) / len(tokens)
    return TextStatistics(
        characters=characters,
        words=float(len(tokens)),
        unique_words=float(len(set(tokens))),
        sentences=float(sentences),
        words_per_sentence=per_sentence,
        flesch_reading_ease=206.835 - 1.015 * per_sentence - 84.6 * per_word,
        flesch_kincaid_grade=0.39 * per_sentence + 11.8 * per_word - 15.59,
        distinct_1=distinct_n([text], 1),
        distinct_2=distinct_n([text], 2),
    )


Measure = Callable[[Sequence[Message]], dict[str, float]]
"""What the last turn of a conversation measures, by attribute (on its scale) or by the name of a statistic."""


def measure(messages: Sequence[Message]) -> dict[str, float]:
    """Return the statistics of a conversation's last turn by name (a `Measure`)."""
    return dict(text_statistics(messages[-1].content)._asdict())


class MeasureScorer:
    """A measure as a scorer; being exact, it stays independent of labels that it set itself.

    Args:
        wanted: names to score, as far as it knows them; None: all it knows.
    """

    def __init__(self, name: str, measure: Measure, wanted: Sequence[str] | None = None) -> None:
        known = measure([Message("user", "What is this?"), Message("assistant", "It is a probe.")])
        self.who = f"measure:{name}"
        self.label = f"exact measures ({name})"
        self.attributes = tuple(known if wanted is None else (n for n in wanted if n in known))
        self._measure = measure

    def independent_of(self, training: Collection[str]) -> bool:
        """See `Scorer.independent_of`."""
        return True

    def score(self, turns: Sequence[Turn]) -> list[Scores | None]:
        """See `Scorer.score`; a turn without text is measured like any other."""
        found = [self._measure(turn) for turn in turns]
        return [{name: Score(row[name], 0.0) for name in self.attributes} for row in found]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct word n-grams over all texts as a share of all (Li et al. 2016); 0 where there is none.

    Falls with the amount of text: compare only collections of equal size.
    """
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return the runs of `n` words in order."""
    return list(zip(*(tokens[i:] for i in range(n)), strict=False))


def is_refusal(text: str) -> bool:
    """Whether an answer declines, by its phrases (such as "As an AI", "I cannot help") in a dozen languages."""
    return _refusals().search(text) is not None


@functools.cache
def _refusals() -> re.Pattern[str]:
    by_language: dict[str, list[str]] = read_yaml(Path(__file__).with_name("refusals.yaml"))
    return re.compile("|".join(phrase for phrases in by_language.values() for phrase in phrases), re.IGNORECASE)


def has_label_leak(text: str, schema: AttributeSchema) -> bool:
    """Whether an answer shows its own markup: an attribute line in the text form, or a control token as text.

    A line of `name:value` pairs counts, and two joined pairs anywhere; "quality: 4" within a sentence does not.
    """
    if _CONTROL_TEXT.search(text):
        return True
    line, joined = _label_patterns(schema.signature, schema.names)
    return bool(line.search(text) or joined.search(text))


@functools.lru_cache(maxsize=16)
def _label_patterns(signature: str, names: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    pair = rf"(?:{'|'.join(map(re.escape, names))}):[A-Za-z0-9_.+-]+"
    return re.compile(rf"^\s*{pair}(?:,{pair})*\s*$", re.MULTILINE), re.compile(rf"\b{pair},{pair}")


def is_degenerate(text: str) -> bool:
    """Whether a sample is no answer at all: no words, or stuck in repetition.

    Stuck means a phrase of 1 to 12 words four times in a row ("000,000,000,000" is a number, no phrase), or at least
    half of all four-word runs (of eight or more) said before in the same text. Truncation is not visible in the
    text; the engine reports it.
    """
    tokens = words(text)
    if not tokens:
        return True
    for size in range(1, min(12, len(tokens) // 4) + 1):
        run = 0
        for i in range(size, len(tokens)):
            run = run + 1 if tokens[i] == tokens[i - size] else 0
            if run >= 3 * size and not all(token.isdigit() for token in tokens[i - size : i]):
                return True
    grams = ngrams(tokens, 4)
    if len(grams) < 8:
        return False
    repeated = sum(count - 1 for count in Counter(grams).values())
    return repeated / len(grams) >= 0.5


_MOST_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""Words of a phrase -> largest share of a text that may be repetitions of such phrases."""


def says_things_twice(text: str) -> bool:
    """Whether a notable part of a text was said before in it, word for word.

    The rule and thresholds that filtered the training data of Gopher (Rae et al. 2021, arXiv 2112.11446, table A1):
    for phrases of 5 to 10 words, the share of characters in second and later occurrences. It finds samples that fill
    a request by repetition, which an attribute model trained on human text counts twice; good answers with tables or
    refrains can exceed it, so it selects training samples and judges no answer.
    """
    tokens = words(text)
    characters = sum(map(len, tokens))
    for size, limit in _MOST_REPEATED.items():
        seen: set[tuple[str, ...]] = set()
        repeated = i = 0
        while i <= len(tokens) - size:
            phrase = tuple(tokens[i : i + size])
            if phrase in seen:
                repeated += sum(map(len, phrase))
                i += size
            else:
                seen.add(phrase)
                i += 1
        if repeated > limit * characters:
            return True
    return False
