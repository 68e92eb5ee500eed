"""Reports on an attribute model's predictions and on human labels: error, correlation, agreement, range."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.statistics.estimates import (
    Estimate,
    FloatArray,
    Statistic,
    Weights,
    cluster_bootstrap,
    divide,
    finite_or_none,
    mean,
    mean_absolute_error,
    pearson,
    quadratic_weighted_kappa,
    spearman,
)


def regression_report(
    truth: ArrayLike,
    predicted: ArrayLike,
    attribute: Attribute,
    clusters: Sequence[object],
    baseline: ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, object]:
    """Compare real-valued predictions of one ordinal attribute with human labels.

    Args:
        truth: N labels on the attribute's scale (means of several ratings allowed).
        predicted: N predictions, real-valued; clamped to the scale, as annotation does.
        baseline: the prediction to compare with, one or N: the training data's mean, or that of each label's source;
            None: the mean of `truth`.

    Returns:
        JSON-able: `n`, `clusters`, estimates `mae`, `pearson`, `spearman`, `quadratic_weighted_kappa` (on rounded
        levels), `mean_baseline_mae`, the share of that error that remains (`error_ratio`), and `calibration`: per
        rounded prediction its `mean_predicted`, `mean_truth` and `n`.
    """
    assert attribute.kind == "ordinal"
    t = np.asarray(truth, dtype=np.float64)
    p = np.clip(np.asarray(predicted, dtype=np.float64), attribute.minimum, attribute.maximum)
    levels_t = np.array([attribute.round(x) for x in t], dtype=np.float64)
    levels_p = np.array([attribute.round(x) for x in p], dtype=np.float64)
    of_mean = (t.mean() if len(t) else math.nan) if baseline is None else np.asarray(baseline, dtype=np.float64)
    constant = np.broadcast_to(of_mean, t.shape).astype(np.float64)

    def estimate(statistic: Statistic, *arrays: FloatArray) -> dict[str, object]:
        return cluster_bootstrap(statistic, arrays, clusters, seed).to_dict()

    def error_ratio(weights: Weights, t: FloatArray, p: FloatArray, constant: FloatArray) -> FloatArray:
        return divide(mean_absolute_error(weights, t, p), mean_absolute_error(weights, t, constant))

    return {
        "attribute": attribute.name,
        "n": len(t),
        "clusters": len(set(clusters)),
        "mae": estimate(mean_absolute_error, t, p),
        "mean_baseline_mae": estimate(mean_absolute_error, t, constant),
        "error_ratio": estimate(error_ratio, t, p, constant),
        "pearson": estimate(pearson, t, p),
        "spearman": estimate(spearman, t, p),
        "quadratic_weighted_kappa": estimate(quadratic_weighted_kappa, levels_t, levels_p),
        "mean_truth": finite_or_none(t.mean()) if len(t) else None,
        "mean_predicted": finite_or_none(p.mean()) if len(p) else None,
        "calibration": calibration(t, p, levels_p),
    }


def calibration(truth: FloatArray, predicted: FloatArray, bins: FloatArray) -> list[dict[str, object]]:
    """Mean truth per bin of the prediction: `bin`, `n`, `mean_predicted`, `mean_truth`; empty bins are left out."""
    return [
        {
            "bin": float(b),
            "n": int((bins == b).sum()),
            "mean_predicted": float(predicted[bins == b].mean()),
            "mean_truth": float(truth[bins == b].mean()),
        }
        for b in np.unique(bins)
    ]


def category_report(
    truth: Sequence[str], predicted: Sequence[str], attribute: Attribute, clusters: Sequence[object], seed: int = 0
) -> dict[str, object]:
    """Compare predictions of one categorical attribute with labels: accuracy beside always saying the commonest."""
    assert attribute.kind == "categorical"
    hits = np.array([t == p for t, p in zip(truth, predicted, strict=True)], dtype=np.float64)
    commonest = Counter(truth).most_common(1)[0][0] if truth else ""
    return {
        "attribute": attribute.name,
        "n": len(truth),
        "clusters": len(set(clusters)),
        "accuracy": cluster_bootstrap(mean, [hits], clusters, seed).to_dict(),
        "commonest_baseline_accuracy": cluster_bootstrap(
            mean, [np.array([t == commonest for t in truth], dtype=np.float64)], clusters, seed
        ).to_dict(),
        "confusion": {
            t: {p: sum(a == t and b == p for a, b in zip(truth, predicted, strict=True)) for p in attribute.categories}
            for t in attribute.categories
        },
    }


def fleiss_kappa(ratings: Sequence[Sequence[object]], clusters: Sequence[object] | None = None) -> Estimate:
    """Fleiss' kappa of several annotators' categorical verdicts or integer levels.

    Args:
        ratings: per item the annotators' values. Kappa needs the same number of annotators for every item:
            items with another number than the commonest (of at least two) are left out.
        clusters: group id per item; None: every item is its own.

    Returns:
        Kappa with its interval; `n` = items used.
    """
    sizes = Counter(len(row) for row in ratings if len(row) >= 2)
    if not sizes:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, "no item has two or more annotators")
    size = max(sizes, key=lambda s: (sizes[s], s))
    used = [i for i, row in enumerate(ratings) if len(row) == size]
    categories: dict[object, int] = {}
    codes = [[categories.setdefault(value, len(categories)) for value in ratings[i]] for i in used]
    table_NK = np.array([np.bincount(row, minlength=len(categories)) for row in codes], dtype=np.float64)
    groups: list[object] = [clusters[i] if clusters is not None else i for i in used]
    if len(categories) == 1:
        note = "undefined: all annotators gave the same value everywhere"
        return Estimate(math.nan, math.nan, math.nan, len(used), len(set(groups)), note)

    def statistic(weights: Weights, table_NK: FloatArray) -> FloatArray:
        agreement_N = ((table_NK**2).sum(axis=1) - size) / (size * (size - 1))
        totals_RK = weights.totals(*table_NK.T)
        share_RK = totals_RK / totals_RK.sum(axis=1, keepdims=True)
        chance_R = (share_RK**2).sum(axis=1)
        return divide(mean(weights, agreement_N) - chance_R, np.where(1 - chance_R < 1e-12, 0.0, 1 - chance_R))

    return cluster_bootstrap(statistic, [table_NK], groups)


def human_ceiling(
    ratings: Sequence[Sequence[float]], clusters: Sequence[object] | None = None, seed: int = 0
) -> dict[str, object]:
    """How well one annotator predicts the mean of the others: what an attribute model can be compared with.

    Args:
        ratings: per item the annotators' real-valued ratings of one attribute; items with one rating are left out.

    Returns:
        JSON-able: `items`, `n` (pairs of one rating and the mean of the rest), estimates `mae`, `pearson`, `spearman`.
    """
    one: list[float] = []
    others: list[float] = []
    groups: list[object] = []
    items = 0
    for i, row in enumerate(ratings):
        if len(row) < 2:
            continue
        items += 1
        for k, rating in enumerate(row):
            one.append(rating)
            others.append((math.fsum(row) - row[k]) / (len(row) - 1))
            groups.append(clusters[i] if clusters is not None else i)
    statistics: dict[str, Statistic] = {"mae": mean_absolute_error, "pearson": pearson, "spearman": spearman}
    return {
        "items": items,
        "n": len(one),
        **{name: cluster_bootstrap(s, [others, one], groups, seed).to_dict() for name, s in statistics.items()},
    }


class Twins(TypedDict):
    """Two attributes, their Pearson correlation, and over how many records that have both labels."""

    attributes: list[str]
    r: float
    n: int


def indistinguishable_pairs(values: Mapping[str, ArrayLike], threshold: float = 0.9) -> list[Twins]:
    """Pairs of attributes that the data cannot tell apart: |Pearson r| above `threshold`.

    Args:
        values: per attribute its labels over the same records, NaN where a record has none.

    Returns:
        The pairs, strongest first.
    """
    arrays = {name: np.asarray(x, dtype=np.float64) for name, x in values.items()}
    names = list(arrays)
    pairs: list[Twins] = []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = np.isfinite(arrays[a]) & np.isfinite(arrays[b])
            n = int(both.sum())
            whole = Weights(np.ones((1, 1)), np.zeros(n, dtype=np.int64))
            if n < 3:  # two points always lie on a line
                continue
            r = float(pearson(whole, arrays[a][both], arrays[b][both])[0])
            if abs(r) > threshold:
                pairs.append({"attributes": [a, b], "r": r, "n": n})
    return sorted(pairs, key=lambda pair: -abs(pair["r"]))


def low_range(values: Mapping[str, ArrayLike], schema: AttributeSchema) -> list[dict[str, object]]:
    """Ordinal attributes whose labels hardly vary, so that a dial cannot be learned from them.

    Flagged: a standard deviation below a tenth of the scale, or a mean within a tenth of an end.

    Args:
        values: per attribute its labels, NaN where a record has none; attributes without any label are left out.

    Returns:
        `{"attribute", "n", "mean", "std", "reason"}` per flagged attribute.
    """
    rows = []
    for attribute in schema.ordinal:
        x = np.asarray(values.get(attribute.name, ()), dtype=np.float64)
        x = x[np.isfinite(x)]
        if not len(x):
            continue
        centre, spread = attribute.to_unit(float(x.mean())), float(x.std()) / (attribute.maximum - attribute.minimum)
        if spread < 0.1:
            reason = "the labels hardly vary"
        elif min(centre, 1 - centre) < 0.1:
            reason = f"nearly all labels lie at the {'lower' if centre < 0.5 else 'upper'} end"
        else:
            continue
        rows.append(
            {"attribute": attribute.name, "n": len(x), "mean": float(x.mean()), "std": float(x.std()), "reason": reason}
        )
    return rows
