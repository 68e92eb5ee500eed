"""Ridge regression in closed form, its penalty by cross-validation over groups.

What a linear head on frozen features can do, exactly and in seconds (ArmoRM fits its heads so, Wang et al. 2024,
arXiv 2406.12845). N rows, F features, A penalties.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PENALTIES: tuple[float, ...] = tuple(np.logspace(0, 5, 11).tolist())
"""Penalties tried; features are standardised."""

MOST_FOLDS = 5
_DEAD = 1e-4
"""A feature whose spread is below this share of the median spread is constant: standardised, it would be noise."""


@dataclass(frozen=True)
class Ridge:
    """A fitted linear head.

    Attributes:
        weight: (F,), for features as they come.
        bias: added to the product; 0 where the head must do without.
        penalty: the one that cross-validation chose.
        held_out: (N,) predictions of each row by a fit that saw nothing of its group; NaN where there is none.
        error_ratio: root mean squared error of `held_out` over that of the mean of the other folds.
    """

    weight: Floats
    bias: float
    penalty: float
    held_out: Floats
    error_ratio: float


def group_folds(groups: Sequence[object], most: int = MOST_FOLDS) -> npt.NDArray[np.int64]:
    """Return a fold (from 0) per row, balanced in rows, so that no group is divided."""
    names, group_N, sizes = np.unique([str(group) for group in groups], return_inverse=True, return_counts=True)
    load = np.zeros(min(most, len(names)), dtype=np.int64)
    fold_of = np.zeros(len(names), dtype=np.int64)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = fold = int(load.argmin())
        load[fold] += sizes[group]
    return fold_of[group_N]


def dead_features(features_N_F: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Return which features do not vary."""
    spread_F = features_N_F.std(axis=0, dtype=np.float64)
    return np.flatnonzero(spread_F <= _DEAD * np.median(spread_F))


class GroupedRidge:
    """Ridge regression of any targets on the same features; what depends on the features alone is computed once.

    Args:
        features_N_F: features; they are standardised.
        groups: rows of one group are never on both sides of a fold.
        held_N: the only rows to be predicted by a fit that saw the others, where the features themselves were trained
            on those; none of their groups may be among them. None: every row is, in folds.
    """

    def __init__(
        self,
        features_N_F: npt.NDArray[np.floating],
        groups: Sequence[object],
        penalties: Sequence[float] = PENALTIES,
        held_N: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self._spread_F = features_N_F.std(axis=0, dtype=np.float64)
        self._alive = np.ones(len(self._spread_F), dtype=np.bool_)
        self._alive[dead_features(features_N_F)] = False
        self._penalties = penalties
        scaled_N_F = features_N_F[:, self._alive].astype(np.float64) / self._spread_F[self._alive]
        self._scaled_N_F = scaled_N_F
        self._fold_N = group_folds(groups) if held_N is None else np.where(held_N, 0, -1)
        self._folds = int(self._fold_N.max()) + 1
        self._single = held_N is None and self._folds == 1
        self._parts = [_Decomposition(scaled_N_F[rows]) for rows in map(self._seen, range(self._folds))]
        self._whole = self._parts[0] if self._single else _Decomposition(scaled_N_F)

    def _seen(self, fold: int) -> npt.NDArray[np.bool_]:
        """Return the rows outside a fold; all where there is only one."""
        seen: npt.NDArray[np.bool_] = (self._fold_N != fold) | self._single
        return seen

    def fit(self, targets_N: Floats) -> Ridge:
        """Fit targets with the penalty of the best cross-validation; with a single group the strongest penalty."""
        held_out_A_N = np.full((len(self._penalties), len(targets_N)), math.nan)
        mean_N = np.full(len(targets_N), math.nan)
        errors_A = np.zeros(len(self._penalties))
        for fold, part in enumerate(self._parts):
            seen, out = self._seen(fold), self._fold_N == fold
            weights_A_F, bias_A = part.solve(self._scaled_N_F[seen], targets_N[seen], self._penalties)
            held_out_A_N[:, out] = weights_A_F @ self._scaled_N_F[out].T + bias_A[:, None]
            mean_N[out] = targets_N[seen].mean()
            errors_A += ((held_out_A_N[:, out] - targets_N[out]) ** 2).mean(axis=1)
        best = len(self._penalties) - 1 if self._single else int(errors_A.argmin())
        [weights_F], [bias] = self._whole.solve(self._scaled_N_F, targets_N, [self._penalties[best]])
        weight_F = np.zeros(len(self._spread_F))
        weight_F[self._alive] = weights_F / self._spread_F[self._alive]
        return Ridge(
            weight_F,
            float(bias),
            float(self._penalties[best]),
            held_out_A_N[best],
            error_ratio(*(x_N[self._fold_N >= 0] for x_N in (targets_N, held_out_A_N[best], mean_N))),
        )


def error_ratio(targets_N: Floats, guess_N: Floats, mean_N: Floats | float) -> float:
    """Return the root mean squared error of a guess over that of a mean; 1 where there is nothing to explain."""
    error, of_mean = (float(((x - targets_N) ** 2).mean()) for x in (guess_N, mean_N))
    return math.sqrt(error / of_mean) if of_mean > 0 else 1.0


class _Decomposition:
    """Eigenvectors of the centred features' products; no rows kept."""

    def __init__(self, features_N_F: Floats) -> None:
        rows, width = features_N_F.shape
        self._mean_F = np.ones(rows) @ features_N_F / rows
        # the same solutions from the smaller of the two matrices
        self._wide = rows < width
        if self._wide:
            rest_N_F = features_N_F - self._mean_F
            product = rest_N_F @ rest_N_F.T
        else:
            product = features_N_F.T @ features_N_F - rows * np.outer(self._mean_F, self._mean_F)
        values, self._vectors = np.linalg.eigh(product)
        self._values = values.clip(min=0)

    def solve(self, features_N_F: Floats, targets_N: Floats, penalties: Sequence[float]) -> tuple[Floats, Floats]:
        """Return the weights (A, F) and the biases (A,), for the features it was made of."""
        mean = float(np.ones(len(targets_N)) @ targets_N) / len(targets_N)
        rest_N = targets_N - mean
        shrunk_A_M = self._values + np.asarray(penalties, dtype=np.float64)[:, None]
        if self._wide:
            centred_N_F = features_N_F - self._mean_F
            weights_A_F = (self._vectors.T @ rest_N / shrunk_A_M) @ self._vectors.T @ centred_N_F
        else:
            # what is left of the targets sums to zero, so the features may be whole
            weights_A_F = (self._vectors.T @ (features_N_F.T @ rest_N) / shrunk_A_M) @ self._vectors.T
        return weights_A_F, mean - weights_A_F @ self._mean_F
