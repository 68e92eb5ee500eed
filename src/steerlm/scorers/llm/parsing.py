"""Reading a judge's output. Strict: what does not state its verdict in the form asked for is a problem, never a guess.

A verdict that the judge only quotes on the way, or takes back, must not count: of several the last stands, and where
two forms of the same output contradict each other there is no verdict at all.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from steerlm.attributes import Attribute

_NUMBER = r"\d+(?:\.\d+)?"
_PAIR_LINE = re.compile(rf"({_NUMBER})(?:\s*,\s*|\s+)({_NUMBER})")
_TUPLE_LINE = re.compile(
    rf"(?:(?:final\s+)?(?:output|scores?|ratings?|result)\b[^()\d\n]*)?[`*]*\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)[`*.]*",
    re.IGNORECASE,
)
_NAMED_TUPLE = re.compile(rf"\btuple(?: is| would be)?:?\s*[`*]*\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)", re.IGNORECASE)
_LABELLED = re.compile(
    rf"\bAssistant ([12])(?:'s score)?\*{{0,2}}[ \t]*[:=][ \t]*\*{{0,2}}[ \t]*({_NUMBER})"
    r"\*{0,2}(?:[ \t]*/[ \t]*10| out of 10)?(?=[ \t]*(?:$|[()\n,;]|\.(?!\d)|and\b|-[ \t]+[A-Za-z]))",
)
_PROSE = re.compile(rf"\bAssistant ([12]) a score of ({_NUMBER})(?:/10| out of 10)?(?![\d.]*\d)")
_SCORE_RANGE = (0.0, 10.0)
"""The prompts ask for 1..10; judges also give 0, and published tables count it."""


class Parsed(NamedTuple):
    """A verdict.

    Attributes:
        scores: the numbers in the order shown; empty for a verdict in words and where there is none.
        outcome: for a pair 1.0 the first is better, 0.5 tie, 0.0 the second; None for single ratings.
        problem: why there is no verdict; empty where there is one.
    """

    scores: tuple[float, ...] = ()
    outcome: float | None = None
    problem: str = ""


def parse(kind: str, text: str, attribute: Attribute | None = None, finish_reason: str = "stop") -> Parsed:
    """Read the verdict out of a judge's output.

    Args:
        kind: name of the prompt (`protocols.Ask.kind`).
        text: the output, verbatim.
        attribute: the rated attribute (kind `rubric`).
        finish_reason: why the judge stopped; where it was cut off, only a verdict at the beginning counts.

    Returns:
        The verdict, or the problem.
    """
    if text.lstrip().startswith("<think>"):  # a server without a parser for it hands out the thinking too
        _, closed, text = text.partition("</think>")
        if not closed:
            return Parsed(problem="cut off while thinking")
    if not text.strip():
        return Parsed(problem=f"empty output (finish reason {finish_reason})")
    cut_off = finish_reason == "length"
    if kind.startswith("vicuna"):
        return parse_score_pair(text, first_line_only=cut_off)
    if cut_off:
        return Parsed(problem="cut off before its verdict")
    if kind == "rubric":
        assert attribute is not None
        return parse_level(text, attribute)
    return parse_letter(text) if kind.startswith("pair-") else parse_rating(text)


def parse_score_pair(text: str, first_line_only: bool = False) -> Parsed:
    """Read the two scores of a Vicuna prompt.

    The first line may be nothing but the scores, as the general and coding prompts ask. Else they may come at the end,
    as the math prompt asks: a tuple on a line of its own or named as such, `Assistant 1: 8` and `Assistant 2: 6`, or
    the same in words. Any other tuple inside a sentence may be a coordinate and does not count.

    Args:
        text: the output.
        first_line_only: the output was cut off, so what stands last is not the judge's last word.
    """
    first_line = text.strip().splitlines()[0].strip()
    if found := _PAIR_LINE.fullmatch(first_line) or _TUPLE_LINE.fullmatch(first_line):
        return _score_pair(float(found[1]), float(found[2]))
    if first_line_only:
        return Parsed(problem="cut off before its verdict")
    forms = (_last_tuple(text), _last_of_both(_LABELLED.findall(text)), _last_of_both(_PROSE.findall(text)))
    stated = {pair for pair in forms if pair is not None}
    if not stated:
        return Parsed(problem="no two scores in the output")
    if len(stated) > 1:
        return Parsed(problem=f"contradicting scores: {' and '.join(str(pair) for pair in sorted(stated))}")
    return _score_pair(*stated.pop())


def parse_letter(text: str) -> Parsed:
    """Read MT-bench's `[[A]]`, `[[B]]` or `[[C]]` (a tie); the last one counts, as an answer may quote others."""
    found = re.findall(r"\[\[\s*([ABC])\s*\]\]", text)
    if not found:
        return Parsed(problem="no [[A]], [[B]] or [[C]]")
    return Parsed(outcome={"A": 1.0, "B": 0.0, "C": 0.5}[found[-1]])


