"""SteerBench's geometry: against values computed by hand, and against those the original implementation gave."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlm.statistics.estimates import Weights, median
from steerlm.statistics.steerability import (
    Movements,
    bins_of,
    explained,
    linear_response,
    movements,
    requested_bins,
    steering_figures,
    summarise,
)

NAN = math.nan


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Any:
    path = shared_data / "steerbench" / "golden.json"
    if not path.is_file():
        pytest.skip("no steerbench/golden.json in the shared data")
    return json.loads(path.read_text(encoding="utf-8"))


def row(values: list[float | None]) -> Any:
    return np.array([[NAN if v is None else v for v in values]])


def test_bins_of_the_original() -> None:
    source = np.array([0.5])
    # edges around 0.5: 0, 0, .3, .4, .6, .7, 1, 1
    assert [int(bins_of(source, np.array([v]))[0]) for v in (0.0, 0.29, 0.3, 0.4, 0.5, 0.6, 0.7, 0.999)] == [
        1, 1, 2, 3, 3, 4, 5, 5,
    ]  # fmt: skip
    assert int(bins_of(np.array([1.0]), np.array([1.0]))[0]) == 7, "a value of 1 counts as moved, even from 1"
    assert requested_bins(np.array([0.1, 0.2, 0.5, 0.7, -0.1, -0.11, -0.5, -0.51, NAN])).tolist() == [
        1, 2, 3, 3, 0, -1, -2, -3, 0,
    ]  # fmt: skip


def test_a_perfect_and_an_idle_answer() -> None:
    source, delta = row([0.4, 0.3, 0.5, 0.6]), row([0.3, 0.2, None, -0.3])
    exact = steering_figures(movements(source, delta, row([0.7, 0.5, 0.5, 0.3])))
    assert [float(x[0]) for x in exact] == [0, 0, 0]
    idle = steering_figures(movements(source, delta, source))
    # asked for: 2, 2 and -2 bins of seven
    assert idle.steering_error[0] == pytest.approx(math.sqrt(12) / 7)
    assert idle.miscalibration[0] == pytest.approx(1, abs=1e-6)
    assert idle.side_effects[0] == pytest.approx(0, abs=1e-3)


def test_error_splits_into_along_and_across() -> None:
    along = steering_figures(Movements(row([0.4, 0.0]), row([0.2, 0.0]), row([0.2, 0.0])))
    assert [float(x[0]) for x in along] == pytest.approx([0.2, 0.5, 0], abs=1e-6)
    across = steering_figures(Movements(row([0.4, 0.0]), row([0.4, 0.3]), row([0.0, 0.3])))
    # the movement is 0.5 long, 0.3 of it unasked
    assert [float(x[0]) for x in across] == pytest.approx([0.3, 0, 0.6], abs=1e-3)


def test_a_linear_model_is_found_again_and_predicts_the_gap_of_mixed_requests() -> None:
    matrix = np.array([[1.0, 0.35], [0.4, 1.0]])
    requested = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    found = linear_response(requested, requested @ matrix)
    assert found.matrix == pytest.approx(matrix)
    assert found.r2 == pytest.approx(1)
    asked = np.array([[0.5, 0.5], [0.5, -0.5]])
    moved = asked @ matrix
    figures = steering_figures(Movements(asked, moved, asked - moved))
    # by hand: |r M r'/r r' - 1| = .375 both ways up, .375 short where they part
    assert figures.miscalibration == pytest.approx([0.375, 0.375], abs=1e-6)
    assert explained(moved, asked) < 1


def test_medians_of_resamples_are_those_of_the_expanded_sample() -> None:
    rng = np.random.default_rng(0)
    x, clusters = rng.normal(size=23).round(1), rng.integers(6, size=23)
    counts = rng.integers(0, 4, size=(20, 6)).astype(np.float64)
    found = median(Weights(counts, clusters), x)
    for value, weights in zip(found, counts, strict=True):
        expanded = np.repeat(x, weights[clusters].astype(int))
        assert value == pytest.approx(np.median(expanded))


def test_summary_has_median_range_and_interval() -> None:
    errors = np.repeat(np.arange(8.0), 4)
    found = summarise(steering_figures(Movements(*(np.zeros((32, 1)),) * 2, errors[:, None])), np.repeat(range(8), 4))
    assert found.rows == 32
    assert found.steering_error.median.value == 3.5
    assert found.steering_error.iqr == pytest.approx(np.subtract(*np.percentile(errors, [75, 25])))
    assert found.steering_error.mean.low < 3.5 < found.steering_error.mean.high
    assert found.steering_error.mean.clusters == 8


def test_golden_triples(golden: Any) -> None:
    assert len(golden["triples"]) == 222
    for case in golden["triples"]:
        source, target, reached, delta = (row(case[key]) for key in ("z0", "zstar", "zhat", "delta_used"))
        binned, raw = (movements(source, delta, reached, cuts, target) for cuts in (True, False))
        for name, vector in zip(("requested_bins", "moved_bins", "error_bins"), binned, strict=True):
            assert np.rint(vector[0] * 7).tolist() == case["bins"][name], case["name"]
        expected = case["metrics"]
        found = {
            **dict(zip(("steering_error", "miscalibration", "orthogonality"), steering_figures(binned), strict=True)),
            "mixed_orthogonality": steering_figures(binned._replace(requested=raw.requested)).side_effects,
        }
        if not np.isnan(reached).any():  # the original gives an undefined value some figure or other
            names = ("raw_steering_error", "raw_miscalibration", "raw_orthogonality")
            found |= dict(zip(names, steering_figures(raw), strict=True))
        for name, value in found.items():
            if expected[name] is not None:
                assert value[0] == pytest.approx(expected[name], abs=1e-9), (case["name"], name)


def test_golden_aggregates(golden: Any) -> None:
    rows = [case for case in golden["triples"] if case["name"].startswith("random_")]
    columns = [np.concatenate([row(case[key]) for case in rows]) for key in ("z0", "delta_used", "zhat", "zstar")]
    figures = steering_figures(movements(*columns[:3], target=columns[3]))
    for name in ("all_random", "correlated_rd_formality", "anticorrelated_rd_formality"):
        expected = golden["aggregates"][name]
        chosen = np.array(expected.get("rows", range(len(rows))))
        if "rows" in expected:
            together = columns[1][:, 0] * columns[1][:, 3]
            of_sign = together > 0 if name.startswith("correlated") else together < 0
            assert np.flatnonzero(of_sign).tolist() == expected["rows"]
        summary = summarise(type(figures)(*(x[chosen] for x in figures)), chosen)
        for key, figure in (
            ("steering_error", summary.steering_error),
            ("miscalibration", summary.miscalibration),
            ("orthogonality", summary.side_effects),
        ):
            found = (figure.mean.value, figure.median.value, figure.iqr)
            assert found == pytest.approx([expected[key][k] for k in ("mean", "median", "iqr")], abs=1e-9)
