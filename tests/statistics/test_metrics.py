"""Every statistic against scipy, scikit-learn, statsmodels or a value computed by hand."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score, mean_absolute_error

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.statistics import estimates, metrics
from steerlm.statistics.estimates import Estimate, Weights, cluster_bootstrap

QUALITY = Attribute("quality", best="max")


@pytest.fixture
def sample() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integer weights (3 resamples), a tied x and a noisy y."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 5, size=60).astype(float)
    y = np.round(x + rng.normal(size=60), 1)
    return rng.integers(0, 4, size=(3, 60)).astype(float), x, y


def expand(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.repeat(values, weights.astype(int))


def test_weighted_statistics_equal_the_libraries_on_the_expanded_sample(sample):
    counts, x, y = sample
    weights = Weights(counts, np.arange(60))
    levels = np.clip(np.round(y), 0, 4)
    results = {
        "mean": estimates.mean(weights, y),
        "mae": estimates.mean_absolute_error(weights, x, y),
        "pearson": estimates.pearson(weights, x, y),
        "spearman": estimates.spearman(weights, x, y),
        "slope": estimates.slope(weights, x, y),
        "kappa": estimates.quadratic_weighted_kappa(weights, x, levels),
    }
    for r, w in enumerate(counts):
        ex, ey, el = expand(w, x), expand(w, y), expand(w, levels)
        wanted = {
            "mean": np.mean(ey),
            "mae": mean_absolute_error(ex, ey),
            "pearson": stats.pearsonr(ex, ey).statistic,
            "spearman": stats.spearmanr(ex, ey).statistic,
            "slope": stats.linregress(ex, ey).slope,
            "kappa": cohen_kappa_score(ex.astype(int), el.astype(int), weights="quadratic", labels=range(5)),
        }
        for name, value in wanted.items():
            assert results[name][r] == pytest.approx(value, abs=1e-12), name


def test_weights_of_clusters_equal_those_of_their_observations(sample):
    """Five clusters drawn 0 to 3 times: the same as repeating every observation of theirs."""
    counts, x, y = sample
    clusters = np.arange(60) % 5
    by_cluster = Weights(counts[:, :5], clusters)
    by_row = Weights(counts[:, :5][:, clusters], np.arange(60))
    for statistic in (estimates.pearson, estimates.spearman, estimates.slope, estimates.mean_absolute_error):
        assert statistic(by_cluster, x, y) == pytest.approx(statistic(by_row, x, y), abs=1e-12)
    some = x > 2
    assert estimates.mean(by_cluster.take(some), y[some]) == pytest.approx(estimates.mean(by_row.take(some), y[some]))


def test_kappa_counts_levels_that_do_not_occur():
    """scikit-learn without `labels` would treat 0 and 4 as neighbours."""
    truth, predicted = np.array([0.0, 0, 4, 4, 1]), np.array([0.0, 4, 4, 4, 0])
    wanted = cohen_kappa_score(truth.astype(int), predicted.astype(int), weights="quadratic", labels=range(5))
    assert estimates.quadratic_weighted_kappa(Weights(np.ones((1, 5)), np.arange(5)), truth, predicted)[
        0
    ] == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e9])
def test_constant_input_is_undefined_without_a_warning(constant):
    x = np.full(20, constant)
    y = np.arange(20.0)
    for statistic in (estimates.pearson, estimates.spearman, estimates.slope):
        estimate = cluster_bootstrap(statistic, [x, y], list(range(20)))
        assert math.isnan(estimate.value)
        assert estimate.to_dict() == {
            "value": None, "low": None, "high": None, "n": 20, "clusters": 20, "note": "undefined: a constant input",
        }  # fmt: skip
    assert math.isnan(cluster_bootstrap(estimates.quadratic_weighted_kappa, [x, x], list(range(20))).value)
    assert cluster_bootstrap(estimates.mean_absolute_error, [x, x], list(range(20)))[:3] == (0.0, 0.0, 0.0)


def test_no_data_and_too_few_clusters_give_no_interval_and_say_so():
    assert cluster_bootstrap(estimates.mean, [[]], []).note == "no data"
    estimate = cluster_bootstrap(estimates.mean, [[1.0, 2.0, 3.0]], ["a", "b", "b"])
    assert estimate.value == 2.0
    assert estimate.to_dict()["low"] is None
    assert "2 clusters" in estimate.note
    json.dumps(estimate.to_dict(), allow_nan=False)


def test_bootstrap_is_a_function_of_the_seed_and_draws_whole_clusters():
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=12), 5)  # five identical observations per cluster
    clusters = np.repeat(np.arange(12), 5)
    first = cluster_bootstrap(estimates.mean, [x], clusters, seed=3)
    assert first == cluster_bootstrap(estimates.mean, [x], clusters, seed=3)
    assert first != cluster_bootstrap(estimates.mean, [x], clusters, seed=4)
    assert first.clusters == 12
    assert first.n == 60
    # repeating every observation adds no information: the interval is that of the 12 values alone
    once = cluster_bootstrap(estimates.mean, [x[::5]], clusters[::5], seed=3)
    assert (first.low, first.high) == pytest.approx((once.low, once.high))
    rows = cluster_bootstrap(estimates.mean, [x], np.arange(60), seed=3)
    assert rows.high - rows.low < 0.7 * (first.high - first.low)


def test_bootstrap_interval_equals_scipys():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=80), rng.normal(size=80)
    y += x
    ours = cluster_bootstrap(estimates.pearson, [x, y], range(80), resamples=4000)
    theirs = stats.bootstrap(
        (x, y), lambda a, b: stats.pearsonr(a, b).statistic, paired=True, vectorized=False, n_resamples=4000,
        method="percentile", rng=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("num_clusters", [8, 40])
def test_interval_covers_the_truth_of_simulated_clustered_data(num_clusters):
    """Clusters of 5 with intra-cluster correlation 0.5: close to 95 % coverage; ignoring clusters, far below."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(num_clusters), 5)
    n = len(clusters)
    covered = covered_naively = 0
    for trial in range(400):
        x = rng.normal(size=num_clusters)[clusters] + rng.normal(size=n)
        low, high = cluster_bootstrap(estimates.mean, [x], clusters, seed=trial)[1:3]
        covered += low <= 0 <= high
        low, high = cluster_bootstrap(estimates.mean, [x], np.arange(n), seed=trial)[1:3]
        covered_naively += low <= 0 <= high
    assert 0.92 <= covered / 400 <= 0.98
    assert covered_naively / 400 < 0.87


