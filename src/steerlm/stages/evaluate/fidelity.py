"""Steering fidelity: does each dial do what it says, and does it move what it should not?

The SteerLM paper reports neither. Input are sweeps: one dial is turned through its levels while the others stand
still, and a scorer says what came out. All estimates are clustered by prompt.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.results.dials import CategoryResult, CurvePoint, DialLeak, DialResult, Differences, Following, Leak, Misses
from steerlm.results.evaluation import ScorerResult, Unscored
from steerlm.statistics.estimates import (
    Estimate,
    FloatArray,
    Statistic,
    Weights,
    cluster_bootstrap,
    estimate_share,
    mean,
    mean_absolute_error,
    slope,
    spearman,
)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Sweeps:
    """Observations of one model, as columns of equal length N.

    Attributes:
        dial: name of the attribute that is swept.
        context: what the other dials stand at: see `sweeping.make_plan`.
        requested: the level asked for (the index of the category for a categorical dial).
        cluster: group of the prompt.
        series: observations of one sweep (same prompt, context, other dials and seed) share a number.
        seen: whether the whole setting asked for occurs among the training labels.
        obtained: per attribute (or text statistic) what a scorer measured; NaN where it gave nothing.
    """

    dial: NDArray[np.str_]
    context: NDArray[np.str_]
    requested: FloatArray
    cluster: NDArray[np.int64]
    series: NDArray[np.int64]
    seen: Mask
    obtained: Mapping[str, FloatArray]

    def of(self, dial: str, measured: str, context: str | None = None) -> Mask:
        """Rows of a dial's sweeps in which `measured` has a value."""
        mask = np.logical_and(self.dial == dial, np.isfinite(self.obtained[measured]))
        return np.asarray(mask if context is None else np.logical_and(mask, self.context == context))

    def estimate(self, statistic: Statistic, mask: Mask, *columns: FloatArray) -> Estimate:
        """Estimate a statistic of some rows, clustered by prompt."""
        return cluster_bootstrap(statistic, [c[mask] for c in columns], self.cluster[mask])

    def contexts(self) -> list[str]:
        """The contexts that occur, in a fixed order."""
        return [c for c in ("defaults", "extremes", "random", "alone") if (self.context == c).any()]


def fidelity_report(sweeps: Sweeps, schema: AttributeSchema, unscored: Unscored) -> ScorerResult:
    """Report on every dial that the scorer measures."""
    measured = [a for a in schema.ordinal if a.name in sweeps.obtained and np.isfinite(sweeps.obtained[a.name]).any()]
    swept = [a for a in schema.ordinal if (sweeps.dial == a.name).any()]
    leakage = {
        i.name: {
            j.name: sweeps.estimate(slope, sweeps.of(i.name, j.name), sweeps.requested, sweeps.obtained[j.name])
            for j in measured
        }
        for i in swept
    }
    largest = {name: _largest_off_target(name, row) for name, row in leakage.items()}
    leaks = [DialLeak(name, leak) for name, leak in largest.items() if leak is not None]
    return ScorerResult(
        dials={a.name: dial_report(sweeps, a, largest[a.name]) for a in swept if a in measured},
        leakage=leakage,
        responses={i.name: {j.name: response_curve(sweeps, i.name, j.name) for j in measured} for i in swept},
        largest_leak=max(leaks, key=lambda row: row.leak.estimate.value, default=None),
        quality_cost={i.name: _quality_cost(sweeps, i, measured) for i in swept},
        categorical={
            a.name: category_dial_report(sweeps, a)
            for a in schema
            if a.kind == "categorical" and a.name in sweeps.obtained and (sweeps.dial == a.name).any()
        },
        unscored=unscored,
    )


