"""A look at data that nobody has described: which format it is, which columns hold what, and which of them rate.

What is guessed is said; what cannot be guessed is an error that lists the columns.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from steerlm.attributes import PRESETS, Attribute, AttributeSchema, is_signature
from steerlm.config import SourceConfig, SourceFormat
from steerlm.errors import UserError, did_you_mean
from steerlm.sources.draft import absent, as_number
from steerlm.sources.helpsteer import ATTRIBUTES as HELPSTEER
from steerlm.sources.rows import BadRecords, read_rows
from steerlm.sources.turns import ROLE_KEYS, TURN_LISTS, find_turns

LOOKED_AT = 2000
"""Rows that a guess rests on, at most."""
_MOST_LEVELS = 11
_SHORTEST = 4
_LONG_NAME = 40
"""Characters that no name of a column has."""
_PROMPTS = ("prompt", "question", "query", "instruction", "input", "user", "player", "human", "context", "request")
_RESPONSES = (
    "response", "answer", "reply", "output", "completion", "assistant", "bot", "npc_reply", "npc_response",
    "target", "gpt",
)  # fmt: skip
_SAID = ("prompt", "question", "instruction", "response", "answer", "reply", "completion")
"""Names of columns that hold what is said, however short it is."""
_SYSTEMS = ("system", "system_prompt", "persona", "npc", "character", "speaker", "role")
_KNOWN = {attribute.name: attribute for preset in PRESETS.values() for attribute in preset}
_RATING_WORDS = {"rating", "ratings", "rated", "score", "scores", "stars", "grade", "label", "likert"}
_LABELS: dict[str, tuple[tuple[str, ...], AttributeSchema]] = {
    "helpsteer": (HELPSTEER, PRESETS["HELPSTEER"]),
    "oasst": (("labels",), PRESETS["OASST"]),
    "nemo": (("label",), PRESETS["STEERLM"]),
}
"""Formats that rate: under which keys, and what."""
_OTHERS = ("id", "group", "split", "index", "timestamp", "date", "source", "weight", "train", "trainable")


@dataclass(frozen=True)
class RatedColumn:
    """A column of ratings, and the attribute that they are of."""

    column: str
    attribute: Attribute
    share: float


@dataclass(frozen=True)
class SourceGuess:
    """How to read a source.

    Attributes:
        format: which importer.
        columns: what it reads -> the data's column, where these differ; ratings are not among them.
        rated: columns that rate the response.
        unclear: columns of whole numbers that nobody has called ratings.
        said: what was guessed, in words.
        certain: whether the names of columns or keys left no doubt.
        doubts: what may be wrong with the data themselves.
    """

    format: SourceFormat
    columns: Mapping[str, str]
    rated: tuple[RatedColumn, ...]
    unclear: tuple[str, ...]
    said: tuple[str, ...]
    certain: bool
    doubts: tuple[str, ...] = ()


def guess_source(origin: str, path: Path | None, columns: Mapping[str, str], wanted: str | None = None) -> SourceGuess:
    """Look at the first rows of a file, a folder or a hub data set.

    Args:
        origin: the path, or the hub's id.
        path: None for a hub data set.
        columns: what the user has said of them, which wins.
        wanted: the format, where the user has said it.

    Raises:
        UserError: nothing to read, or columns that cannot be told apart.
    """
    source = SourceConfig(name="data", format="table", path=path, hub=None if path is not None else origin)
    # what cannot be read is counted when the data are looked at as a whole
    rows = [row.value for row in itertools.islice(read_rows(source, BadRecords()), LOOKED_AT)]
    if not rows:
        raise UserError(f"{origin} holds no row")
    objects = [row for row in rows if isinstance(row, dict)]
    if not objects:
        raise UserError(f"{origin}: its rows are no objects with keys but {type(rows[0]).__name__}")
    keys = list(dict.fromkeys(str(key) for row in objects for key in row))
    formats = get_args(SourceFormat)
    if wanted is not None and wanted not in formats:
        raise UserError(f"--format {wanted!r}: {did_you_mean(wanted, formats)}")
    if wanted is not None and wanted != "table":
        return SourceGuess(formats[formats.index(wanted)], columns, (), (), (), True)
    if not columns and wanted is None and len(turns := _turn_columns(objects, keys)) == 1:
        columns = {"messages": turns[0]}
    named = {column: name for name, column in columns.items() if name in TURN_LISTS and column in keys}
    renamed: Sequence[Mapping[str, object]] = objects
    if named:
        renamed = [{named.get(str(key), str(key)): value for key, value in row.items()} for row in objects]
    known = None if wanted or (columns and not named) else _known_format(renamed, [named.get(key, key) for key in keys])
    if known is not None:
        said = (f"format {known}, by its keys ({', '.join(keys[:6])})",)
        return SourceGuess(known, dict(columns), _labelled(known, renamed), (), said, True)
    return _table(origin, objects, keys, columns)


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


def _labelled(known: SourceFormat, rows: Sequence[Mapping[str, object]]) -> tuple[RatedColumn, ...]:
    """Return the attributes that rows of a public format rate."""
    if known == "messages":
        return _labelled_turns(rows)
    names, schema = _LABELS.get(known, ((), None))
    if schema is None:
        return ()
    share = sum(_mentions(row, names) for row in rows) / len(rows)
    return tuple(RatedColumn(attribute.name, attribute, share) for attribute in schema) if share else ()


def _mentions(value: object, names: Sequence[str]) -> bool:
    """Whether a key of this name has a value somewhere."""
    if isinstance(value, Mapping):
        return any((key in names and bool(item)) or _mentions(item, names) for key, item in value.items())
    return isinstance(value, list) and any(_mentions(item, names) for item in value)


def _labelled_turns(rows: Sequence[Mapping[str, object]]) -> tuple[RatedColumn, ...]:
    """Return the attributes that stand in the turns of our own format."""
    turns = [
        turn
        for row in rows
        for turn in find_turns({str(name): value for name, value in row.items()}, "messages")
        if isinstance(turn, dict) and turn.get("role") == "assistant"
    ]
    scales = _scales(rows[0].get("schema"))
    values: dict[str, list[object]] = {}
    for turn in turns:
        labels = turn.get("attributes")
        for name, value in labels.items() if isinstance(labels, dict) else ():
            values.setdefault(str(name), []).append(value)
    found = []
    for name, given in values.items():
        if name in scales:
            found.append(RatedColumn(name, scales[name], len(given) / len(turns)))
            continue
        numbers = [value for value in given if isinstance(value, int) and not isinstance(value, bool)]
        if len(numbers) == len(given) and min(numbers) >= 0:
            attribute = _attribute(name, min(numbers), max(numbers), "As rated in the data.")
        else:
            categories = tuple(sorted({str(value) for value in given}))
            if len(categories) < 2:
                continue
            attribute = Attribute(name, "categorical", categories=categories, description="As labelled in the data.")
        found.append(RatedColumn(name, attribute, len(given) / len(turns)))
    return tuple(found)


def _scales(signature: object) -> dict[str, Attribute]:
    """Return the attributes that a record's signature names, with their scales."""
    found = {}
    for part in str(signature).split(",") if is_signature(signature) else ():
        name, _, scale = part.partition(":")
        if "|" in scale:
            found[name] = Attribute(name, "categorical", categories=tuple(scale.split("|")))
        else:
            low, high = map(int, scale.split("-"))
            known = _KNOWN.get(name)
            about = ("", None) if known is None else (known.description, known.best)
            found[name] = Attribute(name, minimum=low, maximum=high, description=about[0], best=about[1])
    return found


