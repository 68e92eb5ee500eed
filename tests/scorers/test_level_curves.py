"""Probabilities of few levels: they are what happens, add up, and are refused where they would be guesses."""

from __future__ import annotations

import numpy as np
import pytest

from steerlm.attributes import Attribute
from steerlm.scorers.level_curves import fit_level_curve

THREE = Attribute("natural", minimum=1, maximum=3)


def ratings(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions, and what people say of them: off by half a level, and drawn towards the middle."""
    rng = np.random.default_rng(seed)
    predictions = rng.uniform(1, 3, count)
    return np.clip(np.round(predictions + 0.3 + rng.logistic(scale=0.3, size=count)), 1, 3), predictions


def test_what_is_said_to_happen_in_so_many_cases_happens_in_so_many() -> None:
    labels, predictions = ratings(12000, 0)
    curve = fit_level_curve(THREE, labels, predictions)
    assert curve is not None
    assert curve.steps == pytest.approx((1.2, 2.2), abs=0.06)
    assert curve.width == pytest.approx(0.3, abs=0.05)
    fresh, seen = ratings(12000, 1)
    said = np.array([list(curve.probabilities(THREE, x).values()) for x in seen])
    assert said.sum(axis=1) == pytest.approx(1)
    for level in (1, 2, 3):
        for low in (0.0, 0.25, 0.5, 0.75):
            mine = (said[:, level - 1] >= low) & (said[:, level - 1] < low + 0.25)
            if mine.sum() > 1000:
                assert (fresh[mine] == level).mean() == pytest.approx(said[mine, level - 1].mean(), abs=0.05)


def test_no_curve_of_many_levels_few_labels_or_a_level_that_nobody_gave() -> None:
    labels, predictions = ratings(400, 2)
    assert fit_level_curve(Attribute("quality"), labels, predictions) is None
    assert fit_level_curve(THREE, labels[:30], predictions[:30]) is None
    assert fit_level_curve(THREE, labels.clip(max=2), predictions) is None
    sure = fit_level_curve(THREE, labels, labels)
    assert sure is not None
    assert sure.probabilities(THREE, 2.0)["2"] > 0.9
