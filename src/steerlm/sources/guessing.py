"""A look at data that nobody has described: which format it is, which columns hold what, and which of them rate.

What is guessed is said; what cannot be guessed is an error that lists the columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from steerlm.attributes import PRESETS, Attribute, AttributeSchema, is_signature
from steerlm.config import SourceConfig, SourceFormat
from steerlm.errors import UserError, did_you_mean
from steerlm.sources.draft import absent
from steerlm.sources.guessing_columns import LONG_NAME, exchange_columns
from steerlm.sources.guessing_ratings import (
    KNOWN,
    RatedColumn,
    Ratings,
    UnusedColumn,
    label_attribute,
    rating_columns,
    why_no_dial,
)
from steerlm.sources.helpsteer import ATTRIBUTES as HELPSTEER
from steerlm.sources.rows import BadRecords, check_alike, read_rows
from steerlm.sources.turns import ROLE_KEYS, TURN_LISTS, find_turns

LOOKED_AT = 2000
"""Rows that a guess rests on, at most."""
_LABELS: dict[str, tuple[tuple[str, ...], AttributeSchema]] = {
    "helpsteer": (HELPSTEER, PRESETS["HELPSTEER"]),
    "oasst": (("labels",), PRESETS["OASST"]),
    "nemo": (("label",), PRESETS["STEERLM"]),
}
"""Formats that rate: under which keys, and what."""
_ONE_REPLY: tuple[SourceFormat, ...] = ("alpaca", "messages", "sharegpt")
"""Formats in whose rows a column may rate the (last) reply."""
_ENDS = (".", "?", "!", "。", "？")
_TEXT_KEYS = frozenset(
    ("instruction", "input", "output", "system", "history", "text", "prompt", "response", "schema", "meta", *TURN_LISTS)
)


@dataclass(frozen=True)
class SourceGuess:
    """How to read a source.

    Attributes:
        format: which importer.
        columns: what it reads -> the data's column, where these differ; ratings are not among them.
        rated: what rates the response.
        unused: columns that may rate it too.
        said: what was guessed, in words.
        certain: whether the names of columns or keys left no doubt.
        doubts: what may be wrong with the data themselves.
    """

    format: SourceFormat
    columns: Mapping[str, str]
    rated: tuple[RatedColumn, ...]
    unused: tuple[UnusedColumn, ...]
    said: tuple[str, ...]
    certain: bool
    doubts: tuple[str, ...] = ()


def guess_source(
    origin: str,
    path: Path | None,
    columns: Mapping[str, str],
    wanted: str | None = None,
    dials: Collection[str] = (),
) -> SourceGuess:
    """Look at the first rows of a file, a folder or a hub data set.

    Args:
        origin: the path, or the hub's id.
        path: None for a hub data set.
        columns: what the user has said of them, which wins.
        wanted: the format, where the user has said it.
        dials: attributes that people rate, as the user says.

    Raises:
        UserError: nothing to read, or columns that cannot be told apart.
    """
    formats = get_args(SourceFormat)
    if wanted is not None and wanted not in formats:
        raise UserError(f"--format {wanted!r}: {did_you_mean(wanted, formats)}")
    objects = _first_rows(origin, path)
    keys = list(dict.fromkeys(str(key) for row in objects for key in row))
    parts = {name: column for name, column in columns.items() if not name.startswith("rating.")}
    if not parts and wanted is None and len(turns := _turn_columns(objects, keys)) == 1:
        parts = {"messages": turns[0]}
    named = {column: name for name, column in parts.items() if name in TURN_LISTS and column in keys}
    renamed: Sequence[Mapping[str, object]] = objects
    if named:
        renamed = [{named.get(str(key), str(key)): value for key, value in row.items()} for row in objects]
    if wanted is not None:
        known = None if wanted == "table" else formats[formats.index(wanted)]
    else:
        known = None if parts and not named else _known_format(renamed, [named.get(key, key) for key in keys])
    if known is None:
        return _table(origin, objects, keys, columns, dials)
    said = (f"format {known}, by its keys ({', '.join(keys[:6])})",) if wanted is None else ()
    labelled = _labelled(known, renamed)
    asked = {column for name, column in columns.items() if name.startswith("rating.")}
    if missing := [column for column in asked if column not in keys]:
        raise UserError(f"--columns: {origin} has no column {missing[0]!r}; it has {', '.join(keys)}")
    taken = {*_TEXT_KEYS, *parts.values(), *(rated.attribute.name for rated in labelled.rated)}
    left = [key for key in keys if key in asked or (known in _ONE_REPLY and key not in taken)]
    ratings = rating_columns(objects, left, columns, dials, by_names=known == "alpaca")
    rated, unused = (*labelled.rated, *ratings.rated), (*labelled.unused, *ratings.unused)
    return SourceGuess(known, parts, rated, unused, said, True)


def _first_rows(origin: str, path: Path | None) -> list[Mapping[str, object]]:
    """Return the first rows that are objects."""
    if path is not None and path.is_dir():
        check_alike(path)
    source = SourceConfig(name="data", format="table", path=path, hub=None if path is not None else origin)
    # what cannot be read is counted when the data are looked at as a whole
    rows = [row.value for row in itertools.islice(read_rows(source, BadRecords()), LOOKED_AT)]
    if not rows:
        raise UserError(f"{origin} holds no row")
    objects: list[Mapping[str, object]] = [row for row in rows if isinstance(row, dict)]
    if not objects:
        raise UserError(f"{origin}: its rows are no objects with keys but {type(rows[0]).__name__}")
    return objects


def _turn_columns(rows: Sequence[Mapping[str, object]], keys: Sequence[str]) -> list[str]:
    """Return the columns of other names than usual that hold lists of turns; none where a usual name is there."""

    def holds_turns(key: str) -> bool:
        turns = rows[0].get(key)
        first = turns[0] if isinstance(turns, list) and turns else None
        return isinstance(first, dict) and any(name in first for name in ROLE_KEYS)

    return [key for key in keys if holds_turns(key)] if not any(key in keys for key in TURN_LISTS) else []


def _known_format(rows: Sequence[Mapping[str, object]], keys: Sequence[str]) -> SourceFormat | None:
    """Return the public format that has such keys."""
    if "message_tree_id" in keys:
        return "oasst"
    if {"chosen", "rejected"} <= set(keys):
        return "hh_rlhf"
    if any(key in keys for key in TURN_LISTS):
        return _turns_format(rows)
    if {"instruction", "output"} <= set(keys):
        return "alpaca"
    if {"prompt", "response"} <= set(keys) and sum(name in keys for name in HELPSTEER) >= 3:
        return "helpsteer"
    return None


def _labelled(known: SourceFormat, rows: Sequence[Mapping[str, object]]) -> Ratings:
    """Return the attributes that rows of a public format rate."""
    if known == "messages":
        return _labelled_turns(rows)
    names, schema = _LABELS.get(known, ((), None))
    share = sum(_mentions(row, names) for row in rows) / len(rows)
    return Ratings(tuple(RatedColumn("", attribute, share) for attribute in schema) if schema and share else (), ())


def _mentions(value: object, names: Sequence[str]) -> bool:
    """Whether a key of this name has a value somewhere."""
    if isinstance(value, Mapping):
        return any((key in names and bool(item)) or _mentions(item, names) for key, item in value.items())
    return isinstance(value, list) and any(_mentions(item, names) for item in value)


def _labelled_turns(rows: Sequence[Mapping[str, object]]) -> Ratings:
    """Return the attributes that stand in the turns of our own format."""
    turns = [
        turn for row in rows for turn in _turns(row, "messages")
        if isinstance(turn, dict) and turn.get("role") == "assistant"
    ]  # fmt: skip
    scales = _scales(rows[0].get("schema"))
    values: dict[str, list[object]] = {}
    for turn in turns:
        labels = turn.get("attributes")
        for name, value in labels.items() if isinstance(labels, dict) else ():
            if not absent(value):
                values.setdefault(str(name), []).append(value)
    rated, unused = [], []
    for name, given in values.items():
        attribute = scales.get(name) or label_attribute(name, given)
        if attribute is None:
            unused.append(UnusedColumn(name, why_no_dial(given)))
        else:
            rated.append(RatedColumn("", attribute, len(given) / len(turns)))
    return Ratings(tuple(rated), tuple(unused))


def _turns(row: Mapping[str, object], key: str) -> list[object]:
    """Return a row's turns; none where it has no list of them, which is counted when all is read."""
    try:
        return find_turns({str(name): value for name, value in row.items()}, key)
    except UserError:
        return []


