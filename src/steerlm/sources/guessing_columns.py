"""Which columns of a table hold an exchange: told by their names, else by their texts, and never without a word."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steerlm.errors import UserError, did_you_mean, shell_word
from steerlm.sources.column_names import OTHERS, PROMPTS, RESPONSES, SYSTEMS, by_name, plain_name
from steerlm.sources.draft import absent, as_number
from steerlm.sources.turns import ROLE_KEYS, ROLES, ROW_FLAGS

Rows = Sequence[Mapping[str, object]]

MOST_LEVELS = 11
"""Levels of a dial, or its categories, that are taken from data."""
LONG_NAME = 40
"""Characters that no name of a column and no name of a category has."""
_SHORTEST = 4
_SAID = ("prompt", "question", "instruction", "response", "answer", "reply", "completion")
"""Names of columns that hold what is said, however short it is."""
_PARTS = ("prompt", "response", "system", "id", "group", *ROW_FLAGS)
"""What the reader of tables reads."""
_FEW = 4
"""How many times as many different texts another column has where one holds only a few."""


@dataclass(frozen=True)
class _Texts:
    """What a column of text holds."""

    length: float
    different: int

    def few(self, most: int) -> bool:
        """Whether they are a few short words, where another column has `most` different texts."""
        return self.different <= MOST_LEVELS and _FEW * self.different <= most and self.length < LONG_NAME


@dataclass(frozen=True)
class FoundColumns:
    """Columns by the parts of an exchange, and whether their names left no doubt."""

    columns: dict[str, str]
    certain: bool


def exchange_columns(origin: str, rows: Rows, keys: Sequence[str], given: Mapping[str, str]) -> FoundColumns:
    """Tell the columns of an exchange apart.

    Args:
        origin: where the rows are from, for messages.
        given: what the user has said of them, which wins.

    Raises:
        UserError: a part or a column that there is not, rows that are single turns, columns that look alike.
    """
    _check_given(origin, keys, given)
    texts = {key: held for key in keys if key not in given.values() and (held := _texts(rows, key)) is not None}
    most = max((text.different for text in texts.values()), default=0)
    found = {name: column for name, column in given.items() if not name.startswith("rating.")}
    for part, names in (("prompt", PROMPTS), ("response", RESPONSES)):
        if part not in found:
            named = [k for k in texts if k not in found.values() and (plain_name(k) in names or not texts[k].few(most))]
            column = by_name(named, names)
            if column is not None:
                found[part] = column
    lacking = [part for part in ("prompt", "response") if part not in found]
    free = [
        key
        for key, text in texts.items()
        if key not in found.values() and not text.few(most) and not _is_other(key, text, most)
    ]
    if lacking:
        _check_turns(origin, rows, keys, free, found)
        if len(free) != len(lacking):
            raise UserError(
                f"{origin}: cannot tell which column is the {' and which the '.join(lacking)}; it has "
                f"{', '.join(keys)}. {_remedy(rows, keys, found, free)}"
            )
        found |= dict(zip(lacking, free, strict=True))
        found = {part: found[part] for part in ("prompt", "response")} | found
    if "system" not in found:
        column = by_name((key for key in texts if key not in found.values()), SYSTEMS)
        if column is not None:
            found["system"] = column
    return FoundColumns(found, certain=not lacking)


def column_values(rows: Rows, key: str) -> list[object]:
    """Return what stands in a column, holes left out."""
    return [row[key] for row in rows if key in row and not absent(row[key])]


def _check_given(origin: str, keys: Sequence[str], given: Mapping[str, str]) -> None:
    for name, column in given.items():
        if column not in keys:
            raise UserError(f"--columns: {origin} has no column {column!r}; it has {', '.join(keys)}")
        if name not in _PARTS and not name.startswith("rating."):
            raise UserError(
                f"--columns {name}={column}: a table is not read for {name!r}: "
                f"{did_you_mean(name, (*_PARTS, 'rating.NAME'))}"
            )


def _texts(rows: Rows, key: str) -> _Texts | None:
    """Return what a column's words are like; None where it holds numbers or codes of a few characters."""
    values = column_values(rows, key)
    texts = [value for value in values if isinstance(value, str)]
    if not texts or len(texts) < len(values) or all(isinstance(as_number(text), int | float) for text in texts):
        return None
    length = statistics.mean(len(text) for text in texts)
    return _Texts(length, len(set(texts))) if length >= (1 if plain_name(key) in _SAID else _SHORTEST) else None


def _is_other(key: str, text: _Texts, most: int) -> bool:
    """Whether a column's name says that it holds no part of what is said.

    A column called `npc_…` may hold who speaks or what they say; that differs from row to row.
    """
    if by_name([key], OTHERS) is not None or plain_name(key) in SYSTEMS:
        return True
    return by_name([key], SYSTEMS) is not None and 2 * text.different < most


def _check_turns(origin: str, rows: Rows, keys: Sequence[str], free: Sequence[str], found: Mapping[str, str]) -> None:
    """Raise where a row is one turn of a conversation."""

    def says_who(key: str) -> bool:
        values = {value.strip().lower() if isinstance(value, str) else "" for value in column_values(rows, key)}
        roles = {ROLES.get(value) for value in values}
        return (len(roles) >= 2 and None not in roles) or (plain_name(key) in ROLE_KEYS and len(free) < 2)

    speaker = next((key for key in keys if key not in found.values() and says_who(key)), None)
    if speaker is not None and not found:
        raise UserError(
            f"{origin}: each row is one turn, and {speaker} says whose it is: such a table is not read. Write one row "
            "per exchange, with the columns prompt and response, or one line of JSON per conversation: "
            '{"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
        )


def _remedy(rows: Rows, keys: Sequence[str], found: Mapping[str, str], free: Sequence[str]) -> str:
    """Return how the user can say what no name of a column says."""
    lists = [key for key in keys if isinstance(rows[0].get(key), list)]
    if lists and len(rows) == 1:
        return f"The file is one object: save the list under {lists[0]!r} as a file of its own"
    if lists:
        return f"If {lists[0]} holds the turns of a conversation, say --columns {shell_word(f'messages={lists[0]}')}"
    if len(keys) == 1:
        return "An exchange needs what the user says and the reply to it, in two columns"
    left = iter(free)
    pairs = (f"{part}={found.get(part) or next(left, 'COLUMN')}" for part in ("prompt", "response"))
    return f"Say so, for example --columns {shell_word(','.join(pairs))}"
