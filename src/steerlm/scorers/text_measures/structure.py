"""The form of a text: questions, lists, Markdown, emoji, code."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import regex

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_ADDRESS = regex.compile(r"\b(?:https?://|www\.)\S+")
_QUESTION = regex.compile(r"[?]+[!?]*(?=[\s\"'”’»)\]*_]|$)|[？؟՞⸮]+")
_EMOJI = regex.compile(
    r"\p{Emoji_Presentation}|\p{Extended_Pictographic}\uFE0F|\p{Regional_Indicator}{2}|[0-9#*]\uFE0F?\u20E3"
)
_STRUCTURE = {"list_item_open", "heading_open", "tr_open", "fence", "blockquote_open", "hr"}
_INLINE = {"strong_open", "em_open", "code_inline", "link_open", "image"}


def questions(text: str) -> float | None:
    """Return how many questions a text asks: sentences that end with a question mark, outside code and addresses."""
    if not text.strip():
        return None
    said = "\n".join(_ADDRESS.sub("", token.content) for token in _tokens(text) if token.type == "inline")
    return float(len(_QUESTION.findall(said)))


def list_items(text: str) -> float | None:
    """Return how many items the lists of a text have (Markdown)."""
    return float(sum(token.type == "list_item_open" for token in _tokens(text))) if text.strip() else None


def markdown_share(text: str) -> float | None:
    """Return the share (0..1) of a text's lines that are no plain prose.

    Such are headings, items of lists, rows of tables, code, quotations and rules, and lines with bold or slanted
    words, inline code or a link.
    """
    lines = text.split("\n")
    filled = {i for i, line in enumerate(lines) if line.strip()}
    if not filled:
        return None
    marked: set[int] = set()
    for token in _tokens(text):
        if token.map is None:
            continue
        first, last = token.map
        if token.type in _STRUCTURE:
            marked |= set(range(first, last))
        elif token.type == "inline" and any(child.type in _INLINE for child in token.children or ()):
            marked |= set(_marked_lines(token, first))
    return len(marked & filled) / len(filled)


def _marked_lines(token: Token, first: int) -> Iterator[int]:
    """Yield the lines of a paragraph on which inline Markdown stands."""
    line = first
    for child in token.children or ():
        if child.type in ("softbreak", "hardbreak"):
            line += 1
        elif child.type in _INLINE:
            yield line


def emoji(text: str) -> float | None:
    """Return how many emoji a text has; those joined into one picture count once."""
    if not text.strip():
        return None
    return float(sum(_EMOJI.search(cluster) is not None for cluster in regex.findall(r"\X", text)))


def code_share(text: str) -> float | None:
    """Return the share (0..1) of a text's characters, spaces aside, that are code: in fences, or inline."""
    total = _visible(text)
    if not total:
        return None
    inside = 0
    for token in _tokens(text):
        if token.type == "fence":
            inside += _visible(token.content)
        inside += sum(_visible(child.content) for child in token.children or () if child.type == "code_inline")
    return inside / total


def _visible(text: str) -> int:
    return sum(not character.isspace() for character in text)


def _tokens(text: str) -> list[Token]:
    return _parser().parse(text)


@functools.cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # a reply that begins with four spaces is seldom meant as code
    return MarkdownIt("commonmark").enable("table").disable("code")
