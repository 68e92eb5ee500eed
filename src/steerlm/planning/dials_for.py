"""Which dials data can teach: those that its owner names, those it rates, else measures that vary in it."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.errors import UserError, did_you_mean
from steerlm.planning.choosing import held_out_fraction
from steerlm.planning.looking import DataLook
from steerlm.scorers.text_measures.registry import find_measure

MOST_RATINGS = 1500
"""Turns that a judge rates, at most, where nobody says how many."""
_SUGGESTED = (
    Attribute("length", description="How many words the reply has.", low="a few words", high="long"),
    Attribute("reading_grade", description="How hard the reply is to read.", low="for a child", high="for experts"),
    Attribute("positivity", description="How pleasant what the reply says is.", low="unpleasant", high="pleasant"),
)
_MEASURES = {"length": "words", "reading_grade": "flesch_kincaid_grade", "positivity": "sentiment"}
_SHORTHANDS = "measure:NAME, judge, judge:RATINGS, classifier:MODEL:LABEL, people"
_MOST_LEVELS = 5
"""Of a suggested dial."""
_FEWEST_DEFINED = 0.8
"""Share of replies that a suggested measure must be defined for."""


def read_shorthand(text: str) -> list[Attribute]:
    """Return the attributes that a command line names: `length=measure:words,grumpiness=judge`.

    Raises:
        UserError: a piece that is no pair, an unknown way to tell a value, or a name that stands twice.
    """
    rows: list[dict[str, object]] = []
    for piece in next(csv.reader([text])):
        name, equals, teller = (part.strip() for part in piece.partition("="))
        kind, _, argument = teller.partition(":")
        if not equals or kind not in _READERS:
            known = did_you_mean(kind, _READERS) if equals else "NAME=WHO"
            raise UserError(f"--attributes {piece.strip()!r}: who says its value is one of {_SHORTHANDS}: {known}")
        rows.append({"name": name, **_READERS[kind](name, argument)})
    return list(AttributeSchema.from_dict(rows))


def _measure(name: str, argument: str) -> dict[str, object]:
    if not argument:
        raise UserError(f"--attributes {name}=measure: name the measure, for example {name}=measure:words")
    measure = find_measure(argument)
    if measure.categorical:
        raise UserError(
            f"--attributes {name}=measure:{argument} says a category: give a YAML file that lists its categories"
        )
    like = next((attribute for attribute in _SUGGESTED if _MEASURES[attribute.name] == argument), None)
    about = f"{measure.about[:1].upper()}{measure.about[1:]}." if like is None else like.description
    ends = {} if like is None else {"low": like.low, "high": like.high}
    return {"description": about, "measure": argument, "default": 2, **ends}


def _judge(name: str, argument: str) -> dict[str, object]:
    if argument and not argument.isdecimal():
        raise UserError(f"--attributes {name}=judge:{argument}: a whole number of ratings, for example judge:300")
    spoken = name.replace("_", " ")
    return {
        "description": f"How much {spoken} the reply shows.",
        "judge": {"ratings": int(argument or MOST_RATINGS)},
        "default": 2,
        "low": f"no {spoken} at all",
        "high": f"as much {spoken} as there can be",
    }


def _classifier(name: str, argument: str) -> dict[str, object]:
    model, colon, label = argument.rpartition(":")
    if not colon or not model:
        raise UserError(f"--attributes {name}=classifier:{argument}: give MODEL:LABEL, for example some/model:toxic")
    return {"description": f"How likely its label {label} is.", "classifier": {"model": model, "label": label}}


_READERS: dict[str, Callable[[str, str], dict[str, object]]] = {
    "measure": _measure,
    "judge": _judge,
    "classifier": _classifier,
    "people": lambda name, argument: {"description": f"How much {name.replace('_', ' ')} the reply shows."},
}


def with_ratings_that_exist(schema: AttributeSchema, data: DataLook) -> AttributeSchema:
    """Return the schema in which no judge rates more turns than there are."""
    turns = len(data.replies())
    return AttributeSchema(
        tuple(
            a if a.judge is None else replace(a, judge=replace(a.judge, ratings=min(a.judge.ratings, turns)))
            for a in schema
        )
    )


class Suggested(NamedTuple):
    """Dials, and why others are none."""

    attributes: list[Attribute]
    missing: list[str]


def suggested_attributes(data: DataLook, sample: int = 500) -> Suggested:
    """Return measured dials whose levels the replies can fill: five, or fewer where few replies differ.

    Raises:
        UserError: no measure varies enough.
    """
    replies = data.replies()
    held_out = held_out_fraction(data).value
    assert isinstance(held_out, float)
    places = np.unique(np.linspace(0, len(replies) - 1, sample).astype(int)).tolist()
    found, missing = [], []
    for attribute in _SUGGESTED:
        measure = find_measure(_MEASURES[attribute.name])
        try:
            figures = [figure for i in places if (figure := measure(replies[i])) is not None]
        except UserError as error:  # its package is not installed
            missing.append(f"{attribute.name}: {error}")
            continue
        enough = len(figures) >= _FEWEST_DEFINED * len(places)
        quantiles = np.quantile(np.asarray(figures, dtype=float), (0.2, 0.4, 0.6, 0.8)) if enough and figures else []
        # every level needs a figure of its own among the replies that are not held out
        levels = min(_MOST_LEVELS, math.floor((1 - held_out) * len(set(figures))))
        if len(set(quantiles)) == 4 and levels >= 2:
            found.append(replace(attribute, measure=measure.name, maximum=levels - 1, default=levels // 2))
    if not found:
        raise UserError("no measure varies enough in the replies to make a dial of; name your own with --attributes")
    return Suggested(found, missing)
