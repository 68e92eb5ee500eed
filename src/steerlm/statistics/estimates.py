"""Estimates with 95 % intervals: what every reported number goes through.

Intervals come from a cluster bootstrap: whole clusters (prompts, conversation trees) are drawn with replacement,
because responses to one prompt are not independent. A draw says how often each cluster counts, so that moments over a
thousand draws are one small matrix product. The statistics below therefore take frequency weights, which scipy and
scikit-learn do not offer for ranks; on expanded samples they equal the libraries' (tests/statistics/test_metrics.py).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FloatArray = NDArray[np.float64]
MIN_CLUSTERS = 5
"""Fewer clusters than this give no interval."""


class Estimate(NamedTuple):
    """A number with its 95 % interval.

    Attributes:
        value: the statistic on all data; NaN where it is undefined (constant or no data).
        low, high: ends of the interval; NaN where there is none.
        clusters: number of independent clusters (prompts) they come from.
        note: why the value or the interval is missing; empty where nothing is.
    """

    value: float
    low: float
    high: float
    n: int
    clusters: int
    note: str = ""

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low)

    def magnitude(self) -> Estimate:
        """Return the size of a change, whichever way it goes; the interval begins at 0 where it held 0."""
        if not self.has_interval:
            return self._replace(value=abs(self.value))
        ends = sorted((abs(self.low), abs(self.high)))
        return self._replace(value=abs(self.value), low=0.0 if self.low <= 0 <= self.high else ends[0], high=ends[1])

    def to_dict(self) -> dict[str, object]:
        """Return the JSON form; NaN becomes null and `note` says why."""
        out: dict[str, object] = {
            "value": finite_or_none(self.value),
            "low": finite_or_none(self.low),
            "high": finite_or_none(self.high),
            "n": self.n,
            "clusters": self.clusters,
        }
        return {**out, "note": self.note} if self.note else out


@dataclass(frozen=True)
class Weights:
    """How often each of N observations counts in each of R resamples: as often as its cluster was drawn.

    Attributes:
        counts: shape (R, C), draws of each cluster.
        index: shape (N,), the cluster of each observation.
    """

    counts: FloatArray
    index: NDArray[np.int64]

    def totals(self, *columns_N: FloatArray) -> FloatArray:
        """Return the weighted sums of several columns, shape (R, number of columns)."""
        num_clusters = self.counts.shape[1]
        sums_CK = np.column_stack([np.bincount(self.index, column, num_clusters) for column in columns_N])
        return self.counts @ sums_CK

    def means(self, *columns_N: FloatArray) -> list[FloatArray]:
        """Return the weighted mean of each column, shape (R,) each; NaN where a resample has no observation."""
        totals_RK = self.totals(np.ones(len(self.index)), *columns_N)
        return [divide(totals_RK[:, k], totals_RK[:, 0]) for k in range(1, totals_RK.shape[1])]

    def rows(self) -> FloatArray:
        """Return the weight of every observation in every resample, shape (R, N)."""
        return self.counts[:, self.index]

    def take(self, rows: slice | NDArray[np.bool_]) -> Weights:
        return Weights(self.counts, self.index[rows])


Statistic = Callable[..., FloatArray]
"""`statistic(weights, *arrays_N) -> values_R`: one value per resample of a `Weights`, NaN where undefined."""


def to_dicts(estimates: Mapping[str, Estimate]) -> dict[str, object]:
    return {name: estimate.to_dict() for name, estimate in estimates.items()}


def finite_or_none(value: float) -> float | None:
    """Return a JSON-able number: None in place of NaN and infinity."""
    return float(value) if math.isfinite(value) else None


def cluster_bootstrap(
    statistic: Statistic,
    arrays: Sequence[ArrayLike],
    clusters: Sequence[object] | NDArray[Any],
    seed: int = 0,
    resamples: int = 1000,
) -> Estimate:
    """Estimate a statistic with a 95 % expanded-percentile interval from resampled clusters.

    Args:
        statistic: called as `statistic(weights, *arrays)`, for example `spearman`.
        arrays: the observations, each of length N (first axis).
        clusters: N cluster ids; observations with the same id are drawn together.
        seed: the resamples are a function of the seed and the number of clusters alone, so two statistics over
            the same clusters see the same draws.

    Returns:
        The estimate; with fewer than `MIN_CLUSTERS` clusters it has no interval and its note says so.
    """
    data = [np.asarray(array, dtype=np.float64) for array in arrays]
    n = len(clusters)
    assert all(len(array) == n for array in data), "arrays and clusters differ in length"
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, "no data")
    codes: dict[object, int] = {}
    index = np.array([codes.setdefault(cluster, len(codes)) for cluster in clusters], dtype=np.int64)
    num_clusters = len(codes)
    value = float(statistic(Weights(np.ones((1, num_clusters)), index), *data)[0])
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, n, num_clusters, "undefined: a constant input")
    if num_clusters < MIN_CLUSTERS:
        note = f"no interval: {num_clusters} clusters, at least {MIN_CLUSTERS} are needed"
        return Estimate(value, math.nan, math.nan, n, num_clusters, note)
    counts = cluster_counts(num_clusters, seed, resamples)
    step = max(1, 2_000_000 // n)  # bounds the memory of (resamples, observations)
    chunks = (counts[i : i + step].astype(np.float64) for i in range(0, resamples, step))
    draws = np.concatenate([statistic(Weights(chunk, index), *data) for chunk in chunks])
    draws = draws[np.isfinite(draws)]
    if len(draws) < resamples // 2:
        note = "no interval: most resamples are constant"
        return Estimate(value, math.nan, math.nan, n, num_clusters, note)
    low, high = expanded_interval(draws, num_clusters)
    return Estimate(value, low, high, n, num_clusters)


def expanded_interval(draws_R: FloatArray, num_clusters: int) -> tuple[float, float]:
    """Return the ends of the 95 % expanded-percentile interval of a statistic's values over resamples."""
    # plain percentiles are too narrow for few clusters (Hesterberg 2015, section 5.3)
    tail = stats.norm.cdf(-math.sqrt(num_clusters / (num_clusters - 1)) * stats.t.ppf(0.975, num_clusters - 1))
    low, high = np.quantile(draws_R, (tail, 1 - tail))
    return float(low), float(high)


