"""Alpaca layout: `{"instruction": "…", "input": "…", "output": "…"}`, one exchange per row.

As in LLaMA-Factory a row may have a `system` prompt and a `history` of exchanges: `[["question", "answer"], …]`.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.sources.draft import Draft, JsonObject, Labels, absent, expect_object, expect_text, filled_text, own_id
from steerlm.sources.turns import read_turn

_NO_OUTPUT = ("nooutput", "no output")


def convert(row: object, labels: Labels) -> Iterator[Draft]:
    """Yield the conversation of a row: its history, then the instruction with the input below it, then the output."""
    row = expect_object(row)
    instruction = expect_text({**row, "instruction": ""} if row.get("instruction", "") is None else row, "instruction")
    given = filled_text(row, "input", labels)
    parts = [part for part in (instruction, given) if part.strip()]
    output = expect_text(row, "output")
    if output.strip().strip("<>[]()").lower() in _NO_OUTPUT:
        raise UserError(f"'output' is a placeholder: {output!r}")
    messages = [*_history(row, labels), Message("user", "\n\n".join(parts)), Message("assistant", output)]
    if system := filled_text(row, "system", labels):
        messages.insert(0, Message("system", system))
    yield Draft(tuple(messages), own_id(row, "id"))


def _history(row: JsonObject, labels: Labels) -> Iterator[Message]:
    """Yield the earlier turns: pairs of texts, or messages with a role."""
    history = row.get("history")
    if isinstance(history, str) and history.lstrip().startswith("["):  # a cell of a table
        try:
            history = orjson.loads(history)
        except orjson.JSONDecodeError as error:
            raise UserError(f"'history' is no list of exchanges: {error}") from None
    if absent(history) or (isinstance(history, str) and not history.strip()):
        return
    for exchange in history if isinstance(history, list) else [history]:
        if isinstance(exchange, dict) and "instruction" in exchange:
            yield from next(convert(exchange, labels)).messages
        elif isinstance(exchange, dict):
            yield read_turn(exchange, labels.schema, labels.dropped)
        elif isinstance(exchange, list) and len(exchange) == 2 and all(isinstance(text, str) for text in exchange):
            yield Message("user", exchange[0])
            yield Message("assistant", exchange[1])
        else:
            raise UserError(f"'history' must be a list of [question, answer], got {exchange!r} in it")