def dial_report(sweeps: Sweeps, attribute: Attribute, largest_leak: Leak | None = None) -> DialResult:
    """Report how one ordinal attribute follows its own dial."""
    name = attribute.name
    obtained = sweeps.obtained[name]
    rows = sweeps.of(name, name)
    order = [_series_order(sweeps, members, name) for members in _by_series(sweeps, rows)]
    per_series = np.array([(x, y) for x, y, _ in order if math.isfinite(x)]).reshape(-1, 2)
    clusters = [cluster for x, _, cluster in order if math.isfinite(x)]
    values = np.unique(obtained[rows])
    whole = rows & (sweeps.context != "alone")
    support = {"seen": whole & sweeps.seen, "unseen": whole & ~sweeps.seen}
    return DialResult(
        clusters=len(np.unique(sweeps.cluster[rows])),
        constant=float(values[0]) if len(values) == 1 else None,
        **vars(following(sweeps, attribute, rows)),
        spearman_per_prompt=cluster_bootstrap(mean, [per_series[:, 0]], clusters),
        monotonicity=cluster_bootstrap(mean, [per_series[:, 1]], clusters),
        contexts={
            context: following(sweeps, attribute, sweeps.of(name, name, context)) for context in sweeps.contexts()
        },
        support={k: misses(sweeps, attribute, mask) for k, mask in support.items()}
        if all(m.any() for m in support.values())
        else {},
        curve=response_curve(sweeps, name, name),
        largest_leak=largest_leak,
    )


def misses(sweeps: Sweeps, attribute: Attribute, rows: Mask) -> Misses:
    """Say how far off an ordinal attribute is in some rows of its own dial's sweeps."""
    obtained, requested = sweeps.obtained[attribute.name], sweeps.requested
    rounded = np.array([attribute.round(x) if math.isfinite(x) else math.nan for x in obtained])
    return Misses(
        n=int(rows.sum()),
        mae=sweeps.estimate(mean_absolute_error, rows, requested, obtained),
        exact=sweeps.estimate(mean, rows, (rounded == requested).astype(np.float64)),
    )


def following(sweeps: Sweeps, attribute: Attribute, rows: Mask) -> Following:
    """Say how an ordinal attribute follows in some rows of its own dial's sweeps."""
    obtained, requested = sweeps.obtained[attribute.name], sweeps.requested
    return Following(
        **vars(misses(sweeps, attribute, rows)),
        spearman=sweeps.estimate(spearman, rows, requested, obtained),
        slope=sweeps.estimate(slope, rows, requested, obtained),
    )


def response_curve(sweeps: Sweeps, dial: str, measured: str) -> list[CurvePoint]:
    """Return per level of `dial` the mean of `measured`."""
    rows = sweeps.of(dial, measured)
    return [
        CurvePoint(float(x), sweeps.estimate(mean, rows & (sweeps.requested == x), sweeps.obtained[measured]))
        for x in np.unique(sweeps.requested[rows])
    ]


def category_dial_report(sweeps: Sweeps, attribute: Attribute) -> CategoryResult:
    """Report how a categorical attribute follows its dial."""
    rows = sweeps.of(attribute.name, attribute.name)
    obtained = sweeps.obtained[attribute.name]

    def share(mask: Mask, hits: Mask) -> Estimate:
        return estimate_share(hits[mask].astype(np.float64), sweeps.cluster[mask])

    return CategoryResult(
        n=int(rows.sum()),
        accuracy=share(rows, obtained == sweeps.requested),
        confusion={
            asked: {
                got: share(rows & (sweeps.requested == i), obtained == j) for j, got in enumerate(attribute.categories)
            }
            for i, asked in enumerate(attribute.categories)
        },
    )


def effects(sweeps: Sweeps, schema: AttributeSchema) -> dict[str, dict[str, Estimate]]:
    """Return per ordinal dial and text statistic the change per level."""
    return {
        a.name: {
            name: sweeps.estimate(slope, sweeps.of(a.name, name), sweeps.requested, sweeps.obtained[name])
            for name in sweeps.obtained
        }
        for a in schema.ordinal
        if (sweeps.dial == a.name).any()
    }


def paired_comparison(
    before: Sweeps, after: Sweeps, attributes: Sequence[Attribute]
) -> tuple[Differences, dict[str, Differences]]:
    """Compare two models on the same sweeps (same prompts, settings and seeds), row by row.

    Returns:
        The mean of the differences over the attributes, and those of each; `at_best` where the best end is the highest.
        Rows that either model lacks are left out of both.
    """
    assert np.array_equal(before.series, after.series)
    assert np.array_equal(before.requested, after.requested)
    pair = _Pair(before, after, {a.name: before.of(a.name, a.name) & after.of(a.name, a.name) for a in attributes})

    def obtained_mean(weights: Weights, _: FloatArray, y: FloatArray) -> FloatArray:
        return mean(weights, y)

    def differences(names: Sequence[str]) -> Differences:
        best = [name for name in names if name in best_is_highest]
        return Differences(
            mae=pair.difference(names, mean_absolute_error),
            spearman=pair.difference(names, spearman),
            slope=pair.difference(names, slope),
            at_best=pair.difference(best, obtained_mean, top=True) if best else None,
        )

    names = [a.name for a in attributes if pair.rows[a.name].any()]
    best_is_highest = {a.name for a in attributes if a.best == "max"}
    return differences(names) if names else Differences(), {name: differences([name]) for name in names}


