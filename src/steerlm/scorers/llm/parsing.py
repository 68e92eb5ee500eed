"""Reading a judge's output. Strict: what does not state its verdict in the form asked for is a problem, never a guess.

What it drafts while thinking does not count (`thinking`), nor what it quotes, echoes, denies or puts under a condition
(`statements`). Where two forms of the same output contradict each other there is no verdict at all.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from steerlm.attributes import Attribute
from steerlm.scorers.llm.statements import Bracketed, stated_value, was_taken_back, without_quotations
from steerlm.scorers.llm.thinking import NO_ROOM, without_thinking

THREE_WAY = "three-way"
"""Kind of QLoRA's three-way reviews, which this tool reads but does not ask for."""
_CUT_OFF = ("length", "max_tokens", "max_output_tokens", "model_length")
"""What servers call the reason for which an output ended at its longest length."""
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


def parse(
    kind: str, text: str, attribute: Attribute | None = None, finish_reason: str = "stop", thinks: bool = False
) -> Parsed:
    """Read the verdict out of a judge's output.

    Args:
        kind: name of the prompt (`protocols.JudgeAsk.kind`), or `three-way`.
        attribute: the rated attribute (kind `rubric`).
        finish_reason: why the judge stopped; where it was cut off, only a verdict at the beginning counts.
        thinks: the judge is known to think first, so what was cut off may be thinking alone and never counts.
    """
    cut_off = finish_reason.lower() in _CUT_OFF
    said = without_thinking(_plain_characters(text), cut_off)
    if said.problem:
        return Parsed(problem=said.problem)
    if not said.text.strip():
        return Parsed(problem=NO_ROOM if cut_off else f"empty output (finish reason {finish_reason})")
    if finish_reason == "content_filter":
        return Parsed(problem="stopped by the endpoint's content filter")
    if cut_off and thinks and not said.thought:
        return Parsed(problem=NO_ROOM)
    answer = _WRAPPER.sub("", said.text)
    if kind.startswith("vicuna"):
        return parse_score_pair(answer, first_line_only=cut_off)
    if cut_off:
        return Parsed(problem="cut off before its verdict")
    if kind == THREE_WAY:
        return parse_three_way(answer)
    if kind == "rubric":
        assert attribute is not None
        return parse_level(answer, attribute)
    return parse_letter(answer) if kind.startswith("pair-") else parse_rating(answer)


_BRACKETS = {"⟦": "[[", "⟧": "]]", "〚": "[[", "〛": "]]", "【": "[", "】": "]", "«": "“", "»": "”", "。": ". "}
_ODD = re.compile("[^\x00-\x7f]")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\ufffb\ufffc]")
_ESCAPED = re.compile(r"\\\[\\\[([^\[\]\n]{1,40}?)\\\]\\\]")
_WRAPPER = re.compile(
    r"</?(?:answer|final|final_answer|output|response|verdict|result|solution|evaluation|rating|score|judge?ment|b|strong|em|i|p)>|"
    r"<\|[\w ]{1,40}\|>|</?s>",
    re.IGNORECASE,
)


def _plain_characters(text: str) -> str:
    """Write full-width signs, all scripts' digits and doubled brackets as ASCII has them."""
    return _ESCAPED.sub(r"[[\1]]", _ODD.sub(_plain_character, _INVISIBLE.sub("", text)))


def _plain_character(match: re.Match[str]) -> str:
    sign = match[0]
    if sign in _BRACKETS:
        return _BRACKETS[sign]
    if 0xFF01 <= ord(sign) <= 0xFF5E:
        return chr(ord(sign) - 0xFEE0)
    if unicodedata.category(sign) == "Nd":
        return str(unicodedata.decimal(sign))
    return " " if sign in "\u00a0\u2007\u202f\u3000" else sign


# Two scores (Vicuna)