def test_share_of_none_is_not_claimed_with_certainty():
    estimate = estimates.estimate_share([False] * 60, np.repeat(np.arange(20), 3))
    assert estimate.value == 0
    assert estimate.low == 0
    assert estimate.high == pytest.approx(1 - 0.025 ** (1 / 20))  # Clopper-Pearson of 0 out of 20
    some = estimates.estimate_share([True, False] * 30, np.arange(60))
    assert some == cluster_bootstrap(estimates.mean, [[1.0, 0.0] * 30], np.arange(60))


def test_regression_report_against_the_libraries():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 9, size=120) / 2
    predicted = np.clip(truth + rng.normal(scale=0.8, size=120), 0, 4)
    clusters = [f"p{i // 3}" for i in range(120)]
    report = metrics.regression_report(truth, predicted, QUALITY, clusters)
    assert report["n"] == 120
    assert report["clusters"] == 40
    assert report["mae"]["value"] == pytest.approx(mean_absolute_error(truth, predicted))
    assert report["mae"]["low"] < report["mae"]["value"] < report["mae"]["high"]
    assert report["pearson"]["value"] == pytest.approx(stats.pearsonr(truth, predicted).statistic)
    assert report["spearman"]["value"] == pytest.approx(stats.spearmanr(truth, predicted).statistic)
    levels = np.floor(truth + 0.5).astype(int), np.floor(predicted + 0.5).astype(int)
    wanted = cohen_kappa_score(*levels, weights="quadratic", labels=range(5))
    assert report["quadratic_weighted_kappa"]["value"] == pytest.approx(wanted)
    baseline = np.mean(np.abs(truth - truth.mean()))
    assert report["mean_baseline_mae"]["value"] == pytest.approx(baseline)
    assert report["error_ratio"]["value"] == pytest.approx(report["mae"]["value"] / baseline)
    assert sum(row["n"] for row in report["calibration"]) == 120
    for row in report["calibration"]:
        inside = np.floor(predicted + 0.5) == row["bin"]
        assert row["mean_truth"] == pytest.approx(truth[inside].mean())
        assert row["mean_predicted"] == pytest.approx(predicted[inside].mean())
    json.dumps(report, allow_nan=False)


def test_regression_report_with_a_given_baseline_and_predictions_off_the_scale():
    report = metrics.regression_report([0, 4, 2], [-3, 9, 2], QUALITY, [1, 2, 3], baseline=1.0)
    assert report["mae"]["value"] == 0.0
    assert report["mean_baseline_mae"]["value"] == pytest.approx(5 / 3)