def parse_rating(text: str) -> Parsed:
    """Read MT-bench's `[[rating]]`; the last one counts. `Rating: [5]`, in single brackets, counts too."""
    found = re.findall(rf"\[\[\s*({_NUMBER})\s*\]\]", text)
    if not found:
        found = re.findall(rf"\brating\W{{0,6}}?\[\s*({_NUMBER})\s*\]", text, re.IGNORECASE)
    if not found:
        return Parsed(problem="no [[rating]]")
    rating = float(found[-1])
    low, high = _SCORE_RANGE
    return Parsed((rating,)) if low <= rating <= high else Parsed(problem=f"rating {found[-1]} is off the scale 1..10")


def parse_level(text: str, attribute: Attribute) -> Parsed:
    """Read the rubric's `[[rating]]`: a level of the attribute's scale, or the index of its category.

    Levels in between (`[[3.5]]`) are kept as they are.
    """
    found = re.findall(r"\[\[\s*([^\[\]\n]+?)\s*\]\]", text)
    if not found:
        return Parsed(problem="no [[rating]]")
    last = found[-1]
    if attribute.kind == "categorical":
        if last in attribute.categories:
            return Parsed((float(attribute.categories.index(last)),))
        return Parsed(problem=f"{last!r} is not one of {', '.join(attribute.categories)}")
    if not re.fullmatch(_NUMBER, last, re.ASCII):
        return Parsed(problem=f"{last!r} is not a number")
    if not attribute.minimum <= float(last) <= attribute.maximum:
        return Parsed(problem=f"{last} is off the scale {attribute.minimum}..{attribute.maximum}")
    return Parsed((float(last),))


def parse_three_way(text: str) -> Parsed:
    """Read the verdict of QLoRA's three-way reviews: 1, 2 or 3 (a tie) alone on the last line."""
    last_line = text.strip().splitlines()[-1].strip() if text.strip() else ""
    if last_line not in ("1", "2", "3"):
        return Parsed(problem="the last line is not 1, 2 or 3")
    return Parsed(outcome={"1": 1.0, "2": 0.0, "3": 0.5}[last_line])


def _score_pair(first: float, second: float) -> Parsed:
    low, high = _SCORE_RANGE
    for score in (first, second):
        if not low <= score <= high:
            return Parsed(problem=f"score {score:g} is off the scale 1..10")
    return Parsed((first, second), 0.5 if first == second else float(first > second))


def _last_tuple(text: str) -> tuple[float, float] | None:
    lines = text.splitlines()
    found = [match for line in lines if (match := _TUPLE_LINE.fullmatch(line.strip()) or _NAMED_TUPLE.search(line))]
    return (float(found[-1][1]), float(found[-1][2])) if found else None


def _last_of_both(found: list[tuple[str, str]]) -> tuple[float, float] | None:
    scores = {which: float(number) for which, number in found}
    return (scores["1"], scores["2"]) if len(scores) == 2 else None
