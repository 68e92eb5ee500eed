"""ShareGPT layout: `{"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}`.

Model self-identification (M-SID) has it too: dialogues in which the assistant says who it is, 910 pairs in the paper,
so that the model answers questions about itself truthfully. The names of the assistant and its maker stand in the data:
use a file made for your own model.
"""

from __future__ import annotations

from collections.abc import Iterator

from steerlm.sources.draft import Draft, Labels, expect_object, filled_text, own_id
from steerlm.sources.turns import find_turns, read_turns


def convert(row: object, labels: Labels) -> Iterator[Draft]:
    """Yield the one conversation of a row.

    Raises:
        UserError: no list of turns, or see `read_turns`.
    """
    row = expect_object(row)
    turns, system = find_turns(row, "conversations"), filled_text(row, "system", labels)
    yield Draft(tuple(read_turns(turns, labels.schema, labels.dropped, system)), own_id(row, "id"))