def test_regression_report_of_constant_and_of_no_data():
    constant = metrics.regression_report([2.0] * 8, [2.0] * 8, QUALITY, range(8))
    assert constant["mae"]["value"] == 0.0
    assert constant["spearman"]["value"] is None
    assert constant["spearman"]["note"]
    empty = metrics.regression_report([], [], QUALITY, [])
    assert empty["n"] == 0
    assert empty["mae"]["note"] == "no data"
    json.dumps([constant, empty], allow_nan=False)


def test_category_report():
    lang = Attribute("lang", kind="categorical", categories=("en", "de"))
    report = metrics.category_report(["en", "en", "de", "en"], ["en", "de", "de", "en"], lang, range(4))
    assert report["accuracy"]["value"] == 0.75
    assert report["commonest_baseline_accuracy"]["value"] == 0.75
    assert report["confusion"] == {"en": {"en": 2, "de": 1}, "de": {"en": 0, "de": 1}}


def test_fleiss_kappa_of_fleiss_1971():
    """The worked example of the method's Wikipedia article: 10 subjects, 14 raters, 5 categories, kappa 0.210."""
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    ratings = [[level for level, count in enumerate(row) for _ in range(count)] for row in table]
    estimate = metrics.fleiss_kappa(ratings)
    assert estimate.value == pytest.approx(0.2099, abs=1e-4)
    assert estimate.low < estimate.value < estimate.high
    assert estimate.n == 10
    # items with another number of raters cannot enter
    assert metrics.fleiss_kappa([*ratings, [1, 2], [3]]) == estimate


def test_fleiss_kappa_without_agreement_to_measure():
    assert "no item" in metrics.fleiss_kappa([[1], [2]]).note
    assert "same value" in metrics.fleiss_kappa([[1, 1], [1, 1]]).note


def test_fleiss_kappa_of_pandalm(shared_data: Path):
    rows = json.loads((shared_data / "pandalm" / "testset-v1.json").read_text(encoding="utf-8"))
    keys = sorted(key for key in rows[0] if re.fullmatch(r"annotator\d", key))
    assert len(keys) == 3
    assert metrics.fleiss_kappa([[row[key] for key in keys] for row in rows]).value == pytest.approx(0.864, abs=5e-4)


def test_human_ceiling_by_hand():
    ceiling = metrics.human_ceiling([[0, 2], [1, 1, 4], [3]])
    # pairs (mean of the others, one): (2,0) (0,2) (2.5,1) (2.5,1) (1,4)
    assert ceiling["items"] == 2
    assert ceiling["n"] == 5
    assert ceiling["mae"]["value"] == pytest.approx((2 + 2 + 1.5 + 1.5 + 3) / 5)
    wanted = stats.pearsonr([2, 0, 2.5, 2.5, 1], [0, 2, 1, 1, 4]).statistic
    assert ceiling["pearson"]["value"] == pytest.approx(wanted)
    assert metrics.human_ceiling([[1], [2]])["n"] == 0


def test_indistinguishable_pairs():
    rng = np.random.default_rng(0)
    a = rng.normal(size=200)
    b = 2 * a + rng.normal(scale=0.1, size=200)
    b[:50] = math.nan
    rows = metrics.indistinguishable_pairs({"a": a, "b": b, "c": rng.normal(size=200), "d": np.zeros(200)})
    assert len(rows) == 1
    assert rows[0]["attributes"] == ["a", "b"]
    assert rows[0]["n"] == 150
    assert rows[0]["r"] == pytest.approx(stats.pearsonr(a[50:], b[50:]).statistic)


def test_low_range_flags_constant_and_one_sided_labels():
    schema = AttributeSchema.preset("helpsteer")
    rng = np.random.default_rng(0)
    values = {
        "helpfulness": rng.integers(0, 5, size=100),
        "correctness": np.full(100, 2.0),
        "coherence": rng.choice([3, 4], size=100, p=[0.3, 0.7]),  # like HelpSteer2's
        "verbosity": np.array([math.nan, 0, 4, 2]),
    }
    rows = {row["attribute"]: row for row in metrics.low_range(values, schema)}
    assert set(rows) == {"correctness", "coherence"}
    assert "upper end" in rows["coherence"]["reason"]
    assert rows["correctness"]["std"] == 0.0


def test_estimate_is_a_tuple_of_numbers():
    assert Estimate(1.0, 0.5, 1.5, 10, 5).to_dict() == {"value": 1.0, "low": 0.5, "high": 1.5, "n": 10, "clusters": 5}
