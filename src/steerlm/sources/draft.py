"""What an importer makes of one row of a data set, and how a source's labels get onto the schema's scale."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.sources.column_names import exchange_remedy

JsonObject = dict[str, object]


class Draft(NamedTuple):
    """One conversation as an importer found it; its roles are checked when the `Conversation` is built.

    Attributes:
        id: the data's own id, None where it has none (the row number then stands in).
        suffix: tells the conversations of one row apart, for example `-chosen`.
        group: the data's own unit of splitting, None = the first prompt.
        meta: further top-level keys of the record.
    """

    messages: tuple[Message, ...]
    id: str | None = None
    suffix: str = ""
    group: str | None = None
    meta: Mapping[str, object] = {}


class Labelled(NamedTuple):
    """Labels on the schema's scale: `attributes` rounded to levels, `ratings` the values behind them.

    `ratings` is None where it would say the same as `attributes` (one rating on a whole level each).
    """

    attributes: dict[str, Value] | None
    ratings: dict[str, tuple[float, ...]] | None


def with_ratings(message: Message, own: Labelled) -> Message:
    """Add people's labels to a response; of an attribute that has some already, the new ones stay."""
    new = own.attributes or {}
    kept = {name: values for name, values in (message.ratings or {}).items() if name not in new}
    attributes = {**(message.attributes or {}), **new}
    tellers = {name: "human" if name in new else message.teller(name) or "human" for name in attributes}
    return replace(
        message,
        attributes=attributes,
        human=None if message.human is None else {**message.human, **new},
        ratings={**kept, **(own.ratings or {})} or None,
        labelled_by="human" if set(tellers.values()) <= {"human"} else tellers,
    )


@dataclass
class Labels:
    """Maps labels of a source onto the schema.

    Attributes:
        schema: the schema in use.
        dropped: how often a label was left out because the schema lacks its attribute, by name; other things
            that an importer leaves out are counted under a name in parentheses.
        written: whether numbers are written as text, as in a CSV file.
        preference: attribute of which a comparison between responses is a rating; None: comparisons are no ratings.
    """

    schema: AttributeSchema
    dropped: Counter[str] = field(default_factory=Counter)
    written: bool = False
    preference: str | None = None

    def convert(self, raw: Mapping[str, object], low: float, high: float) -> Labelled:
        """Map one turn's numbers from the source's scale `low..high` linearly onto the schema's, then round.

        The rounding is Python's (halves to the even level), as in NVIDIA's preparation of OASST
        (`round(value * 4)`), so that the labels agree with published data.

        Args:
            raw: attribute name to a number, a list of numbers (one per annotator), or None (not rated).
            low: lowest value on the source's scale.
            high: highest value on the source's scale.

        Raises:
            UserError: a label that is no finite number from `low` to `high`, or a categorical attribute.
        """
        attributes: dict[str, Value] = {}
        ratings: dict[str, tuple[float, ...]] = {}
        for name in _schema_order(self.schema, raw):
            given = raw[name]
            values = _values(given, numbers_as_text=self.written)
            if not values:
                continue
            if name not in self.schema:
                self._drop(name)
                continue
            attribute = self.schema[name]
            if attribute.kind != "ordinal":
                raise UserError(f"{name} is categorical in the schema but the data rate it {given!r}")
            mapped = [_rescale(_check(name, value, low, high), low, high, attribute) for value in values]
            mean = sum(mapped) / len(mapped)
            attributes[name] = round(mean)
            if len(mapped) > 1 or mean != attributes[name]:
                ratings[name] = tuple(mapped)
        return Labelled(attributes or None, ratings or None)

    def own(self, raw: Mapping[str, object]) -> Labelled:
        """Take one turn's labels that stand on the schema's own scale: numbers, names of categories, lists of either.

        Numbers may be text in any kind of file, and true and false name categories: people's own tables come through
        many tools. Halves go up, as in scores: at the even level, half stars would leave the odd levels a third of what
        the others get. Of several annotators' categories the one that most of them name counts, and none where no
        single one does.

        Raises:
            UserError: an attribute that the schema lacks, or a value off its scale.
        """
        attributes: dict[str, Value] = {}
        ratings: dict[str, tuple[float, ...]] = {}
        for attribute in self.schema:
            values = _values(raw.get(attribute.name), numbers_as_text=attribute.kind == "ordinal")
            if not values:
                continue
            if attribute.kind == "categorical":
                if (named := _commonest([attribute.check(str(value)) for value in values])) is None:
                    self.dropped[f"(categories of {attribute.name} without a majority)"] += 1
                else:
                    attributes[attribute.name] = named
                continue
            rated = [attribute.check_rating(value) for value in values]
            mean = sum(rated) / len(rated)
            attributes[attribute.name] = attribute.round(mean)
            if len(rated) > 1 or mean != attributes[attribute.name]:
                ratings[attribute.name] = tuple(rated)
        return Labelled(attributes or None, ratings or None)

    def compared(self, message: Message, place: float) -> Message:
        """Rate a response by its place in a comparison, from 0 (the worst) to 1 (the best).

        A rating that the data give the same attribute wins.
        """
        if self.preference is None or (message.attributes and self.preference in message.attributes):
            return message
        attribute = self.schema[self.preference]
        worst, best = attribute.minimum, attribute.maximum
        if attribute.best == "min":
            worst, best = best, worst
        return with_ratings(message, self.own({self.preference: worst + place * (best - worst)}))

    def _drop(self, name: str) -> None:
        near = re.sub(r"[\W_]+", "_", name.strip().lower())
        if near in self.schema:
            raise UserError(f"label {name!r} is no attribute of the schema: did you mean {near!r}?")
        self.dropped[name] += 1


