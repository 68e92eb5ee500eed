"""Files of prompts: what evaluation, comparison, judging and the leak check ask, read in one way.

A row is a text, a conversation (asked up to its last user turn), an object with all its `turns` (MT-bench), or one with
the text under `prompt`, `text`, `question` or `instruction` (with its `input` below it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from steerlm.attributes import AttributeSchema, is_signature
from steerlm.conversation import Message, check_roles
from steerlm.errors import UserError
from steerlm.sources.draft import JsonObject, absent, is_placeholder, own_id
from steerlm.sources.rows import read_file_rows
from steerlm.sources.turns import TURN_LISTS, find_turns, read_turns

_TEXT_KEYS = ("prompt", "text", "question", "instruction")


class AskedPrompt(NamedTuple):
    """One prompt of a file.

    Attributes:
        place: file and line, for messages.
        id: the row's `id` or `question_id`; None where it has none.
        messages: the conversation up to the last user turn.
        following: user turns that are asked later, each after the answer to the one before.
        category: the row's `category`.
        group: what the prompt is not independent of.
        source: the row's `source`.
    """

    place: str
    id: str | None
    messages: tuple[Message, ...]
    following: tuple[str, ...]
    category: str
    group: str | None
    source: str

    @property
    def asked(self) -> tuple[str, ...]:
        """The user's turns."""
        return (*(message.content for message in self.messages if message.role == "user"), *self.following)


def read_prompts(path: Path, schema: AttributeSchema | None = None) -> Iterator[AskedPrompt]:
    """Stream the prompts of a file of any type that `read_file_rows` reads.

    Args:
        schema: where given, labels of earlier turns are validated against it, and a record's signature must be its own.
    """
    for row in read_file_rows(path):
        value = row.value
        if schema is not None and isinstance(value, dict) and is_signature(value.get("schema")):
            schema.require_same(value["schema"], "the schema in use", row.place)
        try:
            yield _prompt(value, row.place, schema)
        except UserError as error:
            raise UserError(f"{row.place}: {error}") from None


def _prompt(row: object, place: str, schema: AttributeSchema | None) -> AskedPrompt:
    if isinstance(row, str) and row.strip():
        return AskedPrompt(place, None, (Message("user", row),), (), "", None, "")
    if not isinstance(row, dict):
        raise UserError(_NO_PROMPT)
    key = own_id(row, "id") or own_id(row, "question_id")
    group = None if absent(row.get("group")) else str(row["group"])
    messages, following = _turns(row, schema)
    category, source = (str(row.get(name) or "") for name in ("category", "source"))
    return AskedPrompt(place, key, messages, following, category, group, source)


def _turns(row: JsonObject, schema: AttributeSchema | None) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Return the messages up to what is asked first, and what is asked later."""
    turns = row.get("turns")
    if any(row.get(name) for name in TURN_LISTS):
        messages = read_turns(find_turns(row, TURN_LISTS[0]), schema, Counter())
        last = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
        check_roles(messages[: last + 1])
        return tuple(messages[: last + 1]), ()
    texts = turns if isinstance(turns, list) else [row.get(key) for key in _TEXT_KEYS if not absent(row.get(key))][:1]
    asked = tuple(text for text in texts if isinstance(text, str) and text.strip())
    if not asked or len(asked) < len(texts):
        raise UserError(_NO_PROMPT)
    given = row.get("input")
    first = asked[0]
    if first == row.get("instruction") and isinstance(given, str) and given.strip() and not is_placeholder(given):
        first = f"{first}\n\n{given}"  # as in Alpaca's layout
    return (Message("user", first),), asked[1:]


_NO_PROMPT = f"found no evaluation prompt; wanted a text, or an object with messages, turns or {_TEXT_KEYS[0]}"