def _scales(signature: object) -> dict[str, Attribute]:
    """Return the attributes that a record's signature names, with their scales."""
    found = {}
    for part in str(signature).split(",") if is_signature(signature) else ():
        name, _, scale = part.partition(":")
        if "|" in scale:
            found[name] = Attribute(name, "categorical", categories=tuple(scale.split("|")))
        else:
            low, high = map(int, scale.split("-"))
            known = KNOWN.get(name)
            about = ("", None) if known is None else (known.description, known.best)
            found[name] = Attribute(name, minimum=low, maximum=high, description=about[0], best=about[1])
    return found


def _turns_format(rows: Sequence[Mapping[str, object]]) -> SourceFormat:
    key = next(key for key in TURN_LISTS if any(key in row for row in rows))
    first = next(iter(_turns(rows[0], key)), None)
    if isinstance(first, dict) and "role" in first:
        return "messages"
    return "nemo" if "mask" in rows[0] else "sharegpt"


def _table(
    origin: str,
    rows: Sequence[Mapping[str, object]],
    keys: Sequence[str],
    given: Mapping[str, str],
    dials: Collection[str],
) -> SourceGuess:
    """Tell columns apart by their names, else by their texts."""
    found = exchange_columns(origin, rows, keys, given)
    said = ", ".join(f"{part} is the column {column!r}" for part, column in found.columns.items())
    left = [key for key in keys if key not in found.columns.values()]
    ratings = rating_columns(rows, left, given, dials)
    renamed = {part: column for part, column in found.columns.items() if part != column}
    return SourceGuess("table", renamed, ratings.rated, ratings.unused, (said,), found.certain, tuple(_doubts(keys)))


def _doubts(keys: Sequence[str]) -> Iterator[str]:
    """Yield what makes one think that a table has no header."""
    # one word with a question mark is a name all the same
    texts = [key for key in keys if len(key) > LONG_NAME or (key.endswith(_ENDS) and (" " in key or key[-1] in "。？"))]
    if texts:
        yield (
            f"the first row was taken for the names of the columns ({_short(texts[0])!r}): if it is data, put a row of "
            "names above it"
        )


def _short(text: str) -> str:
    return text if len(text) <= LONG_NAME else f"{text[:LONG_NAME]}…"