def _attribute(name: str, lowest: int, highest: int, about: str) -> Attribute:
    """Return the attribute that ratings from `lowest` to `highest` are of."""
    known = _KNOWN.get(name)
    return Attribute(
        name,
        minimum=min(lowest, 1),
        maximum=max(_top(highest), min(lowest, 1) + 1),
        description=about if known is None else known.description,
        best=None if known is None else known.best,
    )


def _turns_format(rows: Sequence[Mapping[str, object]]) -> SourceFormat:
    key = next(key for key in TURN_LISTS if any(key in row for row in rows))
    turns = find_turns({str(name): value for name, value in rows[0].items()}, key)
    first = turns[0] if turns else None
    if isinstance(first, dict) and "role" in first:
        return "messages"
    return "nemo" if "mask" in rows[0] else "sharegpt"


def _table(
    origin: str, rows: Sequence[Mapping[str, object]], keys: Sequence[str], given: Mapping[str, str]
) -> SourceGuess:
    """Tell columns apart by their names, else by their texts."""
    missing = [column for column in given.values() if column not in keys]
    if missing:
        raise UserError(f"--columns: {origin} has no column {missing[0]!r}; it has {', '.join(keys)}")
    texts = [
        key
        for key in keys
        if _is_text(rows, key, 1 if plain_name(key) in _SAID else _SHORTEST) and key not in given.values()
    ]
    found = {name: column for name, column in given.items() if not name.startswith("rating.")}
    said, certain = [], True
    for part, names in (("prompt", _PROMPTS), ("response", _RESPONSES)):
        if part in found:
            continue
        column = _by_name([key for key in texts if key not in found.values()], names)
        if column is not None:
            found[part] = column
    free = [key for key in texts if key not in found.values() and _by_name([key], (*_SYSTEMS, *_OTHERS)) is None]
    for part in ("prompt", "response"):
        if part not in found and len(free) == 2 - len({"prompt", "response"} & set(found)):
            found[part] = free.pop(0)
            certain = False
    lacking = [part for part in ("prompt", "response") if part not in found]
    if lacking:
        raise UserError(
            f"{origin}: cannot tell which column is the {' and which the '.join(lacking)}; it has "
            f"{', '.join(keys)}. {_remedy(rows, keys)}"
        )
    if "system" not in found:
        column = _by_name([key for key in texts if key not in found.values()], _SYSTEMS)
        if column is not None:
            found["system"] = column
    said.append(", ".join(f"{part} is the column {column!r}" for part, column in found.items()))
    rated = _rated(rows, keys, given, set(found.values()))
    renamed = {part: column for part, column in found.items() if part != column}
    named = [column for column in rated if column.column in given.values() or _rates(column.attribute.name)]
    unclear = [column.column for column in rated if column not in named]
    return SourceGuess("table", renamed, tuple(named), tuple(unclear), tuple(said), certain, tuple(_doubts(keys)))


