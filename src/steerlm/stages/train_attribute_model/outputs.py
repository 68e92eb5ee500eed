"""One output of an attribute model's head in closed form: on frozen features, or on tuned ones where these are better.

With each goes a fit of how far off it is, and the interval around it that holds nine tenths of labels. N turns, F
features, C categories.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from steerlm.attributes import Attribute
from steerlm.scorers.heads import LEAST_SPREAD, Output
from steerlm.scorers.ridge import Floats, GroupedRidge, Ridge

COVERAGE = 0.9
"""Share of labels that the reported interval around a prediction shall hold."""
_LEAST_HELD = 10
"""With fewer labels on either side, whether tuned features are better cannot be told."""
_LEAD = 0.5
"""Standard errors by which tuned features must be better to be used."""
_SHARPNESS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Fit:
    """One output, fitted.

    Attributes:
        rows: the turns it was fitted to.
        targets: their labels (ordinal: unit scale; categorical: whether it is this category).
        ridge: the fit; its weights are 0 where it was no better than the mean.
        spread: a fit of how far off it is; None for a category.
        interval: multiple of the spread that holds `COVERAGE` of the labels on either side.
        tuned: whether it reads the tuned features, too.
        sharpness: of a category: what the fit to 0 and 1 was multiplied by to be a logit.
        joined: sources whose labels are all the same, each, and were fitted here too.
    """

    output: Output
    rows: npt.NDArray[np.int64]
    targets: Floats
    ridge: Ridge
    spread: Ridge | None = None
    spread_floor: float = 0.0
    interval: float = 0.0
    tuned: bool = False
    sharpness: float = 1.0
    joined: tuple[str, ...] = ()

    def is_of(self, source: str) -> bool:
        """Whether labels of a source are targets of this output."""
        return self.output.source in (None, source) or source in self.joined

    @cached_property
    def honest(self) -> npt.NDArray[np.bool_]:
        """Which rows have a prediction by a fit, and features, that saw nothing of their group."""
        found: npt.NDArray[np.bool_] = np.isfinite(self.ridge.held_out)
        return found

    @property
    def useful(self) -> bool:
        """Whether it is better than the mean, by cross-validation."""
        return self.ridge.error_ratio < 1.0

    @property
    def skill(self) -> float:
        """Return the explained share of the variance, more certain with more rows."""
        return max(0.0, 1 - self.ridge.error_ratio**2) * math.sqrt(len(self.rows))


class Tuned(NamedTuple):
    """Features of a fine-tuned model.

    Attributes:
        held_N: the turns that it was not tuned on, nor on any of their group.
    """

    features_N_G: npt.NDArray[np.float32]
    held_N: npt.NDArray[np.bool_]


class Ridges:
    """Ridge regressions on the features, by rows: several attributes of a source have the same."""

    def __init__(
        self, features_N_F: npt.NDArray[np.float32], group_N: npt.NDArray[np.str_], tuned: Tuned | None
    ) -> None:
        self._frozen_N_F, self.group_N = features_N_F, group_N
        self._held_N = np.zeros(len(features_N_F), dtype=np.bool_) if tuned is None else tuned.held_N
        self.features = features_N_F if tuned is None else np.hstack([features_N_F, tuned.features_N_G])
        self._known: dict[bytes, tuple[GroupedRidge, GroupedRidge | None]] = {}

    def of(self, rows: npt.NDArray[np.int64]) -> tuple[GroupedRidge, GroupedRidge | None]:
        """Return the regression on the frozen features, and the one with tuned ones where these can be judged."""
        key = rows.tobytes()
        if key not in self._known:
            groups, held_N = self.group_N[rows].tolist(), self._held_N[rows]
            both = None
            if min(held_N.sum(), (~held_N).sum()) >= _LEAST_HELD:
                both = GroupedRidge(self.features[rows], groups, held_N=held_N)
            self._known = {key: (GroupedRidge(self._frozen_N_F[rows], groups), both)}
        return self._known[key]

    def spread_of(self, rows: npt.NDArray[np.int64], tuned: bool) -> GroupedRidge:
        """Return the regression for how far predictions of some rows are off."""
        if not tuned:
            return self.of(rows)[0]
        return GroupedRidge(self.features[rows], self.group_N[rows].tolist())

    def padded(self, ridge: Ridge) -> Ridge:
        """Return a fit to the frozen features as one to all of them."""
        return replace(ridge, weight=np.pad(ridge.weight, (0, self.features.shape[1] - len(ridge.weight))))

    def better(
        self, rows: npt.NDArray[np.int64], targets: Sequence[Floats], a: Sequence[Ridge], b: Sequence[Ridge]
    ) -> bool:
        """Whether fits `a` of some targets are clearly better than `b` on the rows that both predict."""
        difference_N = sum((x.held_out - y) ** 2 - (z.held_out - y) ** 2 for y, x, z in zip(targets, a, b, strict=True))
        assert isinstance(difference_N, np.ndarray)
        both_N = np.isfinite(difference_N)
        _, group_M = np.unique(self.group_N[rows][both_N], return_inverse=True)
        sums_G = np.bincount(group_M, difference_N[both_N])
        error = math.sqrt(float(((sums_G - sums_G.mean()) ** 2).sum()))
        return bool(sums_G.sum() < -_LEAD * error)


def fit_ordinal(output: Output, ridges: Ridges, rows: npt.NDArray[np.int64], targets: Floats) -> Fit:
    """Fit the labels of an output, or fall back to their mean, and fit how far off that is."""
    frozen, both = ridges.of(rows)
    fitted, tuned = ridges.padded(frozen.fit(targets)), False
    if both is not None:
        other = both.fit(targets)
        tuned = other.error_ratio < 1 and ridges.better(rows, [targets], [other], [fitted])
        fitted = other if tuned else fitted
    if fitted.error_ratio >= 1:
        fitted = _constant(fitted, targets)
    return with_spread(Fit(output, rows, targets, fitted, tuned=tuned), ridges)


def _constant(ridge: Ridge, targets_N: Floats) -> Ridge:
    mean = float(targets_N.mean())
    return replace(ridge, weight=np.zeros_like(ridge.weight), bias=mean, held_out=np.full(len(targets_N), mean))


def with_spread(fit: Fit, ridges: Ridges) -> Fit:
    """Fit how far a label lies from its prediction, to residuals of cross-validation, and its conformal interval."""
    off_N = np.abs(fit.targets - fit.ridge.held_out)[fit.honest]
    spread = ridges.padded(ridges.spread_of(fit.rows[fit.honest], fit.tuned).fit(off_N))
    if spread.error_ratio >= 1:
        spread = _constant(spread, off_N)
    floor = max(LEAST_SPREAD * float(off_N.mean()), 1e-6)
    usual_N = np.maximum(spread.held_out, floor)
    scale = float(np.sqrt(np.mean((off_N / usual_N) ** 2))) or 1.0  # from the mean distance to the standard deviation
    return replace(
        fit,
        spread=replace(spread, weight=spread.weight * scale, bias=spread.bias * scale),
        spread_floor=floor * scale,
        interval=conformal_multiple(off_N / (usual_N * scale)),
    )


def conformal_multiple(ratio_N: Floats) -> float:
    """Return how many spreads on either side hold `COVERAGE` of labels like these, given how many each is off."""
    return float(np.quantile(ratio_N, min(1.0, COVERAGE * (1 + 1 / max(1, len(ratio_N))))))


def fit_categories(attribute: Attribute, ridges: Ridges, label_N: Floats, rows: npt.NDArray[np.int64]) -> list[Fit]:
    """Fit whether it is each of the categories; the sharpness that explains the held-out labels best makes logits."""
    wanted_C_N = [(label_N == i).astype(np.float64) for i in range(len(attribute.categories))]
    frozen, both = ridges.of(rows)
    fits, tuned = [ridges.padded(frozen.fit(wanted_N)) for wanted_N in wanted_C_N], False
    if both is not None:
        others = [both.fit(wanted_N) for wanted_N in wanted_C_N]
        tuned = ridges.better(rows, wanted_C_N, others, fits)
        fits = others if tuned else fits
    honest_N = np.isfinite(fits[0].held_out)
    held_out_C_N = np.stack([fitted.held_out[honest_N] for fitted in fits])

    def surprise(sharpness: float) -> float:
        logits = held_out_C_N * sharpness
        own_N = np.take_along_axis(logits, label_N[honest_N].astype(np.int64)[None], axis=0)[0]
        return float((np.logaddexp.reduce(logits, axis=0) - own_N).mean())

    by = min(_SHARPNESS, key=surprise)
    return [
        Fit(
            Output(attribute.name, None, category),
            rows,
            wanted_N,
            replace(r, weight=r.weight * by, bias=r.bias * by, held_out=r.held_out * by),
            tuned=tuned,
            sharpness=by,
        )
        for category, wanted_N, r in zip(attribute.categories, wanted_C_N, fits, strict=True)
    ]
