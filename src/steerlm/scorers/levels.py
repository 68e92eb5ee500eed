"""Figures of a measure or a classifier as levels of an attribute, cut by quantiles unless a recipe says where."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from steerlm.attributes import Attribute
from steerlm.conversation import Score
from steerlm.errors import UserError


def score_of(attribute: Attribute, figure: float) -> Score:
    """Return where a figure stands on an attribute's scale.

    A cut lies half-way between two levels, so that rounding the score gives the level; a figure on a cut belongs above
    it. Between cuts the score rises evenly, outside them as fast as beside the nearest one, within the scale.
    """
    cuts = attribute.cuts
    assert cuts, f"{attribute.name} has no cuts yet"
    if len(cuts) == 1:
        return Score(float(attribute.minimum + (figure >= cuts[0])), 0.0)
    below = bisect_right(cuts, figure)
    left = min(max(below - 1, 0), len(cuts) - 2)
    share = (figure - cuts[left]) / (cuts[left + 1] - cuts[left])
    place = attribute.minimum + 0.5 + left + share
    # rounding must not carry a figure over a cut that it has not reached
    level = attribute.minimum + below
    place = min(max(place, level - 0.5), level + 0.5 - 1e-9)
    return Score(min(max(place, float(attribute.minimum)), float(attribute.maximum)), 0.0)


def quantile_cuts(attribute: Attribute, figures: Sequence[float]) -> tuple[float, ...]:
    """Return cuts that put about as many of the figures on every level.

    Figures that occur often stay together: a level that one figure fills is followed by the quantiles of the rest.

    Args:
        attribute: with the number of levels.
        figures: of the training data.

    Raises:
        UserError: fewer different figures than levels.
    """
    distinct, counts = np.unique(np.asarray(figures, dtype=np.float64), return_counts=True)
    levels = attribute.maximum - attribute.minimum + 1
    what = attribute.measure or (f"classifier {attribute.classifier.model}" if attribute.classifier else "measure")
    if len(distinct) == 1:
        raise UserError(
            f"attribute {attribute.name!r}: {what} is {distinct[0]:g} on all {len(figures):,} turns looked at: a dial "
            "cannot be learned from a constant; take another measure, or leave the attribute out"
        )
    if len(distinct) < levels:
        raise UserError(
            f"attribute {attribute.name!r}: {what} has only {len(distinct)} different values on {len(figures):,} turns,"
            f" which make no {levels} levels: set maximum: {attribute.minimum + len(distinct) - 1}, or cuts"
        )
    cuts: list[float] = []
    first = 0
    for left in range(levels, 1, -1):  # levels that are still to fill
        remaining = np.cumsum(counts[first:])
        target = remaining[-1] / left
        # of the two ends next to the target the nearer one; every later level keeps a figure of its own
        last = first + int(np.argmin(np.abs(remaining - target)))
        last = min(last, len(distinct) - left)
        cuts.append(_short_between(float(distinct[last]), float(distinct[last + 1])))
        first = last + 1
    return tuple(cuts)


def _short_between(low: float, high: float) -> float:
    """Return the shortest decimal above `low` and up to `high`, nearest to their middle."""
    middle = (low + high) / 2
    for digits in range(17):
        scale = 10.0**digits
        short = math.floor(middle * scale + 0.5) / scale  # half up: whole numbers between whole numbers
        if low < short <= high:
            return short
    return high
