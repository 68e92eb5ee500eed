"""Agreement against statsmodels, the library krippendorff, scikit-learn and the published figure of PandaLM."""

from __future__ import annotations

import json
import math
from pathlib import Path

import krippendorff
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from steerlm.statistics.agreement import agreement, agreement_with_others, krippendorff_alpha, leniency, pairwise


def test_pandalm(shared_data: Path) -> None:
    """Fleiss' kappa of PandaLM's three annotators: 0.864."""
    rows = json.loads((shared_data / "pandalm" / "testset-v1.json").read_text(encoding="utf-8"))
    codes = np.array([[row[f"annotator{k}"] for k in (1, 2, 3)] for row in rows])
    assert set(np.unique(codes)) == {0, 1, 2}
    votes = {i: {f"annotator{k}": int(code) for k, code in enumerate(row)} for i, row in enumerate(codes)}
    found = agreement(votes, 3, "nominal", [str(row["idx"]) for row in rows])
    kappa, alpha = found["fleiss_kappa"], found["krippendorff_alpha"]
    assert round(kappa["value"], 3) == 0.864
    table, _ = inter_rater.aggregate_raters(codes)
    assert kappa["value"] == pytest.approx(inter_rater.fleiss_kappa(table), abs=1e-12)
    assert alpha["value"] == pytest.approx(krippendorff.alpha(codes.T, level_of_measurement="nominal"), abs=1e-12)
    for estimate in (kappa, alpha):
        assert estimate["n"] == estimate["clusters"] == 999
        assert 0.82 < estimate["low"] < 0.864 < estimate["high"] < 0.90


@pytest.mark.parametrize("scale", ["nominal", "ordinal"])
def test_alpha_with_missing_ratings_equals_the_library(scale: str) -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 5, (40, 4)).astype(float)
    levels[:, 1] = np.where(rng.random(40) < 0.7, levels[:, 0], levels[:, 1])
    levels[rng.random((40, 4)) < 0.4] = np.nan
    rows = [[int(x) for x in row if not math.isnan(x)] for row in levels]
    found = krippendorff_alpha(rows, 5, scale, range(40))  # type: ignore[arg-type]
    assert found.value == pytest.approx(krippendorff.alpha(levels.T, level_of_measurement=scale), abs=1e-12)
    assert found.low < found.value < found.high
    assert found.n == sum(len(row) >= 2 for row in rows)


def test_ordinal_and_nominal_alpha_differ_where_levels_are_close() -> None:
    rows = [[0, 1], [1, 2], [3, 4], [4, 4], [0, 0], [2, 3]]
    near = krippendorff_alpha(rows, 5, "ordinal", range(6))
    far = krippendorff_alpha(rows, 5, "nominal", range(6))
    assert near.value > 0.8 > 0.4 > far.value


def test_the_interval_covers_the_truth() -> None:
    """Two annotators who agree with probability 0.8 on a balanced choice of two: alpha is 0.6 in the limit."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(30):
        truth = rng.integers(0, 2, 60)
        other = np.where(rng.random(60) < 0.8, truth, 1 - truth)
        found = krippendorff_alpha(np.column_stack([truth, other]).tolist(), 2, "nominal", range(60))
        covered += found.low <= 0.6 <= found.high
    assert covered >= 26


def test_items_of_one_prompt_are_drawn_together() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 20)
    other = np.where(rng.random(20) < 0.6, truth, rng.integers(0, 3, 20))
    rows = np.column_stack([truth, other]).tolist()
    single = krippendorff_alpha(rows, 3, "nominal", range(20))
    tripled = krippendorff_alpha(rows * 3, 3, "nominal", [*range(20)] * 3)
    apart = krippendorff_alpha(rows * 3, 3, "nominal", range(60))
    assert tripled.clusters == 20
    assert apart.high - apart.low < 0.75 * (tripled.high - tripled.low)
    assert tripled.high - tripled.low == pytest.approx(single.high - single.low, rel=0.1)


@pytest.mark.parametrize(
    ("rows", "note"),
    [
        ([[1], [2], []], "no item has two or more annotators"),
        ([[1, 1], [1, 1], [0]], "all annotators gave the same value"),
        ([[0, 1], [1, 1], [2, 2]], "no interval: 3 clusters, at least 5 are needed"),
    ],
)
def test_too_little_for_an_interval_says_so(rows: list[list[int]], note: str) -> None:
    found = krippendorff_alpha(rows, 3, "nominal", range(len(rows)))
    assert note in found.note
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_two_annotators_against_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 5, (2, 30))
    votes = {i: {"ana": int(a[i]), "ben": int(b[i])} for i in range(30)} | {30: {"ana": 1}, 31: {"eve": 1}}
    [row] = pairwise(votes, ["ana", "ben", "eve"], "ordinal", [str(i) for i in range(32)])
    assert row["annotators"] == ["ana", "ben"]
    assert row["agreement"]["value"] == pytest.approx((a == b).mean())
    assert row["agreement"]["n"] == 30
    expected = cohen_kappa_score(a, b, weights="quadratic")
    assert row["quadratic_weighted_kappa"]["value"] == pytest.approx(expected)
    [nominal] = pairwise(votes, ["ana", "ben", "eve"], "nominal", [str(i) for i in range(32)])
    assert "quadratic_weighted_kappa" not in nominal


def test_each_annotator_against_the_others() -> None:
    votes = {i: {"mild": 3, "strict": 1, "middle": 2 if i else 3} for i in range(10)} | {10: {"mild": 0}}
    clusters = [str(i) for i in range(11)]
    mild, strict = leniency(votes, "mild", clusters), leniency(votes, "strict", clusters)
    assert mild.value == pytest.approx((9 * 1.5 + 1.0) / 10)
    assert strict.value == pytest.approx((9 * -1.5 - 2.0) / 10)
    assert mild.n == 10
    others = agreement_with_others(votes, "mild", clusters)
    assert (others.value, others.n, others.clusters) == (pytest.approx(1 / 20), 20, 10)
