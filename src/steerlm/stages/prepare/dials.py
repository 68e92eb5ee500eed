"""Where the figures of measures and classifiers are cut into levels: quantiles of the training data (`schema.json`)."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import TypedDict

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Conversation, read_conversations
from steerlm.scorers.dials import fit_dials
from steerlm.storage.files import write_json
from steerlm.storage.hash_set import hash64
from steerlm.storage.progress import progress

SCHEMA_FILE = "schema.json"
_MOST_TURNS = 5000
"""Turns that quantiles are taken of: they are then right to within a percent."""


class FittedDials(TypedDict):
    """What was found: turns looked at, and per attribute its cuts and the turns that do not define it."""

    turns: int
    cuts: dict[str, list[float]]
    undefined: dict[str, int]


def fit_schema(train: Path, schema: AttributeSchema, out: Path) -> FittedDials:
    """Write the schema with all its cut points.

    Args:
        schema: the attributes, some of which a measure or a classifier says.
        out: folder for `schema.json`.
    """
    turns = [record.messages[: turn + 1] for record, turn in drawn_turns(train, schema, _MOST_TURNS)]
    fitted, undefined = fit_dials(schema, turns, lambda rows: progress(rows, len(rows), "measuring"))
    write_json(out / SCHEMA_FILE, fitted.to_dict())
    cuts = {a.name: list(a.cuts) for a in fitted if a.cuts}
    return {"turns": len(turns), "cuts": cuts, "undefined": {name: n for name, n in undefined.items() if n}}


def drawn_turns(path: Path, schema: AttributeSchema | None, most: int) -> list[tuple[Conversation, int]]:
    """Return the assistant turns of a file, or so many spread over the whole of it, the same ones every time."""
    turns = ((record, turn) for record in read_conversations(path, schema) for turn in record.assistant_turns)
    ranked = ((hash64(record.id, str(turn)), number, record, turn) for number, (record, turn) in enumerate(turns))
    drawn = heapq.nsmallest(most, ranked, key=lambda row: row[:2])
    return [(record, turn) for _, _, record, turn in sorted(drawn, key=lambda row: row[1])]