def _remedy(rows: Sequence[Mapping[str, object]], keys: Sequence[str]) -> str:
    """Return how the user can say what no name of a column says."""
    lists = [key for key in keys if isinstance(rows[0].get(key), list)]
    if lists and len(rows) == 1:
        return f"The file is one object: save the list under {lists[0]!r} as a file of its own"
    if lists:
        return f"If {lists[0]} holds the turns of a conversation, say --columns messages={lists[0]}"
    if len(keys) == 1:
        return "An exchange needs what the user says and the reply to it, in two columns"
    return f"Say so, for example --columns prompt={keys[0]},response={keys[-1]}"


def _doubts(keys: Sequence[str]) -> Iterator[str]:
    """Yield what makes one think that a table has no header."""
    texts = [key for key in keys if len(key) > _LONG_NAME or key.rstrip().endswith((".", "?", "!", "。", "？"))]
    if texts:
        yield (
            f"the first row was taken for the names of the columns ({_short(texts[0])!r}): if it is data, put a row of "
            "names above it"
        )


def _short(text: str) -> str:
    return text if len(text) <= _LONG_NAME else f"{text[:_LONG_NAME]}…"


def _rates(name: str) -> bool:
    """Whether a column's name says that it rates something."""
    return name in _KNOWN or bool(_RATING_WORDS & set(name.split("_")))


