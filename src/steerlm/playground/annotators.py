"""Simulated annotators: what people would have written down about a reply whose truth is known.

Each annotator sees the true level through a scale and an offset of their own (bias), adds noise, and
writes down a whole level; now and then a label is missing.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steerlm.attributes import AttributeSchema


@dataclass(frozen=True)
class SimulatedAnnotator:
    """One person's habits.

    Attributes:
        offset: attribute -> levels added to everything they rate.
        scale: attribute -> how far they spread their ratings around the middle of the scale; 1 = fully.
    """

    offset: Mapping[str, float]
    scale: Mapping[str, float]


def draw_annotators(num_annotators: int, bias: float, schema: AttributeSchema, seed: int) -> list[SimulatedAnnotator]:
    """Draw annotators whose offsets have the standard deviation `bias` (in levels), scales half of that."""
    rng = random.Random(f"annotators {seed}")
    return [
        SimulatedAnnotator(
            offset={name: rng.gauss(0, bias) for name in schema.names},
            scale={name: rng.gauss(1, bias / 2) for name in schema.names},
        )
        for _ in range(num_annotators)
    ]


def rate(
    truth: Mapping[str, int],
    raters: Sequence[SimulatedAnnotator],
    noise: float,
    missing_fraction: float,
    schema: AttributeSchema,
    rng: random.Random,
) -> dict[str, tuple[float, ...]]:
    """Return each attribute's ratings, one per rater; attributes that nobody rated are left out.

    Args:
        noise: standard deviation of each single rating, in levels.
    """
    ratings = {}
    for attribute in schema:
        middle = (attribute.minimum + attribute.maximum) / 2
        values = []
        for rater in raters:
            seen = middle + rater.scale[attribute.name] * (truth[attribute.name] - middle)
            value = attribute.round(seen + rater.offset[attribute.name] + rng.gauss(0, noise))
            if rng.random() >= missing_fraction:
                values.append(float(value))
        if values:
            ratings[attribute.name] = tuple(values)
    return ratings
