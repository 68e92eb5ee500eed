"""A model's own answers, as training takes them: what is no answer is dropped before it is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.scorers.measures import has_label_leak, is_degenerate, says_things_twice, words


def defects(samples: Sequence[Mapping[str, Any]], schema: AttributeSchema) -> list[str | None]:
    """Say of every sample of one prompt why it is dropped before scoring; None = it is not.

    Args:
        samples: rows with `text` and `finished`.
        schema: the attribute names that a leaked label would show.

    Returns:
        Per sample None, or `empty` (no words), `truncated` (cut off by the length limit), `leaking` (shows attribute
        text or control tokens), `duplicate` (says the same as another sample of its prompt), or `repeating` (stuck in
        repetition).
    """
    seen: set[str] = set()
    found: list[str | None] = []
    for sample in samples:
        text = sample["text"].strip()
        reason = None
        if not words(text):
            reason = "empty"
        elif not sample["finished"]:
            reason = "truncated"
        elif has_label_leak(text, schema):
            reason = "leaking"
        elif text in seen:
            reason = "duplicate"
        elif is_degenerate(text) or says_things_twice(text):
            reason = "repeating"
        seen.add(text)
        found.append(reason)
    return found
