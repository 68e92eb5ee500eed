"""How far a request in several attributes at once was met: error, miscalibration, side effects (SteerBench).

A request moves a point `source` of the attributes' space (each scaled to 0..1) by `delta`; what comes out is
`obtained`. The error splits into what lies along the request (too little, too much, the wrong way) and what lies across
it (an attribute that moved unasked). SteerBench (arXiv 2505.23816) bins movements before it measures them;
`cuts=False` measures them as they are. Arrays have a row per request and a column per attribute.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from steerlm.statistics.estimates import Estimate, FloatArray, cluster_bootstrap, mean, median

CUTS = (-1.0, -0.5, -0.2, -0.1, 0.1, 0.2, 0.5, 1.0)
"""Edges of the bins of a movement in SteerBench; the middle one means "unchanged"."""
_MIDDLE = 3
_BINS = len(CUTS) - 1
_TINY = 1e-8
_STILL = 1e-4

IntArray = NDArray[np.int64]


class Movements(NamedTuple):
    """Vectors of every row, shape (N, d): what was asked for, what happened, and what is wrong with it."""

    requested: FloatArray
    moved: FloatArray
    error: FloatArray


class SteeringFigures(NamedTuple):
    """Per row: length of the error, the part of it along the request, and the share of the movement across it.

    Attributes:
        steering_error: 0 .. about 2.
        miscalibration: relative to the request: 0 exact, 1 for no movement, 2 double or as far the other way.
        side_effects: 0 along the request alone .. 1 (SteerBench calls it orthogonality).
    """

    steering_error: FloatArray
    miscalibration: FloatArray
    side_effects: FloatArray


def bins_of(source: FloatArray, values: FloatArray) -> IntArray:
    """Return the bin of each value around its source, 0..7; an undefined value is in bin -1.

    The edges are clipped to 0..1 and a value of exactly 1 is in bin 7 whatever its source, as in the original.
    """
    edges = np.clip(source[..., None] + np.array(CUTS), 0, 1)
    return np.asarray((values[..., None] >= edges).sum(axis=-1) - 1, dtype=np.int64)


def requested_bins(delta: FloatArray) -> IntArray:
    """Return the bins that a request moves by, -3..3; an attribute without a request (NaN) by none."""
    moved = (np.nan_to_num(delta)[..., None] >= np.array(CUTS)).sum(axis=-1)
    return np.asarray(moved - 1 - _MIDDLE, dtype=np.int64)


def movements(
    source: FloatArray, delta: FloatArray, obtained: FloatArray, cuts: bool = True, target: FloatArray | None = None
) -> Movements:
    """Return the vectors of every row.

    Args:
        source: where the attributes stood, 0..1.
        delta: what was asked for, NaN where nothing was: that attribute should stay.
        obtained: what came out, 0..1.
        cuts: bin the movements as SteerBench does.
        target: where they should have come; None: `source + delta`.
    """
    wanted = source + delta if target is None else target
    wanted = np.where(np.isnan(delta), source, wanted)
    if not cuts:
        return Movements(wanted - source, obtained - source, wanted - obtained)
    found = bins_of(source, obtained)
    return Movements(
        requested_bins(delta) / _BINS, (found - _MIDDLE) / _BINS, (found - bins_of(source, wanted)) / _BINS
    )


def steering_figures(vectors: Movements) -> SteeringFigures:
    """Measure every row."""
    requested, moved, error = vectors
    length = np.linalg.norm(requested, axis=-1)
    along = (error * requested).sum(axis=-1)
    across = error - (along / ((requested**2).sum(axis=-1) + _TINY))[..., None] * requested
    side = np.linalg.norm(across, axis=-1) / (np.linalg.norm(moved, axis=-1) + _STILL * (length + _TINY))
    return SteeringFigures(
        np.linalg.norm(error, axis=-1),
        np.abs(along) / (length + _TINY) / (length + _TINY),
        np.clip(side, 0, 1),
    )


class FigureSummary(NamedTuple):
    """A figure over rows: the median and interquartile range, as SteerBench publishes them, and the mean.

    Attributes:
        median: with its interval from resampled groups of rows; so is `mean`.
        iqr: 75th minus 25th percentile.
    """

    median: Estimate
    iqr: float
    mean: Estimate


class SteerabilitySummary(NamedTuple):
    """The three figures over the same rows."""

    rows: int
    steering_error: FigureSummary
    miscalibration: FigureSummary
    side_effects: FigureSummary


class LinearResponse(NamedTuple):
    """How well movements are a linear function of the requests.

    Attributes:
        matrix: row i is the change of every attribute per unit requested of attribute i.
        r2: share of the movements' variance around their mean that the requests explain through it.
    """

    matrix: FloatArray
    r2: float


def summarise(figures: SteeringFigures, clusters: Sequence[object] | NDArray[Any]) -> SteerabilitySummary:
    """Summarise the figures of rows; rows of one cluster (a source text, a prompt) are drawn together."""

    def summary(values: FloatArray) -> FigureSummary:
        q1, q3 = np.percentile(values, [25, 75]) if len(values) else (math.nan, math.nan)
        middle, average = (cluster_bootstrap(statistic, [values], clusters) for statistic in (median, mean))
        return FigureSummary(middle, float(q3 - q1), average)

    return SteerabilitySummary(len(figures.steering_error), *(summary(values) for values in figures))


def linear_response(requested: FloatArray, moved: FloatArray) -> LinearResponse:
    """Fit the matrix that explains the movements best; 0 in the row of what was never asked for."""
    matrix = np.asarray(np.linalg.lstsq(requested, moved, rcond=None)[0], dtype=np.float64)
    return LinearResponse(matrix, explained(moved, requested @ matrix))


def explained(moved: FloatArray, predicted: FloatArray) -> float:
    """Return the share of the movements' variance around their mean that a prediction explains (R2, may be below 0)."""
    total = float(((moved - moved.mean(axis=0)) ** 2).sum()) if len(moved) else 0.0
    return 1 - float(((moved - predicted) ** 2).sum()) / total if total else math.nan


def uniform_weights(points: FloatArray, random: np.random.RandomState) -> FloatArray:
    """Return how likely each point should be drawn for the draws to fill 0..1 evenly; they sum to 1.

    The ratio of a uniform density to that of the points, by a logistic regression that tells them apart (ridge of
    strength 1, as scikit-learn's default).
    """
    num, d = points.shape
    x = np.vstack([points, random.rand(num, d)])
    sign = np.repeat([1.0, -1.0], num)

    def loss(w: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (x @ w[:d] + w[d])
        pull = -sign * expit(-margin)
        gradient = np.append(x.T @ pull + w[:d], pull.sum())
        return float(np.logaddexp(0, -margin).sum() + w[:d] @ w[:d] / 2), gradient

    found = minimize(loss, np.zeros(d + 1), jac=True, method="L-BFGS-B").x
    ratio = np.exp(-(points @ found[:d] + found[d]))
    return np.asarray(ratio / ratio.sum(), dtype=np.float64)
