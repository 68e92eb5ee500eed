"""Take a judge's thinking out of its output; what it drafted there is no verdict.

A server without a parser for its model hands the thinking out with the answer: between tags, in Harmony's channels, or,
where the tag that opens it stood in the prompt, with the closing tag alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

NO_ROOM = "no room to think: the output ended at its longest length before an answer; raise --max-tokens"

_WORDS = (
    r"(?:think(?:ing)?|thoughts?|reason(?:ing)?(?:_content)?|analysis|reflection|scratchpad|rationale|deliberation|"
    r"(?:inner|internal)_monologue|cot|chain_of_thought)"
)
_OPEN = (
    rf"<\|?(?:\w+:)?{_WORDS}(?:\s[^<>]{{0,200}})?\|?>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>|<\|inner_prefix\|>|"
    r"<\|channel>thought\b|^\s*Here is my thought process:"
)
_CLOSE = (
    rf"<\|?/(?:\w+:)?{_WORDS}\|?>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<\|inner_suffix\|>|"
    r"<channel\|>|^\s*Here is my response:"
)
_TAG = re.compile(f"(?P<open>{_OPEN})|(?P<close>{_CLOSE})", re.IGNORECASE | re.MULTILINE)
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_END_OF_MESSAGE = re.compile(r"<\|(?:end|return|call|start)\|>")
_GLUED_CHANNEL = re.compile(r"\s*(?:analysis|commentary)(?=[A-Z])")
"""Harmony's channels as a tokenizer leaves them that drops special tokens: `analysisWe …assistantfinal8 6`."""
_QUOTES = "\"'`“”‘’«»„「」"


class Said(NamedTuple):
    """What a judge said behind its thinking; `thought` tells whether there was any, `problem` why nothing counts."""

    text: str
    thought: bool = False
    problem: str = ""


def without_thinking(text: str, cut_off: bool = False) -> Said:
    """Return the output without the thinking."""
    unfinished = NO_ROOM if cut_off else "cut off while thinking"
    if "<|channel|>" in text:
        finals = list(_FINAL_CHANNEL.finditer(text))
        if not finals:
            return Said("", thought=True, problem=unfinished)
        return Said(_END_OF_MESSAGE.split(text[finals[-1].end() :], maxsplit=1)[0], thought=True)
    if _GLUED_CHANNEL.match(text):
        _, final, answer = text.rpartition("assistantfinal")
        return Said(answer, thought=True, problem="" if final else unfinished)
    return _without_tags(text, unfinished)


def _without_tags(text: str, unfinished: str) -> Said:
    kept: list[str] = []
    begin, inside, thoughts = 0, False, 0
    for tag in _TAG.finditer(text):
        if _is_quoted(text, tag):
            continue
        if tag["open"]:
            if not inside:
                kept.append(text[begin : tag.start()])
            inside = True
            continue
        if not inside:
            # the tag that opens the thinking stood in the prompt, unless the thinking has ended before
            if thoughts:
                return Said("", thought=True, problem="its thinking ends twice")
            kept = []
        inside, begin, thoughts = False, tag.end(), thoughts + 1
    if inside:
        return Said("", thought=True, problem=unfinished)
    return Said("\n".join([*kept, text[begin:]]), thought=bool(thoughts))


def _is_quoted(text: str, tag: re.Match[str]) -> bool:
    before, after = text[tag.start() - 1 : tag.start()], text[tag.end() : tag.end() + 1]
    return bool(before and after) and before in _QUOTES and after in _QUOTES