def _by_name(keys: Sequence[str], names: Sequence[str]) -> str | None:
    """Return the column whose name is one of these, or begins or ends with one."""
    plain = {key: plain_name(key) for key in keys}
    for name in names:
        for key in keys:
            if plain[key] == name:
                return key
    for name in names:
        for key in keys:
            words = plain[key].split("_")
            if name in (words[0], words[-1]):
                return key
    return None


def plain_name(column: str) -> str:
    """Return a column's name as an attribute's: lower-case letters, digits, underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", column.strip().lower()).strip("_")
    return name if name[:1].isalpha() else f"a_{name}".rstrip("_")


def _values(rows: Sequence[Mapping[str, object]], key: str) -> list[object]:
    return [row[key] for row in rows if key in row and not absent(row[key])]


def _is_text(rows: Sequence[Mapping[str, object]], key: str, shortest: int) -> bool:
    """Whether a column holds words, so many characters long on average, rather than numbers or one of a few codes."""
    values = _values(rows, key)
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) < len(values) or all(isinstance(as_number(text), int | float) for text in texts):
        return False
    return statistics.mean(len(text) for text in texts) >= shortest


def _rated(
    rows: Sequence[Mapping[str, object]], keys: Sequence[str], given: Mapping[str, str], taken: set[str]
) -> tuple[RatedColumn, ...]:
    """Return the columns whose values are levels of a short scale; where the user names some, only these."""
    named = {column: name.removeprefix("rating.") for name, column in given.items() if name.startswith("rating.")}
    columns = list(named) or [key for key in keys if key not in taken and _by_name([key], _OTHERS) is None]
    found = []
    for column in columns:
        values = [as_number(value) for value in _values(rows, column)]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        name = named.get(column, plain_name(column))
        if column in named and name != plain_name(name):
            raise UserError(
                f"--columns rating.{name}={column}: a dial's name is lower-case letters, digits and underscores, for "
                f"example rating.{plain_name(name)}={column}"
            )
        if len(numbers) == len(values) and _is_scale(numbers):
            attribute = _attribute(name, int(min(numbers)), int(max(numbers)), f"As rated in the column {column}.")
            found.append(RatedColumn(column, attribute, len(values) / len(rows)))
        elif column in named:
            found.append(RatedColumn(column, _categories(name, column, values), len(values) / len(rows)))
    return tuple(found)


def _categories(name: str, column: str, values: Sequence[object]) -> Attribute:
    """Return the attribute whose categories a column names.

    Raises:
        UserError: values that are neither levels nor names of a few categories.
    """
    names = sorted({str(value) for value in values})
    try:
        if not 2 <= len(names) <= _MOST_LEVELS or any(isinstance(value, int | float) for value in values):
            raise UserError("too many")
        return Attribute(
            name, "categorical", categories=tuple(names), description=f"As labelled in the column {column}."
        )
    except UserError:
        raise UserError(
            f"--columns rating.{name}={column}: its values are neither levels of a scale of whole numbers from 0 or 1 "
            f"to at most {_MOST_LEVELS - 1} nor names of 2 to {_MOST_LEVELS} categories in one word, for example "
            f"{values[0] if values else 'nothing'!r}"
        ) from None


def _is_scale(numbers: Sequence[int | float]) -> bool:
    whole = {int(number) for number in numbers if float(number).is_integer()}
    return (
        2 <= len(whole) == len(set(numbers))
        and min(whole) >= 0
        and max(whole) < _MOST_LEVELS
        and len(numbers) >= 2 * len(whole)
    )


def _top(highest: int) -> int:
    """Return the top of the usual scale that holds a rating."""
    return next((top for top in (1, 2, 3, 4, 5, 7, 10) if top >= highest), highest)
