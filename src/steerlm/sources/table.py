"""Own data in columns: `prompt`, `response`, perhaps `system`, and a column of ratings per attribute.

Columns of other names are named with `columns` (`--columns prompt=player,response=reply,rating.humor=funny`). A column
that is called as an attribute of the schema holds its ratings, on the schema's scale.
"""

from __future__ import annotations

from collections.abc import Iterator

from steerlm.conversation import Message
from steerlm.errors import UserError, shell_word
from steerlm.sources.draft import Draft, Labels, absent, expect_object, expect_text, filled_text, own_id


def convert(row: object, labels: Labels) -> Iterator[Draft]:
    """Yield the one exchange of a row."""
    row = expect_object(row)
    for key in row:
        if key not in labels.schema and (name := str(key).strip().lower()) in labels.schema and name not in row:
            say = f"--columns {shell_word(f'rating.{name}={key}')}"
            raise UserError(f"the row has no {name!r} but {key!r}; rename the column, or say {say}")
    own = labels.own({name: row[name] for name in labels.schema.names if name in row})
    response = Message(
        "assistant", expect_text(row, "response"), own.attributes, ratings=own.ratings,
        labelled_by="human" if own.attributes else None,
    )  # fmt: skip
    messages = [Message("user", expect_text(row, "prompt")), response]
    if system := filled_text(row, "system", labels):
        messages.insert(0, Message("system", system))
    group = row.get("group")
    yield Draft(tuple(messages), own_id(row, "id"), group=None if absent(group) else str(group))
