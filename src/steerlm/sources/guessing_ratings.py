"""Which columns rate the reply, and why others that look like it do not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from steerlm.attributes import PRESETS, Attribute
from steerlm.attributes.attribute import CATEGORY
from steerlm.errors import UserError, shell_word
from steerlm.sources.column_names import OTHERS, by_name, plain_name
from steerlm.sources.draft import as_number
from steerlm.sources.guessing_columns import LONG_NAME, MOST_LEVELS, Rows, column_values

KNOWN = {attribute.name: attribute for preset in PRESETS.values() for attribute in preset}
_RATING_WORDS = {"rating", "ratings", "rated", "score", "scores", "stars", "grade", "label", "likert"}
_LEVELS = f"whole numbers from 0 or 1 to at most {MOST_LEVELS - 1}"


@dataclass(frozen=True)
class RatedColumn:
    """Ratings, and the attribute that they are of.

    Attributes:
        column: where they stand; empty: in the records themselves.
        share: of the rows (or replies) that have one.
    """

    column: str
    attribute: Attribute
    share: float


class UnusedColumn(NamedTuple):
    """A column that may rate the reply but is not used, and what to do where it does."""

    column: str
    why: str


class Ratings(NamedTuple):
    """The columns that rate the reply, and those that may."""

    rated: tuple[RatedColumn, ...]
    unused: tuple[UnusedColumn, ...]


def rating_columns(
    rows: Rows, keys: Iterable[str], given: Mapping[str, str], dials: Iterable[str], *, by_names: bool = True
) -> Ratings:
    """Look for ratings in the columns that hold nothing else.

    Args:
        keys: the columns.
        given: the `columns` of the user; where some are ratings, no other one is taken for its name alone.
        dials: attributes that people rate, as the user says: columns of these names rate.
        by_names: whether a column is taken because it is called like a known attribute or like a rating.

    Raises:
        UserError: a column that the user calls a rating and that cannot be one.
    """
    named = {column: name.removeprefix("rating.") for name, column in given.items() if name.startswith("rating.")}
    rated: dict[str, RatedColumn] = {}
    unused = []
    for column in keys:
        values = [as_number(value) for value in column_values(rows, column)]
        share = len(values) / len(rows)
        if column in named:
            rated[named[column]] = RatedColumn(column, _named(named[column], column, values), share)
            continue
        name = plain_name(column)
        if name in named.values() or by_name([column], OTHERS) is not None:
            continue
        called = name in dials or _rates(name)
        taken = name in dials or (called and by_names and not named)
        scale = _scale(values, fractions=called)
        if taken and scale is not None:
            rated.setdefault(name, RatedColumn(column, _attribute_of(name, column, scale), share))
        elif (why := _why_not(name, column, values, called)) and (name in dials or not named):
            unused.append(UnusedColumn(column, why))
    return Ratings(tuple(rated.values()), tuple(unused))


def label_attribute(name: str, values: Sequence[object]) -> Attribute | None:
    """Return the attribute that labels in the records are of: levels or a few words; None where they are neither."""
    numbers = _numbers(values)
    levels = [number for number in numbers if isinstance(number, int) and 0 <= number < MOST_LEVELS]
    if len(levels) == len(values):
        return _attribute(name, min(levels), max(levels), "As rated in the data.")
    words = _words(values)
    return Attribute(name, "categorical", categories=words, description="As labelled in the data.") if words else None


def why_no_dial(values: Sequence[object]) -> str:
    """Return why values are no ratings, and what makes them some."""
    if not values:
        return "it is empty"
    numbers = _numbers(values)
    if len(numbers) == len(values):
        return _why_no_levels(numbers)
    other = str(next(value for value in values if not _numbers([value])))
    shown = other if len(other) <= LONG_NAME else f"{other[:LONG_NAME]}…"
    return f"ratings are {_LEVELS}, or one word per category, but it holds {shown!r}"


class _Scale(NamedTuple):
    lowest: int
    highest: int


def _attribute_of(name: str, column: str, scale: _Scale) -> Attribute:
    return _attribute(name, scale.lowest, scale.highest, f"As rated in the column {column}.")


def _attribute(name: str, lowest: int, highest: int, about: str) -> Attribute:
    """Return the attribute that ratings from `lowest` to `highest` are of, on the usual scale that holds them."""
    known = KNOWN.get(name)
    return Attribute(
        name,
        minimum=min(lowest, 1),
        maximum=max(_top(highest), min(lowest, 1) + 1),
        description=about if known is None else known.description,
        best=None if known is None else known.best,
    )


def _rates(name: str) -> bool:
    """Whether a column's name says that it rates something."""
    return name in KNOWN or bool(_RATING_WORDS & set(name.split("_")))


