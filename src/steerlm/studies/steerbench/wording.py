"""What SteerBench says to a model, word for word, and how it reads the answer."""

from __future__ import annotations

import numpy as np

from steerlm.scorers.goal_measures import GOALS
from steerlm.statistics.estimates import FloatArray

_UP = {
    "reading_difficulty": "harder to read",
    "textual_diversity": "use more diverse language",
    "text_length": "longer",
    "formality": "more formal",
}
_DOWN = {
    "reading_difficulty": "easier to read",
    "textual_diversity": "use less diverse language",
    "text_length": "shorter",
    "formality": "more informal",
}
_MUCH, _SLIGHTLY = 0.5, 0.2
_NOTHING_ELSE = (
    "You MUST not change anything else about the other parts of the text, even if it makes the rewritten text sound "
    "unnatural or otherwise awkward."
)
_ONLY_THE_TEXT = "Respond with only the rewritten text and do not explain your response."
_RULE = "\n---\n\n"


def instruction(delta: FloatArray, random: np.random.RandomState, strict: bool = True) -> str:
    """Word a request.

    Args:
        delta: by how much each goal should move; NaN or 0: not at all.
        random: draws the order of the phrases.
        strict: add that nothing else may change, and that only the text is wanted (the benchmark's default).
    """
    phrases = [_phrase(goal, float(d)) for goal, d in zip(GOALS, delta, strict=True) if d == d and d != 0]
    if phrases:
        random.shuffle(phrases)
        *first, last = phrases
        wish = f"{', '.join(first)}, and {last}" if first else last
    else:
        wish = "as close to the original as possible"
    bare = f"Please rewrite the following, but make it {wish}."
    return f"{bare} {_NOTHING_ELSE} {_ONLY_THE_TEXT}" if strict else bare


def _phrase(goal: str, delta: float) -> str:
    words = (_UP if delta > 0 else _DOWN)[goal]
    much = "much " if abs(delta) > _MUCH else "slightly " if abs(delta) < _SLIGHTLY else ""
    return words.replace("use ", f"use {much}") if words.startswith("use ") else much + words


def clean_response(text: str) -> str:
    """Take the rewritten text out of an answer: without thinking, and without a line that announces it."""
    _, marker, said = text.rpartition("</think>")
    text = said.lstrip() if marker else text
    first, newline, rest = text.partition("\n")
    if newline and "here" in first.lower() and "rewritten" in first.lower():
        text = rest
    return text.removeprefix(_RULE)