def estimate_share(hits: ArrayLike, clusters: Sequence[object] | NDArray[Any], seed: int = 0) -> Estimate:
    """Estimate the share of hits (0 or 1), as the mean, with an interval that is honest at 0 % and 100 %.

    Where nothing varies every resample is alike and a bootstrap would claim certainty: there the interval is the exact
    binomial one of as many trials as there are clusters.
    """
    estimate = cluster_bootstrap(mean, [hits], clusters, seed)
    if estimate.value in (0.0, 1.0) and estimate.clusters >= MIN_CLUSTERS:
        interval = stats.binomtest(round(estimate.value * estimate.clusters), estimate.clusters).proportion_ci(0.95)
        return estimate._replace(low=float(interval.low), high=float(interval.high))
    return estimate


@functools.lru_cache(maxsize=4)
def cluster_counts(num_clusters: int, seed: int, resamples: int) -> NDArray[np.int16]:
    """Return how often each cluster is drawn in each resample, shape (resamples, num_clusters)."""
    rng = np.random.default_rng((seed, num_clusters))
    counts = np.empty((resamples, num_clusters), dtype=np.int16)
    for row in counts:
        row[:] = np.bincount(rng.integers(num_clusters, size=num_clusters), minlength=num_clusters)
    counts.setflags(write=False)
    return counts


# Statistics with frequency weights: weights, arrays_N -> values_R


def mean(weights: Weights, x_N: FloatArray) -> FloatArray:
    [mean_R] = weights.means(x_N)
    return mean_R


def median(weights: Weights, x_N: FloatArray) -> FloatArray:
    """Median; of an even number of observations the middle of the two in the middle."""
    order = np.argsort(x_N, kind="stable")
    ranks_RN = np.cumsum(weights.rows()[:, order], axis=1)
    total_R = ranks_RN[:, -1:]
    # the first observations that stand at the places (n - 1) / 2, rounded down and up
    low, high = ((ranks_RN > place).argmax(axis=1) for place in (np.ceil(total_R / 2) - 1, np.floor(total_R / 2)))
    middle = (x_N[order][low] + x_N[order][high]) / 2
    return np.where(total_R[:, 0] > 0, middle, math.nan)


def mean_absolute_error(weights: Weights, truth_N: FloatArray, predicted_N: FloatArray) -> FloatArray:
    return mean(weights, np.abs(predicted_N - truth_N))


