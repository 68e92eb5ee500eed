"""Words and sentences of any language, also of those that put no spaces between words."""

from __future__ import annotations

import functools
from collections.abc import Callable

import regex

from steerlm.errors import needs_extra

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}]+(?:['’\-][\p{L}\p{M}\p{N}]+)*")
_SPACELESS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]+")
_KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")
_THAI = regex.compile(r"\p{Thai}")
_HAN = regex.compile(r"\p{Han}")
_SENTENCE_END = regex.compile(
    r"[.!?…؟։]+[\"'”’»)\]]*(?=\s|$)|[。！？।]+[\"'”’」』）]*|\n\s*\n|\n(?=\s*(?:[-*+•]|\d+[.)])\s)"
)


def words(text: str) -> list[str] | None:
    """Return the words of a text in order, as they are written.

    A word is a run of letters and digits; apostrophes and hyphens within belong to it. Runs of Chinese, Japanese and
    Thai are cut by dictionary (extra `measures`).

    Returns:
        None where the text is in a script without spaces that nothing here can cut (Lao, Khmer, Burmese).

    Raises:
        UserError: the library that cuts the text is not installed.
    """
    if not _SPACELESS.search(text):
        return list(_WORD.findall(text))
    japanese = _KANA.search(text) is not None  # Chinese characters are Japanese ones where kana stand beside them
    found: list[str] = []
    end = 0
    for run in _SPACELESS.finditer(text):
        cut = _cutter(run.group(), japanese)
        if cut is None:
            return None
        found += _WORD.findall(text[end : run.start()])
        found += [word for word in cut(run.group()) if _WORD.search(word)]
        end = run.end()
    return [*found, *_WORD.findall(text[end:])]


def count_words(text: str) -> float | None:
    """Return how many words a text has; None for a script that nothing here can cut."""
    found = words(text)
    return None if found is None else float(len(found))


def count_sentences(text: str) -> float | None:
    """Return how many sentences a text has; None without words.

    A sentence ends at closing punctuation, at a blank line and before an item of a list.
    """
    pieces = sum(1 for piece in _SENTENCE_END.split(text) if piece and _WORD.search(piece))
    return float(pieces) or None


def _cutter(run: str, japanese: bool) -> Callable[[str], list[str]] | None:
    if japanese and (_KANA.search(run) or _HAN.search(run)):
        return _cut_japanese()
    if _THAI.search(run):
        return _cut_thai()
    return _cut_chinese() if _HAN.search(run) else None


@functools.cache
def _cut_chinese() -> Callable[[str], list[str]]:
    with needs_extra("measures", "counting words of Chinese"):
        import rjieba

    return lambda run: [str(word) for word in rjieba.cut(run)]


@functools.cache
def _cut_japanese() -> Callable[[str], list[str]]:
    with needs_extra("measures", "counting words of Japanese"):
        import fugashi
        import unidic_lite

    tagger = fugashi.Tagger(f'-Owakati -d "{unidic_lite.DICDIR}"')
    return lambda run: [word.surface for word in tagger(run)]


@functools.cache
def _cut_thai() -> Callable[[str], list[str]]:
    with needs_extra("measures", "counting words of Thai"):
        from pythainlp.tokenize import word_tokenize

    return lambda run: [str(word) for word in word_tokenize(run, keep_whitespace=False)]


def word_pieces(text: str) -> list[str]:
    """Return words in lower case and, of scripts without spaces, single characters: needs no dictionary."""
    pieces = []
    for word in _WORD.findall(text.lower()):
        pieces += list(word) if _SPACELESS.search(word) else [word]
    return pieces
