"""Whether a text says pleasant or unpleasant things, by a list of words and rules (extra `measures`)."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from steerlm.errors import needs_extra
from steerlm.scorers.text_measures.words import words

if TYPE_CHECKING:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


def sentiment(text: str, language: str | None) -> float | None:
    """Return VADER's compound score of an English text, -1 (unpleasant) to 1 (Hutto and Gilbert 2014).

    Returns:
        None without words, and in another language: VADER's list of words is English.
    """
    if language != "en" or not words(text):
        return None
    return float(_analyzer().polarity_scores(text)["compound"])


@functools.cache
def _analyzer() -> SentimentIntensityAnalyzer:
    with needs_extra("measures", "sentiment"):
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
