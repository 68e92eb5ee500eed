"""Which language a text is in."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import regex

from steerlm.errors import needs_extra

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_LETTER = regex.compile(r"\p{L}")
_NO_LANGUAGE = regex.compile(r"```.*?(?:```|\Z)|`[^`\n]+`|\b(?:https?://|www\.)\S+", regex.DOTALL)
_MOST_CHARACTERS = 2000
"""More of a text says nothing new about its language."""
_LEAST_CONFIDENCE = 0.2
"""Of a guess among 140 languages; "La casa es grande" has 0.27, "Hello" 0.06."""


@functools.cache
def _identifier() -> LanguageIdentifier:
    with needs_extra("measures", "telling languages apart"):
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True, min_confidence=_LEAST_CONFIDENCE)


def language_of(text: str) -> str | None:
    """Return the ISO 639 code of a text's language; code in fences and addresses do not count.

    Returns:
        None without letters, and where the text is too short or too mixed to tell (py3langid, 140 languages).
    """
    said = _NO_LANGUAGE.sub(" ", text)[:_MOST_CHARACTERS].strip()
    if not _LETTER.search(said):
        return None
    found = str(_identifier().classify(said)[0])
    return None if found in ("und", "zxx") else found


def languages() -> tuple[str, ...]:
    """Return the codes that `language_of` knows."""
    return tuple(str(label) for label in _identifier().labels if label != "zxx")
