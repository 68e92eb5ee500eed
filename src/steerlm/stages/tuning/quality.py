"""How good a response is: the mean of the attributes that count as quality, each towards its best end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.conversation import Score
from steerlm.errors import UserError


def quality_attribute(schema: AttributeSchema, name: str) -> Attribute:
    """Return an attribute that counts as quality."""
    attribute = schema[name]
    if attribute.best is None:
        raise UserError(f"bootstrap.quality_attributes: {name!r} has no best end in the schema")
    return attribute


def goodness(attributes: Sequence[Attribute], values: Mapping[str, Any]) -> float:
    """Return the mean level of the attributes, each mirrored where its lowest level is the best."""
    levels = [values[a.name] if a.best == "max" else a.minimum + a.maximum - values[a.name] for a in attributes]
    return float(sum(levels)) / len(levels)


def predicted_quality(schema: AttributeSchema, quality_attributes: Sequence[str], scores: Mapping[str, Score]) -> float:
    """Return the mean predicted quality of a response, real-valued, high = good."""
    means = {name: scores[name].mean for name in quality_attributes}
    return goodness([quality_attribute(schema, name) for name in quality_attributes], means)
