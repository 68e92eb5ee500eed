r"""HH-RLHF: pairs of dialogues written as one text, `\n\nHuman: … \n\nAssistant: …`, chosen and rejected.

Both become conversations: SteerLM learns from the difference (section 3.3), so a pair shares its first prompt and
therefore its group, and `preference` tells which one people chose. Where the source names an attribute of which that
is a rating, the last response of the chosen dialogue is at its best level and that of the rejected one at its worst.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.sources.draft import Draft, Labels, expect_object, expect_text
from steerlm.sources.turns import read_turns

_TURN = re.compile(r"(?:^|\n\n|\r\n\r\n)(Human|Assistant):")
_ROLES: dict[str, Literal["user", "assistant"]] = {"Human": "user", "Assistant": "assistant"}


def convert(row: object, labels: Labels) -> Iterator[Draft]:
    """Yield the chosen and the rejected dialogue of one row; the data have no labels but the comparison itself.

    Raises:
        UserError: a missing dialogue, or text before the first turn.
    """
    row = expect_object(row)
    pair = {}
    for key in ("chosen", "rejected"):
        said = row.get(key)  # later preference data have lists of messages
        if isinstance(said, list):
            pair[key] = tuple(read_turns(said, labels.schema, labels.dropped))
        else:
            pair[key] = _turns(expect_text(row, key), key)
    for key, messages in pair.items():
        if messages and messages[-1].role == "assistant":
            messages = (*messages[:-1], labels.compared(messages[-1], 1.0 if key == "chosen" else 0.0))
        yield Draft(messages, suffix=f"-{key}", meta={"preference": key})


def _turns(text: str, key: str) -> tuple[Message, ...]:
    before, *pieces = _TURN.split(text)
    if before.strip() or not pieces:
        raise UserError(f"{key!r} does not start with '\\n\\nHuman:' but with {text[:40]!r}")
    return tuple(Message(_ROLES[role], said.strip()) for role, said in zip(pieces[::2], pieces[1::2], strict=True))