@dataclass(frozen=True)
class _Pair:
    """Two models' sweeps, and per attribute the rows of its own dial that both have measured."""

    before: Sweeps
    after: Sweeps
    rows: Mapping[str, Mask]

    def difference(self, names: Sequence[str], statistic: Statistic, top: bool = False) -> Estimate:
        """Estimate the mean over `names` of the statistic's difference, all resampled together.

        Args:
            statistic: of (weights, requested, obtained).
            top: use the rows with the highest level asked for only.
        """
        requested = self.before.requested
        blocks = []
        for name in names:
            rows = self.rows[name]
            blocks.append(np.flatnonzero(rows & (requested == requested[rows].max()) if top else rows))
        index = np.concatenate(blocks)
        edges = np.cumsum([0, *(len(block) for block in blocks)])
        obtained = [
            np.concatenate([sweeps.obtained[name][block] for name, block in zip(names, blocks, strict=True)])
            for sweeps in (self.before, self.after)
        ]

        def paired(weights: Weights, x: FloatArray, y: FloatArray, z: FloatArray) -> FloatArray:
            parts = []
            for i, j in itertools.pairwise(edges):
                part = weights.take(slice(i, j))
                parts.append(statistic(part, x[i:j], z[i:j]) - statistic(part, x[i:j], y[i:j]))
            return np.asarray(np.mean(parts, axis=0), dtype=np.float64)

        return cluster_bootstrap(paired, [requested[index], *obtained], self.before.cluster[index])


def _by_series(sweeps: Sweeps, rows: Mask) -> list[NDArray[np.int64]]:
    """Return the positions of each sweep's observations."""
    positions = np.flatnonzero(rows)
    positions = positions[np.argsort(sweeps.series[positions], kind="stable")]
    return np.split(positions, np.flatnonzero(np.diff(sweeps.series[positions])) + 1) if len(positions) else []


def _series_order(sweeps: Sweeps, rows: NDArray[np.int64], name: str) -> tuple[float, float, int]:
    """Spearman (0 without any change) and monotonicity of one sweep, and its cluster; NaN for a single level."""
    x, y = sweeps.requested[rows], sweeps.obtained[name][rows]
    cluster = int(sweeps.cluster[rows][0])
    if len(x) < 2:
        return math.nan, math.nan, cluster
    order = np.argsort(x)
    ahead = np.sign(np.subtract.outer(y[order], y[order]).T[np.triu_indices(len(x), 1)])
    rho = 0.0 if np.ptp(y) == 0 else float(stats.spearmanr(x, y).statistic)
    return rho, float((ahead + 1).mean() / 2), cluster


def _largest_off_target(dial: str, row: Mapping[str, Estimate]) -> Leak | None:
    """The attribute that a dial moves most against its will: absolute slope and its interval."""
    others = {name: estimate for name, estimate in row.items() if name != dial and math.isfinite(estimate.value)}
    if not others:
        return None
    name = max(others, key=lambda n: abs(others[n].value))
    return Leak(name, others[name].magnitude())


def _quality_cost(sweeps: Sweeps, dial: Attribute, measured: Sequence[Attribute]) -> dict[str, Estimate]:
    out = {}
    for quality in measured:
        if quality.best != "max" or quality == dial:
            continue
        rows = sweeps.of(dial.name, quality.name)
        if not rows.any():
            continue
        ends = sweeps.requested[rows].min(), sweeps.requested[rows].max()
        rows &= np.isin(sweeps.requested, ends)

        def change(weights: Weights, x: FloatArray, y: FloatArray, low: float = ends[0]) -> FloatArray:
            return mean(weights.take(x != low), y[x != low]) - mean(weights.take(x == low), y[x == low])

        out[quality.name] = sweeps.estimate(change, rows, sweeps.requested, sweeps.obtained[quality.name])
    return out