_PLACEHOLDERS = frozenset(("noinput", "no input", "nan", "n/a", "none", "null"))
_NO_INPUT = re.compile(r"\s*<\s*no ?input\s*>\s*\Z", re.IGNORECASE)
"""Behind a text it is no part of it."""


def absent(value: object) -> bool:
    """Whether there is nothing: null, NaN (which tables fill holes with), an empty text, list or object."""
    return missing(value) or (isinstance(value, (str, list, dict)) and not value)


def missing(value: object) -> bool:
    """Whether a column has no value: null, or the NaN that tables fill holes with."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_placeholder(value: object) -> bool:
    """Whether a text says that there is nothing: `<noinput>`, `nan`, `N/A`, `None`."""
    return isinstance(value, str) and value.strip().strip("<>[](){}.").strip().lower() in _PLACEHOLDERS


def as_number(value: object) -> object:
    """Return the number that a cell of text says; other text stays as it is, to be refused with its name."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)\s*", value, re.ASCII):
        number = float(value)
        return int(number) if number.is_integer() else number
    return value


def _values(given: object, *, numbers_as_text: bool) -> list[object]:
    """Return the values that are there: the annotators' where there are several."""
    values = [value for value in (given if isinstance(given, list) else [given]) if not absent(value)]
    return [as_number(value) for value in values if not is_placeholder(value)] if numbers_as_text else values


def _commonest(values: Sequence[Value]) -> Value | None:
    """Return the value that occurs most often, None where several do."""
    first, *others = Counter(values).most_common(2)
    return None if others and others[0][1] == first[1] else first[0]


def _schema_order(schema: AttributeSchema, raw: Mapping[str, object]) -> Iterator[str]:
    """Yield the names in the schema's order, then those it lacks: the source's order must not leak into records."""
    yield from (name for name in schema.names if name in raw)
    yield from (name for name in raw if name not in schema)


def _check(name: str, value: object, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{name}: label {value!r} is not a number")
    if not math.isfinite(value):
        raise UserError(f"{name}: label {value!r} is not a finite number")
    if not low <= value <= high:
        raise UserError(f"{name}: label {value!r} is outside this data set's range {low:g}..{high:g}")
    return value


def _rescale(value: float, low: float, high: float, attribute: Attribute) -> float:
    # multiplied before it is divided: whole levels then stay whole
    return float((value - low) * (attribute.maximum - attribute.minimum) / (high - low) + attribute.minimum)


def expect_object(row: object) -> JsonObject:
    """Return the row if it is a JSON object."""
    if not isinstance(row, dict):
        raise UserError(f"a row must be a JSON object, got {type(row).__name__}")
    return row


def expect_text(row: Mapping[str, object], key: str) -> str:
    """Return the text under `key`."""
    if key not in row:
        columns = list(map(str, row))
        remedy = exchange_remedy(columns) if key in ("prompt", "response") else ""
        say = f"; say {remedy}" if remedy else ""
        raise UserError(f"the row has no {key!r}; it has {', '.join(columns) or 'nothing'}{say}")
    text = row[key]
    if not isinstance(text, str):
        raise UserError(f"{key!r} must be text, got {text!r}")
    return text


def optional_text(row: Mapping[str, object], key: str) -> str:
    """Return the text under `key`, or an empty text where the key is missing or there is nothing under it.

    Raises:
        UserError: it holds something else.
    """
    return "" if absent(row.get(key)) else expect_text(row, key)


def filled_text(row: Mapping[str, object], key: str, labels: Labels) -> str:
    """Return an optional text; a placeholder such as `<noinput>` or `N/A` is none and is counted.

    Raises:
        UserError: the key holds something else than text.
    """
    text = optional_text(row, key)
    kept = "" if is_placeholder(text) else _NO_INPUT.sub("", text)
    if kept != text:
        labels.dropped[f"(placeholder in {key})"] += 1
    return kept


def own_id(row: Mapping[str, object], key: str) -> str | None:
    """Return the data's own id under `key` as text, None where there is none."""
    value = row.get(key)
    if absent(value):
        return None
    if isinstance(value, float) and value.is_integer():  # as tables with holes keep integers
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UserError(f"{key!r} must be text or an integer, got {value!r}")
    return str(value)


_PUNCTUATION = re.compile(r"[^\w\s]+|_+")


def normalise(text: str) -> str:
    """Return a prompt as it is compared: case folded, punctuation and extra whitespace gone.

    A prompt of nothing but punctuation keeps it.
    """
    folded = text.casefold()
    return " ".join(_PUNCTUATION.sub(" ", folded).split()) or " ".join(folded.split())


def digest(text: str) -> str:
    """Return 16 hex digits that stand for `text`, the same on every machine."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def prompt_group(messages: tuple[Message, ...]) -> str:
    """Return the group of a conversation without one of its own: a hash of its normalised first prompt.

    Every response to one prompt gets the same group, whatever source it comes from.
    """
    return _group_of(next((message.content for message in messages if message.role == "user"), ""))


@functools.lru_cache(maxsize=8)  # of one record it is asked twice
def _group_of(prompt: str) -> str:
    return digest(normalise(prompt))
