"""Our own record, and plain `messages` files of other trainers: `{"messages": [{"role": "…", "content": "…"}]}`.

Labels are on the schema's scale; those of attributes that the schema lacks are left out and counted, but one that is
nearly called like an attribute is an error. Keys of a message that are not ours (`name`, `refusal`, …) are left out and
counted; further columns are kept.
"""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from steerlm.attributes import is_signature
from steerlm.conversation import RECORD_KEYS
from steerlm.errors import UserError
from steerlm.sources.draft import Draft, Labels, absent, expect_object, missing, own_id
from steerlm.sources.turns import find_turns, read_turns


def convert(row: object, labels: Labels) -> Iterator[Draft]:
    """Yield the one conversation of a row.

    Raises:
        UserError: no list of messages, a label that is misspelt or off the scale, or see `read_turns`.
    """
    record = expect_object(row)
    turns = find_turns(record, "messages")
    messages = read_turns(turns, labels.schema, labels.dropped)
    meta = {
        key: value
        for key, value in record.items()
        if (key not in RECORD_KEYS or key == "meta") and value is not turns and not missing(value)
    }
    if not absent(record.get("schema")) and not is_signature(record["schema"]):
        labels.dropped["(column schema)"] += 1  # a record's own key, and theirs means something else
    if source := str(record.get("source") or ""):
        meta.setdefault("origin", source)
    for key, value in meta.items():
        try:
            orjson.dumps(value)
        except TypeError as error:  # parquet columns may hold what JSON cannot
            raise UserError(
                f"the further column {key!r} cannot be written as JSON ({error}): leave it out of the file"
            ) from None
    group = record.get("group")
    yield Draft(tuple(messages), own_id(record, "id"), group=None if absent(group) else str(group), meta=meta)
