"""Where real-valued predictions are cut into levels.

Ratings cannot leave their scale, so noise pushes the mean rating of the lowest level up and that of the highest down,
and a model that predicts means is off by a level there when it is rounded at the halves. The cut between two levels is
therefore put where the people's labels disagree least with the side that a prediction falls on: the levels are then
the conditional medians of the ratings, which clipping does not move. Where predictions lie in clusters, a cut through
one would give turns that are alike different levels by chance: as long as the ratings cannot tell the difference, the
cut goes into the valley between two clusters.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from steerlm.attributes import Attribute

_FEWEST_LABELS = 200
"""With fewer labels the cuts would be noise; the halves stay."""
_BIN, _SMOOTH = 0.01, 0.1
"""Width of a bin, and of what smooths the density of predictions, in levels."""
_LUCK = 2.0
"""Standard errors within which two cuts are equally good: the best is the luckiest of many."""
_DIP = 0.8
"""A valley has at most this share of the density of the lower of the peaks beside it,"""
_CLEARLY = 3.0
"""and is lower by so many standard errors."""


def halves(attribute: Attribute) -> tuple[float, ...]:
    """Return the cuts of ordinary rounding."""
    return tuple(level + 0.5 for level in range(attribute.minimum, attribute.maximum))


def fit_cut_points(
    attribute: Attribute, labels_N: npt.NDArray[np.float64], predictions_N: npt.NDArray[np.float64]
) -> tuple[float, ...]:
    """Return the cut between each level and the next that minimises the mean absolute error of the levels.

    That error is the sum over cuts of the share of labels on the other side of the cut than their prediction, so each
    cut is found on its own, exactly, between its two levels. Of equally good ones the nearest to the half is taken.

    Args:
        attribute: ordinal.
        labels_N: people's labels on the scale, real-valued where several were averaged; NaN = none.
    """
    given = ~np.isnan(labels_N)
    if given.sum() < _FEWEST_LABELS:
        return halves(attribute)
    order = np.argsort(predictions_N[given], kind="stable")
    predictions_M, labels_M = predictions_N[given][order], labels_N[given][order]
    return tuple(_best_cut(half, predictions_M, labels_M >= half) for half in halves(attribute))


def _best_cut(half: float, predictions_M: npt.NDArray[np.float64], above_M: npt.NDArray[np.bool_]) -> float:
    """Return the cut within half a level of `half` that splits sorted predictions best into below and above."""
    below_wrong = np.concatenate([[0], np.cumsum(above_M)])
    above_wrong = np.concatenate([np.cumsum(~above_M[::-1])[::-1], [0]])
    inner = predictions_M[(predictions_M > half - 0.5) & (predictions_M < half + 0.5)]
    candidates = np.concatenate([[half], (inner[1:] + inner[:-1]) / 2])
    wrong = below_wrong + above_wrong
    places = np.searchsorted(predictions_M, candidates, side="left")
    lowest = np.flatnonzero(wrong[places] == wrong[places].min())
    best = lowest[np.argmin(np.abs(candidates[lowest] - half))]
    # every prediction between two cuts is right with one of them and wrong with the other
    grid = np.arange(half - 0.5 + _BIN, half + 0.5, _BIN)
    on_grid = np.searchsorted(predictions_M, grid, side="left")
    alike = wrong[on_grid] - wrong[places[best]] <= _LUCK * np.sqrt(np.abs(on_grid - places[best]))
    valley = _valley(half, predictions_M, grid[alike])
    return round(float(candidates[best] if valley is None else valley), 4)


def _valley(half: float, predictions_M: npt.NDArray[np.float64], candidates_C: npt.NDArray[np.float64]) -> float | None:
    """Return that candidate around which predictions are rarest, if there are clearly more on either side."""
    edges = np.arange(half - 1.5, half + 1.5 + _BIN, _BIN)
    density_B = gaussian_filter1d(np.histogram(predictions_M, edges)[0].astype(np.float64), _SMOOTH / _BIN)
    bin_C = np.searchsorted(edges, candidates_C, side="right") - 1
    lower = np.minimum(np.maximum.accumulate(density_B), np.maximum.accumulate(density_B[::-1])[::-1])
    # what the smoothing adds up is about so many bins; a dip must be deeper than chance makes it
    bins = 2 * np.sqrt(np.pi) * _SMOOTH / _BIN
    deep_C = (lower - density_B)[bin_C] * bins > _CLEARLY * np.sqrt(lower[bin_C] * bins)
    found_C = np.flatnonzero((density_B[bin_C] <= _DIP * lower[bin_C]) & deep_C)
    if not len(found_C):
        return None
    rarest_C = candidates_C[found_C[density_B[bin_C[found_C]] <= density_B[bin_C[found_C]].min() + 1e-6]]
    return float(rarest_C[len(rarest_C) // 2])


def level_of(attribute: Attribute, prediction: float, cuts: Sequence[float]) -> int:
    """Return the level of a prediction; one that lies on a cut belongs above it."""
    return attribute.minimum + bisect_right(cuts, prediction)


def place_of(attribute: Attribute, prediction: float, cuts: Sequence[float]) -> float:
    """Return where a prediction lies on the scale once its cuts lie at the halves: within its level, and how far.

    Beyond the outermost cuts a level is as wide as a level is.
    """
    positions = [cuts[0] - 0.5, *cuts, cuts[-1] + 0.5]
    places = [attribute.minimum, *halves(attribute), attribute.maximum]
    return float(np.interp(prediction, positions, places))