def _numbers(values: Sequence[object]) -> list[int | float]:
    return [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]


def _scale(values: Sequence[object], *, fractions: bool) -> _Scale | None:
    """Return the ends of the short scale that all values lie on; None where there is none.

    Args:
        fractions: whether values between the levels count; the nearest level is trained then.
    """
    numbers = _numbers(values)
    different = set(numbers)
    if len(numbers) < len(values) or len(different) < 2:
        return None
    lowest, highest = math.floor(min(numbers)), math.ceil(max(numbers))
    if lowest < 0 or highest >= MOST_LEVELS:
        return None
    if all(float(number).is_integer() for number in different):
        return _Scale(lowest, highest) if len(numbers) >= 2 * len(different) else None
    return _Scale(lowest, highest) if fractions and highest - lowest >= 2 else None


def _named(name: str, column: str, values: Sequence[object]) -> Attribute:
    """Return the attribute that a column rates because the user says so.

    Raises:
        UserError: a name that no dial has, or values that are neither levels nor names of a few categories.
    """
    if name != plain_name(name):
        raise UserError(
            f"--columns rating.{name}={column}: a dial's name is lower-case letters, digits and underscores, for "
            f"example rating.{plain_name(name)}={column}"
        )
    scale = _scale(values, fractions=True)
    if scale is not None:
        return _attribute_of(name, column, scale)
    if values and len(numbers := _numbers(values)) == len(values):
        raise UserError(f"--columns rating.{name}={column}: {_why_no_levels(numbers)}")
    if not (words := _words(values)):
        raise UserError(
            f"--columns rating.{name}={column}: its values are neither levels of a scale of {_LEVELS} nor names of 2 "
            f"to {MOST_LEVELS} categories in one word, for example {values[0] if values else 'nothing'!r}"
        )
    return Attribute(name, "categorical", categories=words, description=f"As labelled in the column {column}.")


def _words(values: Sequence[object]) -> tuple[str, ...]:
    """Return the categories that values name; none where they are no few words."""
    words = tuple(sorted({str(value) for value in values}))
    if not 2 <= len(words) <= MOST_LEVELS or _numbers(values):
        return ()
    return words if all(CATEGORY.fullmatch(word) for word in words) else ()


def _why_not(name: str, column: str, values: Sequence[object], called: bool) -> str:
    """Return why a column is not taken for ratings, and what makes it some; empty where it does not look like it."""
    say = f"say --columns {shell_word(f'rating.{name}={column}')}"
    if _scale(values, fractions=called) is not None:
        return f"{'' if called else 'whole '}numbers; if they rate the reply, {say}"
    if (words := _words(values)) and len(values) >= 2 * len(words):
        return f"the words {', '.join(words)}; for a dial of categories {say}, for one of levels write numbers"
    return why_no_dial(values) if called else ""


def _why_no_levels(numbers: Sequence[int | float]) -> str:
    lowest, highest = min(numbers), max(numbers)
    if lowest == highest:
        return f"it always says {lowest:g}; a dial needs two levels that differ"
    if lowest >= 0 and highest < MOST_LEVELS and all(float(number).is_integer() for number in numbers):
        return f"{len(numbers)} ratings are too few to tell its scale; give it in a YAML file of --attributes"
    whole = all(float(number).is_integer() for number in numbers)
    step = math.gcd(*(int(number) for number in numbers)) if whole else 1
    cure = "bring them onto such a scale in the data"
    if whole and lowest < 0 and highest - lowest < MOST_LEVELS:
        cure = f"add {-lowest:g} to each in the data"
    elif lowest >= 0 and step > 1 and highest / step < MOST_LEVELS:
        cure = f"divide each by {step} in the data"
    elif lowest >= 0 and highest > MOST_LEVELS - 1:
        cure = f"divide each by {_divisor(highest)} in the data (between two levels the nearer one counts)"
    return f"numbers from {lowest:g} to {highest:g}, but ratings are {_LEVELS}: {cure}"


def _divisor(highest: float) -> int:
    """Return the least of 2, 5, 10, 20, … that brings a rating onto a short scale."""
    steps: Iterator[int] = (step * 10**power for power in itertools.count() for step in (2, 5, 10))
    return next(step for step in steps if highest <= step * (MOST_LEVELS - 1))


def _top(highest: int) -> int:
    """Return the top of the usual scale that holds a rating."""
    return next((top for top in (1, 2, 3, 4, 5, 7, 10) if top >= highest), highest)
