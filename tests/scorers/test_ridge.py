"""Ridge regression in closed form against scikit-learn's, and what it does where a reference has no answer."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as ReferenceRidge
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from steerlm.scorers.ridge import PENALTIES, GroupedRidge, dead_features, group_folds


def problem(rows: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of very different scale, not centred; one of them constant."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, width)) * rng.uniform(0.01, 3, width) + rng.normal(size=width)
    features[:, 5] = 1.25
    targets = features @ rng.normal(size=width) * 0.1 + rng.normal(size=rows)
    return features, targets, rng.integers(0, 25, rows)


@pytest.mark.parametrize(("rows", "width"), [(80, 200), (400, 30)])
def test_equals_ridge_with_cross_validation_of_scikit_learn(rows: int, width: int) -> None:
    features, targets, groups = problem(rows, width)
    found = GroupedRidge(features, groups).fit(targets)
    folds = group_folds(groups)
    alive = StandardScaler().fit_transform(np.delete(features, 5, axis=1))
    splits = [(np.flatnonzero(folds != k), np.flatnonzero(folds == k)) for k in range(folds.max() + 1)]
    reference = RidgeCV(alphas=PENALTIES, cv=splits, scoring="neg_mean_squared_error").fit(alive, targets)
    assert found.penalty == reference.alpha_
    np.testing.assert_allclose(features @ found.weight + found.bias, reference.predict(alive), atol=1e-6)
    assert found.weight[5] == 0
    errors = []
    for train, test in splits:
        alone = ReferenceRidge(alpha=found.penalty).fit(alive[train], targets[train])
        np.testing.assert_allclose(found.held_out[test], alone.predict(alive[test]), atol=1e-6)
        errors += ((targets[test] - targets[train].mean()) ** 2).tolist()
    ratio = np.sqrt(np.mean((found.held_out - targets) ** 2) / np.mean(errors))
    assert found.error_ratio == pytest.approx(ratio)


def test_folds_keep_groups_together_and_are_balanced() -> None:
    groups = [f"g{i % 13}" for i in range(130)]
    folds = group_folds(groups)
    assert all(len({folds[i] for i in range(130) if groups[i] == g}) == 1 for g in set(groups))
    assert np.bincount(folds).tolist() == [30, 30, 30, 20, 20]
    assert group_folds(["a", "a"]).tolist() == [0, 0]


def test_dead_dimensions_are_named_and_move_nothing() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(60, 8))
    features[:, 2] = 0.3
    features[:, 7] = 1e-7 * rng.normal(size=60)
    assert dead_features(features).tolist() == [2, 7]
    fitted = GroupedRidge(features, np.arange(60)).fit(features[:, 0])
    assert np.isfinite(fitted.weight).all()
    assert fitted.weight[[2, 7]].tolist() == [0, 0]


def test_one_group_is_shrunk_to_its_mean() -> None:
    features, targets, _ = problem(40, 10)
    fitted = GroupedRidge(features, ["only"] * 40).fit(targets)
    assert fitted.penalty == PENALTIES[-1]
    assert fitted.held_out == pytest.approx(np.full(40, targets.mean()), abs=0.1)
