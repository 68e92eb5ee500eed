"""Lexical diversity: MTLD (McCarthy and Jarvis 2010), which the length of a text hardly moves."""

from __future__ import annotations

from collections.abc import Sequence

from steerlm.scorers.text_measures.words import words

_RATIO = 0.72
_SHORTEST = 10


def mtld(text: str) -> float | None:
    """Return the lexical diversity of a text: MTLD of its words, upper and lower case alike.

    Returns:
        None where every word occurs once or there are none: the text is too short to say.
    """
    found = words(text)
    return None if found is None else mtld_of([word.lower() for word in found]) or None


def mtld_of(items: Sequence[str]) -> float:
    """Return the mean number of items in a row that keep the share of distinct ones at 0.72.

    The mean is that of all segments, forward and backward, each divided by its weight, and a segment has at least 10
    items: the form of the package `taaled`, which SteerBench uses.

    Returns:
        0 where no segment has a weight: no items, or every one occurs once.
    """
    lengths = [length for order in (items, items[::-1]) for length in _segments(order)]
    return sum(lengths) / len(lengths) if lengths else 0.0


def _segments(items: Sequence[str]) -> list[float]:
    """Return length divided by weight of every segment that has a weight."""
    found: list[float] = []
    seen: set[str] = set()
    size = 0
    for i, item in enumerate(items):
        seen.add(item)
        size += 1
        ratio = len(seen) / size
        if i == len(items) - 1:
            if ratio < 1:
                found.append(size * (1 - _RATIO) / (1 - ratio))
        elif ratio < _RATIO and size >= _SHORTEST:
            found.append(float(size))
            seen, size = set(), 0
    return found