_NUMBER = r"\d+(?:\.\d+)?"
_OF_TEN = r"(?:\s*/\s*10\b)?"
_PAIR = rf"({_NUMBER}){_OF_TEN}(?:\s*,\s*|\s+)({_NUMBER}){_OF_TEN}"
_PAIR_LINE = re.compile(rf"(?:(?:final\s+)?(?:scores?|ratings?)\b[^()\d\n]*[:=]\W*)?{_PAIR}\.?", re.IGNORECASE)
_TUPLE_LINE = re.compile(
    rf"(?P<label>(?:final\s+)?(?:output|scores?|ratings?|result)\b[^()\d\n]*)?\(\s*{_PAIR}\s*\)\.?", re.IGNORECASE
)
_NAMED_TUPLE = re.compile(rf"\btuple(?: is| would be)?:?\s*[`*]*\(\s*{_PAIR}\s*\)", re.IGNORECASE)
_LABELLED = re.compile(
    rf"\bAssistant ([12])(?:'s score)?\*{{0,2}}[ \t]*[:=][ \t]*\*{{0,2}}[ \t]*({_NUMBER})\*{{0,2}}"
    r"(?:[ \t]*/[ \t]*10| out of 10)?(?=[ \t]*(?:$|[()\n;]|,(?![ \t]*\d)|\.(?!\d)|and\b|-[ \t]+[A-Za-z]))",
)
_PROSE = re.compile(rf"\bAssistant ([12]) a score of ({_NUMBER})(?:/10| out of 10)?(?![\d.,]*\d)")

_Pair = tuple[float, float]


def parse_score_pair(text: str, first_line_only: bool = False) -> Parsed:
    """Read the two scores of a Vicuna prompt.

    The first line may be nothing but the scores, as the general and coding prompts ask. Else they may come at the end,
    as the math prompt asks: a tuple on the last line or named as such, `Assistant 1: 8` and `Assistant 2: 6`, or the
    same in words. Any other tuple may be a coordinate and does not count.

    Args:
        first_line_only: the output was cut off, so what stands last is not the judge's last word.
    """
    lines = [line.strip(" \t\r*_#`\"'“”") for line in text.strip().splitlines()]
    stated = {pair for pair in (_on_line(lines[0], may_be_coordinate=False),) if pair is not None}
    if first_line_only:
        return _score_pair(*stated.pop()) if stated else Parsed(problem="cut off before its verdict")
    own = without_quotations(text)
    tuples = _on_lines(own)
    if len(set(tuples)) > 1 and not was_taken_back(own, 0, len(own)):
        return _contradiction(set(tuples))
    stated.update(tuples[-1:])
    for form in (_LABELLED, _PROSE):
        pairs = _both(own, form)
        if len(pairs) > 1:
            return _contradiction(pairs)
        stated |= pairs
    if not stated:
        return Parsed(problem="no two scores in the output")
    return _contradiction(stated) if len(stated) > 1 else _score_pair(*stated.pop())


def _on_lines(text: str) -> list[_Pair]:
    """Return the pairs that stand on lines behind the first."""
    lines = [line.strip(" \t\r*_#`") for line in text.strip().splitlines()]
    pairs = (_on_line(line, may_be_coordinate=i < len(lines)) for i, line in enumerate(lines[1:], 2))
    return [pair for pair in pairs if pair is not None]


def _on_line(line: str, may_be_coordinate: bool) -> _Pair | None:
    """Return the pair that is all of a line, or that the line names as its tuple."""
    found = _PAIR_LINE.fullmatch(line) or _TUPLE_LINE.fullmatch(line)
    bare = found is not None and line[:1] in "(0123456789"
    if found is None or (bare and may_be_coordinate):
        found = _NAMED_TUPLE.search(line)
    return (float(found.groups()[-2]), float(found.groups()[-1])) if found else None


def _both(text: str, form: re.Pattern[str]) -> set[_Pair]:
    """Return the pair of both assistants' scores; more where one is given two scores and neither is taken back."""
    given: dict[str, re.Match[str]] = {}
    earlier: dict[str, float] = {}
    for match in form.finditer(text):
        which, before = match[1], given.get(match[1])
        if before is not None and before[2] != match[2] and not was_taken_back(text, before.end(), match.start()):
            earlier[which] = float(before[2])
        given[which] = match
    if len(given) < 2:
        return set()
    last = {which: float(match[2]) for which, match in given.items()}
    return {(scores["1"], scores["2"]) for scores in (last, {**last, **earlier})}


