"""Edits by rule that move a text's measures: shorter, longer, in shorter or longer sentences, more or less formal.

They make no good prose; they make pairs whose difference is known, and bounds for what rules alone can reach.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+")
_JOINT = re.compile(r"(?:;|,(?= (?:and|but|so|or|while|which|because|although|where|when) ))\s+")
_CONTRACTIONS = {
    "do not": "don't", "does not": "doesn't", "did not": "didn't", "is not": "isn't", "are not": "aren't",
    "was not": "wasn't", "were not": "weren't", "cannot": "can't", "could not": "couldn't", "would not": "wouldn't",
    "should not": "shouldn't", "will not": "won't", "have not": "haven't", "has not": "hasn't", "it is": "it's",
    "that is": "that's", "there is": "there's", "they are": "they're", "we are": "we're", "you are": "you're",
    "i am": "I'm", "i have": "I've", "they will": "they'll", "we will": "we'll",
}  # fmt: skip
_EXPANSIONS = {short.lower(): full for full, short in _CONTRACTIONS.items()}
_ASIDES = ("Well, ", "You know, ", "Really, ", "So yeah, ", "Honestly, ")

Edit = Callable[[str], str]


def sentences(text: str) -> list[str]:
    """Return the sentences of a text."""
    return [piece.strip() for piece in _SENTENCE_END.split(text) if piece.strip()]


def keep(share: float) -> Edit:
    """Return the edit that keeps the first sentences, about that share of the words and at least one sentence."""

    def edit(text: str) -> str:
        pieces = sentences(text)
        wanted = share * len(text.split())
        kept: list[str] = []
        for piece in pieces:
            if kept and sum(len(p.split()) for p in kept) + len(piece.split()) / 2 > wanted:
                break
            kept.append(piece)
        return " ".join(kept)

    return edit


def again(text: str) -> str:
    """Say the whole text twice."""
    return f"{text.rstrip()}\n\n{text.lstrip()}"


def echo(text: str) -> str:
    """Say every sentence twice."""
    return " ".join(f"{piece} {piece}" for piece in sentences(text))


def split_sentences(text: str) -> str:
    """Make a sentence of its own of every clause behind a semicolon, or behind a comma and a conjunction."""
    return " ".join(_capital(piece.rstrip(" ,;")) + _stop(piece) for s in sentences(text) for piece in _JOINT.split(s))


def join_sentences(text: str) -> str:
    """Join every two sentences."""
    pieces = sentences(text)
    pairs = [pieces[i : i + 2] for i in range(0, len(pieces), 2)]
    return " ".join("; ".join([*(p.rstrip(".!?… ") for p in pair[:-1]), pair[-1]]) for pair in pairs)


def contract(text: str) -> str:
    """Write "don't" for "do not" and the like."""
    return _replaced(text, _CONTRACTIONS)


def expand(text: str) -> str:
    """Write "do not" for "don't" and the like."""
    return _replaced(text.replace("’", "'"), _EXPANSIONS)


def chatty(text: str) -> str:
    """Begin every second sentence with an aside."""
    return " ".join(
        f"{_ASIDES[i // 2 % len(_ASIDES)]}{piece[:1].lower()}{piece[1:]}" if i % 2 == 0 else piece
        for i, piece in enumerate(sentences(text))
    )


LENGTHS: dict[str, Edit] = {
    "keep a quarter": keep(0.25),
    "keep half": keep(0.5),
    "keep three quarters": keep(0.75),
    "twice": again,
    "echo": echo,
}
STYLES: dict[str, Edit] = {
    "split sentences": split_sentences,
    "join sentences": join_sentences,
    "contract": contract,
    "expand": expand,
    "chatty": chatty,
}


def edits_of(text: str) -> dict[str, str]:
    """Return what the edits make of a text: each alone, and every change of style before one of length.

    What changes nothing, or leaves nothing, is left out; of equal texts the first stays.
    """
    made = {name: edit(text) for name, edit in {**LENGTHS, **STYLES}.items()}
    for (style, edit), (length, cut) in itertools.product(STYLES.items(), LENGTHS.items()):
        made[f"{style}, {length}"] = cut(edit(text))
    found: dict[str, str] = {}
    for name, edited in made.items():
        if edited.strip() and edited != text and edited not in found.values():
            found[name] = edited
    return found


def _replaced(text: str, table: dict[str, str]) -> str:
    def swap(match: re.Match[str]) -> str:
        new = table[match[0].lower()]
        return _capital(new) if match[0][0].isupper() else new

    words = "|".join(re.escape(word) for word in sorted(table, key=len, reverse=True))
    return re.sub(rf"\b(?:{words})\b", swap, text, flags=re.IGNORECASE)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _stop(piece: str) -> str:
    return "" if piece.rstrip().endswith((".", "!", "?", "…", ":", '"', "”")) else "."
