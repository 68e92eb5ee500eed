"""ShareGPT layout: `{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steerlm.conversation import Message, Role
from steerlm.errors import UserError, did_you_mean
from steerlm.sources.draft import Draft, Labels, expect_object, expect_text, optional_text, own_id

_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "assistant": "assistant",
}


def convert(row: Any, labels: Labels) -> Iterator[Draft]:
    """Yield the one conversation of a row; the data have no labels.

    Raises:
        UserError: no list of turns, or a speaker who is neither person, assistant nor system.
    """
    row = expect_object(row)
    turns = row.get("conversations")
    if not isinstance(turns, list):
        raise UserError(f"the row has no list of 'conversations'; it has {', '.join(map(str, row)) or 'nothing'}")
    messages = []
    if system := optional_text(row, "system"):
        messages.append(Message("system", system))
    for turn in map(expect_object, turns):
        speaker = expect_text(turn, "from")
        if speaker not in _ROLES:
            raise UserError(f"unknown speaker {speaker!r}: {did_you_mean(speaker, _ROLES)}")
        messages.append(Message(_ROLES[speaker], expect_text(turn, "value")))
    yield Draft(tuple(messages), own_id(row, "id"))
