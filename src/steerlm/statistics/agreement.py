"""How far people agree: Krippendorff's alpha, agreement of every two annotators, and each one against the others.

All of it starts from votes: item -> annotator -> code, where a code is a verdict or the index of a level.
Intervals come from prompts drawn anew.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from steerlm.errors import needs_extra
from steerlm.statistics.estimates import (
    Estimate,
    FloatArray,
    Weights,
    cluster_bootstrap,
    estimate_share,
    mean,
    quadratic_weighted_kappa,
)
from steerlm.statistics.metrics import fleiss_kappa

Votes = Mapping[int, Mapping[str, int]]
"""Item -> annotator -> code (0, 1, ...)."""

Scale = Literal["nominal", "ordinal"]


def agreement(votes: Votes, num_codes: int, scale: Scale, clusters: Sequence[str]) -> dict[str, object]:
    """Return Fleiss' kappa and Krippendorff's alpha.

    Args:
        votes: of any number of annotators per item.
        scale: whether the codes are ordered (alpha only; kappa is nominal).
    """
    rows = {item: list(of_item.values()) for item, of_item in votes.items()}
    groups = [clusters[item] for item in rows]
    return {
        "fleiss_kappa": fleiss_kappa(list(rows.values()), groups).to_dict(),
        "krippendorff_alpha": krippendorff_alpha(list(rows.values()), num_codes, scale, groups).to_dict(),
    }


def krippendorff_alpha(
    ratings: Sequence[Sequence[int]], num_codes: int, scale: Scale, clusters: Sequence[object]
) -> Estimate:
    """Krippendorff's alpha of several annotators; items may have different numbers of them.

    Args:
        ratings: per item the annotators' codes, 0..num_codes - 1; items with fewer than two are left out.
        scale: nominal (verdicts, categories) or ordinal (levels).

    Returns:
        The value of the library `krippendorff` with an interval from clusters drawn anew; `n` = items used.
    """
    used = [i for i, row in enumerate(ratings) if len(row) >= 2]
    if not used:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, "no item has two or more annotators")
    table_NK = np.array([np.bincount(ratings[i], minlength=num_codes) for i in used], dtype=np.float64)
    groups = [clusters[i] for i in used]
    if np.count_nonzero(table_NK.any(axis=0)) < 2:
        note = "undefined: all annotators gave the same value everywhere"
        return Estimate(math.nan, math.nan, math.nan, len(used), len(set(groups)), note)
    with needs_extra("rate", "Krippendorff's alpha"):
        import krippendorff

    def statistic(weights: Weights, table_NK: FloatArray) -> FloatArray:
        values = []
        for weights_N in weights.rows():
            drawn_MK = np.repeat(table_NK, weights_N.astype(np.int64), axis=0)
            constant = np.count_nonzero(drawn_MK.any(axis=0)) < 2
            values.append(
                math.nan if constant else krippendorff.alpha(value_counts=drawn_MK, level_of_measurement=scale)
            )
        return np.array(values)

    return cluster_bootstrap(statistic, [table_NK], groups)


def pairwise(votes: Votes, names: Sequence[str], scale: Scale, clusters: Sequence[str]) -> list[dict[str, object]]:
    """Return, for every two annotators, how often they agree on the items that both answered.

    Returns:
        Per pair `annotators`, `agreement` (share of equal codes) and, where the codes are ordered,
        `quadratic_weighted_kappa`; pairs without a common item are left out.
    """
    rows = []
    for a, b in itertools.combinations(names, 2):
        common = [item for item, of_item in votes.items() if a in of_item and b in of_item]
        if not common:
            continue
        codes_a, codes_b = ([float(votes[item][name]) for item in common] for name in (a, b))
        groups = [clusters[item] for item in common]
        row: dict[str, object] = {
            "annotators": [a, b],
            "agreement": estimate_share([x == y for x, y in zip(codes_a, codes_b, strict=True)], groups).to_dict(),
        }
        if scale == "ordinal":
            kappa = cluster_bootstrap(quadratic_weighted_kappa, [codes_a, codes_b], groups)
            row["quadratic_weighted_kappa"] = kappa.to_dict()
        rows.append(row)
    return rows


def agreement_with_others(votes: Votes, name: str, clusters: Sequence[str]) -> Estimate:
    """Share of an annotator's answers that equal another annotator's to the same item, over all such pairs."""
    hits = [
        (code == of_item[name], clusters[item])
        for item, of_item in votes.items()
        if name in of_item
        for other, code in of_item.items()
        if other != name
    ]
    return estimate_share([hit for hit, _ in hits], [group for _, group in hits])


def leniency(votes: Votes, name: str, clusters: Sequence[str]) -> Estimate:
    """How many levels higher an annotator rates than the mean of the others on the same items."""
    differences, groups = [], []
    for item, of_item in votes.items():
        others = [code for other, code in of_item.items() if other != name]
        if name in of_item and others:
            differences.append(of_item[name] - math.fsum(others) / len(others))
            groups.append(clusters[item])
    return cluster_bootstrap(mean, [differences], groups)
