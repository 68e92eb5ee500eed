"""Where the figures of measures and classifiers are cut into levels: quantiles of the training data (`schema.json`)."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Message, read_conversations
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
    turns = sampled_turns(train, schema)
    fitted, undefined = fit_dials(schema, turns, lambda rows: progress(rows, len(rows), "measuring"))
    write_json(out / SCHEMA_FILE, fitted.to_dict())
    cuts = {a.name: list(a.cuts) for a in fitted if a.cuts}
    return {"turns": len(turns), "cuts": cuts, "undefined": {name: n for name, n in undefined.items() if n}}


def sampled_turns(train: Path, schema: AttributeSchema) -> list[tuple[Message, ...]]:
    """Return assistant turns spread over the whole file, the same ones every time."""

    def ranked() -> Iterator[tuple[int, int, tuple[Message, ...]]]:
        number = 0
        for record in read_conversations(train, schema):
            for index in record.assistant_turns:
                number += 1
                yield hash64(record.id, str(index)), number, record.messages[: index + 1]

    chosen: Sequence[tuple[int, int, tuple[Message, ...]]] = heapq.nsmallest(_MOST_TURNS, ranked(), key=lambda r: r[:2])
    return [messages for _, _, messages in sorted(chosen, key=lambda row: row[1])]