def pearson(weights: Weights, x_N: FloatArray, y_N: FloatArray) -> FloatArray:
    """Pearson correlation; NaN where an input is constant."""
    moments = _moments(weights, x_N, y_N)
    return _clip_correlation(divide(moments.cov_xy, np.sqrt(moments.var_x * moments.var_y)))


def slope(weights: Weights, x_N: FloatArray, y_N: FloatArray) -> FloatArray:
    """Slope of the regression of y on x; NaN where x is constant."""
    moments = _moments(weights, x_N, y_N)
    return divide(moments.cov_xy, moments.var_x)


def spearman(weights: Weights, x_N: FloatArray, y_N: FloatArray) -> FloatArray:
    """Spearman correlation with mid-ranks, ranked within every resample; NaN where an input is constant."""
    weights_RN = weights.rows()
    rank_x_RN, rank_y_RN = _ranks(weights_RN, x_N), _ranks(weights_RN, y_N)
    total_R = weights_RN.sum(axis=1, keepdims=True)
    # the mean rank of a sample of size m is (m + 1) / 2, ties or not
    centred_x, centred_y = rank_x_RN - (total_R + 1) / 2, rank_y_RN - (total_R + 1) / 2
    cov_R = np.einsum("rn,rn,rn->r", weights_RN, centred_x, centred_y)
    var_x_R = np.einsum("rn,rn,rn->r", weights_RN, centred_x, centred_x)
    var_y_R = np.einsum("rn,rn,rn->r", weights_RN, centred_y, centred_y)
    return _clip_correlation(divide(cov_R, np.sqrt(var_x_R * var_y_R)))


def quadratic_weighted_kappa(weights: Weights, x_N: FloatArray, y_N: FloatArray) -> FloatArray:
    """Cohen's kappa with quadratic weights of two integer ratings; NaN where both are the same constant.

    With quadratic weights the expected disagreement under independence is var x + var y + (mean x - mean y)^2.
    """
    centre = float(x_N.mean()) if len(x_N) else 0.0
    x, y = x_N - centre, y_N - centre
    mean_x, mean_y, square_x, square_y, error = weights.means(x, y, x * x, y * y, (x - y) ** 2)
    expected_R = square_x + square_y - 2 * mean_x * mean_y
    expected_R = np.where(expected_R < 1e-12, 0.0, expected_R)
    return 1 - divide(error, expected_R)


class _Moments(NamedTuple):
    var_x: FloatArray
    var_y: FloatArray
    cov_xy: FloatArray


def _moments(weights: Weights, x_N: FloatArray, y_N: FloatArray) -> _Moments:
    x, y = _centre(x_N), _centre(y_N)
    mean_x, mean_y, square_x, square_y, product = weights.means(x, y, x * x, y * y, x * y)
    var_x, var_y = _positive(square_x - mean_x**2, x), _positive(square_y - mean_y**2, y)
    return _Moments(var_x, var_y, product - mean_x * mean_y)


def _centre(x_N: FloatArray) -> FloatArray:
    """Subtract the mean; a constant becomes exactly zero."""
    return x_N - x_N.mean() if len(x_N) and np.ptp(x_N) > 1e-12 * np.abs(x_N).max() else np.zeros_like(x_N)


def _positive(variance_R: FloatArray, centred_N: FloatArray) -> FloatArray:
    """Set what is only rounding error to zero."""
    scale = float((centred_N * centred_N).max()) if len(centred_N) else 0.0
    return np.where(variance_R <= 1e-12 * scale, 0.0, variance_R)


def _ranks(weights_RN: FloatArray, x_N: FloatArray) -> FloatArray:
    """Mid-rank of every observation in the sample where observation n stands weights[r, n] times."""
    values, inverse = np.unique(x_N, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    starts = np.searchsorted(inverse[order], np.arange(len(values)))
    tied_RG = np.add.reduceat(weights_RN[:, order], starts, axis=1)
    rank_RG = np.cumsum(tied_RG, axis=1) - tied_RG + (tied_RG + 1) / 2
    return rank_RG[:, inverse]


def divide(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide; NaN, without a warning, where the denominator is zero."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, math.nan), where=denominator != 0)


def _clip_correlation(r: FloatArray) -> FloatArray:
    return np.clip(r, -1.0, 1.0)
