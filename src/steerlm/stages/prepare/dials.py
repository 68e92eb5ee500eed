"""Where the figures of measures and classifiers are cut into levels: quantiles of the training data (`schema.json`)."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from steerlm.attributes import AttributeSchema
from steerlm.config import TrainSftConfig
from steerlm.conversation import Conversation, read_conversations
from steerlm.errors import UserError
from steerlm.scorers.dials import fit_dials
from steerlm.storage.files import write_json
from steerlm.storage.hash_set import hash64
from steerlm.storage.progress import progress

SCHEMA_FILE = "schema.json"
_MOST_TURNS = 5000
"""Turns that quantiles are taken of: they are then right to within a percent."""


log = logging.getLogger(__name__)


class FittedDials(TypedDict):
    """What was found.

    Attributes:
        turns: that were looked at.
        too_long: turns that were not, since the training leaves them out.
        max_length: of that training, of which its model may read less; None where every turn counts.
        cuts: per attribute.
        undefined: per attribute the turns that do not define it.
    """

    turns: int
    too_long: int
    max_length: int | None
    cuts: dict[str, list[float]]
    undefined: dict[str, int]


def fit_schema(train: Path, schema: AttributeSchema, out: Path, training: TrainSftConfig | None = None) -> FittedDials:
    """Write the schema with all its cut points.

    Args:
        schema: the attributes, some of which a measure or a classifier says.
        out: folder for `schema.json`.
        training: what the data are for; levels that only turns have which it leaves out as too long would never be
            learned. None: not known, and every turn counts.
    """
    drawn = drawn_turns(train, schema, _MOST_TURNS)
    learned = _learned(training, schema) if training is not None and _any_to_cut(schema) else None
    # where nothing fits, the training says so
    kept = drawn if learned is None else [row for row in drawn if learned(*row)] or drawn
    turns = [record.messages[: turn + 1] for record, turn in kept]
    fitted, undefined = fit_dials(schema, turns, lambda rows: progress(rows, len(rows), "measuring"))
    write_json(out / SCHEMA_FILE, fitted.to_dict())
    cuts = {a.name: list(a.cuts) for a in fitted if a.cuts}
    return {
        "turns": len(turns),
        "too_long": len(drawn) - len(kept),
        "max_length": training.max_length if training is not None and learned is not None else None,
        "cuts": cuts,
        "undefined": {name: n for name, n in undefined.items() if n},
    }


def _any_to_cut(schema: AttributeSchema) -> bool:
    return any(attribute.kind == "ordinal" and not attribute.learned and not attribute.cuts for attribute in schema)


def _learned(training: TrainSftConfig, schema: AttributeSchema) -> Callable[[Conversation, int], bool] | None:
    """Return whether a turn is within what a training reads; None where that cannot be known here."""
    from steerlm.checkpoint.models import context_length, load_config
    from steerlm.training.base_encoder import open_encoder

    try:
        tokenizer, _, encoder = open_encoder(training, schema)
        longest = min(training.max_length, context_length(load_config(training.base_model), tokenizer))
    except UserError as error:
        log.warning("levels are cut on all turns, those too long to be trained on as well: %s", error)
        return None

    def learned(record: Conversation, turn: int) -> bool:
        # a header is as long as it will be
        messages = [
            replace(message, attributes=schema.defaults) if message.role == "assistant" else message
            for message in record.messages[: record.assistant_turns[-1] + 1]
        ]
        fitting = encoder.fit(messages, longest)
        return fitting is not None and len(messages) - turn <= len(fitting) - (fitting[0].role == "system")

    return learned


def drawn_turns(path: Path, schema: AttributeSchema | None, most: int) -> list[tuple[Conversation, int]]:
    """Return the assistant turns of a file, or so many spread over the whole of it, the same ones every time."""
    turns = ((record, turn) for record in read_conversations(path, schema) for turn in record.assistant_turns)
    ranked = ((hash64(record.id, str(turn)), number, record, turn) for number, (record, turn) in enumerate(turns))
    drawn = heapq.nsmallest(most, ranked, key=lambda row: row[:2])
    return [(record, turn) for _, _, record, turn in sorted(drawn, key=lambda row: row[1])]
