"""Probabilities of the levels of an ordinal attribute with few of them, from a regression's prediction.

A cumulative logit (proportional odds, McCullagh 1980): the rating lies above a step with a probability that is logistic
in the prediction. It is fitted to predictions of turns that the model has not seen, so that what it calls 70 % happens
in 70 %.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from steerlm.attributes import Attribute

MOST_LEVELS = 3
_FEWEST_LABELS = 50
_NARROWEST = 0.02
"""Of a step, in levels: perfect predictions would make it infinitely sharp."""


class LevelCurve(NamedTuple):
    """How predictions become probabilities.

    Attributes:
        steps: between each level and the next, the prediction at which a rating is as likely above as below.
        width: in levels, of every step.
    """

    steps: tuple[float, ...]
    width: float

    def probabilities(self, attribute: Attribute, prediction: float) -> dict[str, float]:
        """Return the probability of every level, by its text."""
        above = [1.0, *expit((prediction - np.array(self.steps)) / self.width).tolist(), 0.0]
        return {str(level): above[i] - above[i + 1] for i, level in enumerate(attribute.levels)}


def fit_level_curve(
    attribute: Attribute, labels_N: npt.NDArray[np.float64], predictions_N: npt.NDArray[np.float64]
) -> LevelCurve | None:
    """Fit a curve by maximum likelihood; None for many levels, for few labels, or where a level never occurs.

    Args:
        attribute: ordinal.
        labels_N: people's labels on the scale, real-valued where several were averaged.
        predictions_N: of turns that the model has not seen.
    """
    halves_S = np.arange(attribute.minimum, attribute.maximum) + 0.5
    above_S_N = labels_N >= halves_S[:, None]
    levels = attribute.maximum - attribute.minimum + 1
    counts = np.bincount(above_S_N.sum(axis=0), minlength=levels)
    if levels > MOST_LEVELS or len(labels_N) < _FEWEST_LABELS or (counts == 0).any():
        return None

    def unpacked(parameters: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], float]:
        first, *rest = parameters
        steps_S = first + np.cumsum([0.0, *np.exp(rest[:-1])])
        return steps_S, _NARROWEST + float(np.exp(rest[-1]))

    def surprise(parameters: npt.NDArray[np.float64]) -> float:
        steps_S, width = unpacked(parameters)
        above = expit((predictions_N - steps_S[:, None]) / width)
        bounds = np.vstack([np.ones_like(predictions_N), above, np.zeros_like(predictions_N)])
        level_N = above_S_N.sum(axis=0)
        own_N = np.take_along_axis(bounds, level_N[None], 0) - np.take_along_axis(bounds, level_N[None] + 1, 0)
        return float(-np.log(own_N.clip(min=1e-9)).mean())

    start = np.array([float(halves_S[0]), *np.zeros(levels - 2), -1.0])
    limits: list[tuple[float, float]] = [(start[0] - levels, start[0] + levels), *[(-6.0, 3.0)] * (levels - 1)]
    steps_S, width = unpacked(minimize(surprise, start, method="L-BFGS-B", bounds=limits).x)
    return LevelCurve(tuple(round(float(step), 4) for step in steps_S), round(width, 4))
