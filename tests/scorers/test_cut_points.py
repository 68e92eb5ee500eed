"""Where predictions are cut into levels."""

from __future__ import annotations

import numpy as np
import pytest

from steerlm.attributes import Attribute
from steerlm.scorers.cut_points import fit_cut_points, halves, level_of, place_of

HUMOR = Attribute("humor")


def levels(predictions: np.ndarray, cuts: tuple[float, ...]) -> np.ndarray:
    return np.array([level_of(HUMOR, p, cuts) for p in predictions])


def test_halves_are_ordinary_rounding() -> None:
    stars = Attribute("stars", minimum=1, maximum=5)
    assert halves(stars) == (1.5, 2.5, 3.5, 4.5)
    for prediction in (-7.0, 0.9, 1.4999, 1.5, 2.5, 3.2, 4.5, 11.0):
        assert level_of(stars, prediction, halves(stars)) == stars.round(prediction)


def test_clipped_ratings_no_longer_bias_the_ends() -> None:
    """A perfect predictor of the mean rating, rounded at the halves, misses the lowest level; cut, it does not."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 4000)
    ratings = np.clip(np.round(truth + rng.normal(0.3, 1.0, 4000)), 0, 4)
    means = np.array([ratings[truth == level].mean() for level in range(5)])
    assert means[0] > 0.5
    predictions = means[truth] + rng.normal(0, 0.05, 4000)
    cuts = fit_cut_points(HUMOR, ratings, predictions)
    assert (levels(predictions, halves(HUMOR)) != truth).mean() > 0.1
    assert (levels(predictions, cuts) != truth).mean() < 0.02


@pytest.mark.parametrize("seed", range(4))
def test_no_cuts_between_their_levels_are_better(seed: int) -> None:
    """Against an exhaustive search over a grid, one cut at a time."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 300).astype(float)
    predictions = np.round(labels * 0.7 + 0.8 + rng.normal(0, 0.6, 300), 3)
    cuts = fit_cut_points(HUMOR, labels, predictions)

    def error(of: tuple[float, ...]) -> float:
        return float(np.abs(levels(predictions, of) - labels).mean())

    for i in range(4):
        assert i < cuts[i] < i + 1
        for candidate in np.arange(i, i + 1, 0.01) + 0.005:
            other = (*cuts[:i], float(candidate), *cuts[i + 1 :])
            assert error(cuts) <= error(other) + 1e-12


def test_with_few_labels_or_nothing_to_gain_the_halves_stay() -> None:
    labels = np.repeat(np.arange(5.0), 60)
    assert fit_cut_points(HUMOR, labels, labels) == halves(HUMOR)
    few = np.where(np.arange(300) < 199, labels, np.nan)
    assert fit_cut_points(HUMOR, few, labels[::-1].copy()) == halves(HUMOR)


def test_a_place_has_its_cuts_at_the_halves() -> None:
    cuts = (0.3, 1.6, 2.4, 3.5)
    assert [place_of(HUMOR, cut, cuts) for cut in cuts] == [0.5, 1.5, 2.5, 3.5]
    assert [place_of(HUMOR, x, cuts) for x in (-0.2, -9.0, 4.0, 9.0)] == [0.0, 0.0, 4.0, 4.0]
    assert place_of(HUMOR, 0.95, cuts) == pytest.approx(1.0)
    assert [place_of(HUMOR, x, halves(HUMOR)) for x in (0.0, 1.25, 4.0)] == [0.0, 1.25, 4.0]


def test_a_cut_that_the_ratings_do_not_place_goes_between_two_clusters_and_not_through_one() -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 5, 1500)
    predictions = 0.85 * levels + 0.1 + rng.normal(scale=0.12, size=1500)
    # half of those at the highest level are rated one lower: through the cluster or beside it, about as many are wrong
    ratings = (levels - ((levels == 4) & (rng.random(1500) < 0.49))).astype(np.float64)
    cuts = fit_cut_points(HUMOR, ratings, predictions)
    assert cuts[3] == pytest.approx(0.85 * 3.5 + 0.1, abs=0.15)
    assert np.mean([level_of(HUMOR, x, cuts) == level for x, level in zip(predictions, levels, strict=True)]) > 0.98
    # without clusters the ratings alone place it
    smooth = rng.uniform(0, 4, 1500)
    placed = fit_cut_points(HUMOR, np.round(smooth + 0.2).clip(0, 4), smooth)
    assert placed == pytest.approx((0.3, 1.3, 2.3, 3.3), abs=0.05)
