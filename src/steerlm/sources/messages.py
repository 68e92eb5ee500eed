"""Our own record, and plain `messages` files of other trainers: `{"messages": [{"role": "…", "content": "…"}]}`.

Labels are on the schema's scale and strict: an attribute that the schema lacks is an error. Keys of a message that
are not ours (`name`, `refusal`, …) are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from steerlm.conversation import MESSAGE_KEYS, conversation_from_dict
from steerlm.errors import UserError
from steerlm.sources.draft import Draft, Labels, expect_object, own_id

_LABELS = ("attributes", "human", "ratings", "scores")


def convert(row: Any, labels: Labels) -> Iterator[Draft]:
    """Yield the one conversation of a row.

    Raises:
        UserError: no list of messages, a wrong role, a label that is unknown or off the scale.
    """
    record = expect_object(row)
    turns = record.get("messages")
    if not isinstance(turns, list):
        raise UserError(f"the row has no list of 'messages'; it has {', '.join(map(str, record)) or 'nothing'}")
    messages = [_ours(turn, labels) if isinstance(turn, dict) else turn for turn in turns]
    conversation = conversation_from_dict(
        {**record, "id": own_id(record, "id") or "-", "messages": messages}, labels.schema
    )
    meta = {key: value for key, value in conversation.meta.items() if value is not None}
    if conversation.source:
        meta.setdefault("origin", conversation.source)
    try:
        orjson.dumps(meta)
    except TypeError as error:  # parquet columns may hold what JSON cannot
        raise UserError(f"a further column of the record cannot be written as JSON: {error}") from None
    yield Draft(conversation.messages, own_id(record, "id"), group=conversation.group, meta=meta)


def _ours(turn: dict[str, Any], labels: Labels) -> dict[str, Any]:
    kept = {}
    for key, value in turn.items():
        if key not in MESSAGE_KEYS:
            if value is not None:
                labels.dropped[f"(message key {key})"] += 1
        elif key in _LABELS and isinstance(value, dict):
            # parquet fills a missing label with null
            kept[key] = {name: label for name, label in value.items() if label is not None} or None
        else:
            kept[key] = value
    return kept