def _contradiction(stated: set[_Pair]) -> Parsed:
    return Parsed(problem=f"contradicting scores: {' and '.join(str(pair) for pair in sorted(stated))}")


def _score_pair(first: float, second: float) -> Parsed:
    low, high = _SCORE_RANGE
    for score in (first, second):
        if not low <= score <= high:
            return Parsed(problem=f"score {score:g} is off the scale 1..10")
    return Parsed((first, second), 0.5 if first == second else float(first > second))


# A verdict in brackets (MT-bench, rubric)

_MISSING_RATING = "no [[rating]]"


def parse_letter(text: str) -> Parsed:
    """Read MT-bench's `[[A]]`, `[[B]]` or `[[C]]` (a tie)."""

    def read(one: Bracketed) -> Parsed:
        outcome = {"A": 1.0, "B": 0.0, "C": 0.5}.get(one.inner.removeprefix("Assistant "))
        return Parsed(outcome=outcome, problem="" if outcome is not None else f"{one.inner!r} is none of A, B and C")

    value, problem = stated_value(text, "", read, "no [[A]], [[B]] or [[C]]")
    return value or Parsed(problem=problem)


def parse_rating(text: str) -> Parsed:
    """Read MT-bench's `[[rating]]`. `Rating: [5]`, in single brackets, counts too."""
    value, problem = stated_value(text, "", lambda one: _number(one, *_SCORE_RANGE, "1..10"), _MISSING_RATING)
    return value or Parsed(problem=problem)


def parse_level(text: str, attribute: Attribute) -> Parsed:
    """Read the rubric's `[[rating]]`: a level of the attribute's scale, or the index of its category.

    Levels in between (`[[3.5]]`) are kept as they are.
    """

    def read(one: Bracketed) -> Parsed:
        if attribute.kind == "categorical":
            return _category(one, attribute.categories)
        low, high = attribute.minimum, attribute.maximum
        return _number(one, low, high, f"{low}..{high}")

    words = r"[ _-]".join(re.escape(word) for word in _plain_characters(attribute.name).split("_"))
    value, problem = stated_value(text, words, read, _MISSING_RATING)
    return value or Parsed(problem=problem)


def parse_three_way(text: str) -> Parsed:
    """Read the verdict of QLoRA's three-way reviews: 1, 2 or 3 (a tie) alone on the last line."""
    last_line = text.strip().splitlines()[-1].strip(" \t*_`.") if text.strip() else ""
    if last_line not in ("1", "2", "3"):
        return Parsed(problem="the last line is not 1, 2 or 3")
    return Parsed(outcome={"1": 1.0, "2": 0.0, "3": 0.5}[last_line])


_RATING = re.compile(
    rf"(?:[A-Za-z ]+[:=]\s*)?({_NUMBER})(?:\s*(?:/|out of)\s*({_NUMBER}))?(?:\s*points?)?", re.IGNORECASE
)
_SEVERAL = re.compile(rf"{_NUMBER}\s*(?:-|–|—|~|to|or|and)\s*{_NUMBER}")


def _number(one: Bracketed, low: float, high: float, scale: str) -> Parsed:
    found = _RATING.fullmatch(one.inner)
    if found is None:
        what = "a range" if _SEVERAL.fullmatch(one.inner) else "not a number"
        return Parsed(problem=f"{one.inner!r} is {what}")
    most = found[2] or one.most
    if most and float(most) != high:
        return Parsed(problem=f"{found[1]} of {most} is on another scale than {scale}")
    if not low <= float(found[1]) <= high:
        return Parsed(problem=f"{found[1]} is off the scale {scale}")
    return Parsed((float(found[1]),))


def _category(one: Bracketed, categories: tuple[str, ...]) -> Parsed:
    plain = [_plain_characters(category) for category in categories]
    near = [i for i, category in enumerate(plain) if category.casefold() == one.inner.casefold()]
    index = plain.index(one.inner) if one.inner in plain else near[0] if len(near) == 1 else None
    if index is None:
        return Parsed(problem=f"{one.inner!r} is not one of {', '.join(categories)}")
    return Parsed((float(index),))
