"""Alpaca layout: `{"instruction": "…", "input": "…", "output": "…"}`, one exchange per row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steerlm.conversation import Message
from steerlm.sources.draft import Draft, Labels, expect_object, expect_text, optional_text, own_id


def convert(row: Any, labels: Labels) -> Iterator[Draft]:
    """Yield the one exchange of a row, the input below the instruction; the data have no labels.

    Raises:
        UserError: no instruction or no output.
    """
    row = expect_object(row)
    instruction, given = expect_text(row, "instruction"), optional_text(row, "input")
    prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
    messages = [Message("user", prompt), Message("assistant", expect_text(row, "output"))]
    if system := optional_text(row, "system"):
        messages.insert(0, Message("system", system))
    yield Draft(tuple(messages), own_id(row, "id"))
