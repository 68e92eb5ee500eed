"""How likely attribute values are to an attribute model: P(a|x,y) of SteerLM 2.0 (arXiv 2406.08673).

A regression says one number: a Beta distribution around it, cut into a bin per level, says how likely each level is. A
generative model and a classifier say it themselves. An exact measure knows its value: the level has probability 1, or
the levels around it share it by a Gaussian kernel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from scipy.special import betainc

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.conversation import Score

CONCENTRATION = 24.0
"""Of the Beta distribution, as in the paper."""

_EDGE = 0.01
"""A score is kept so far from the ends of the unit scale, where a Beta distribution has none."""

_LEAST = 1e-8
"""Least probability of a level: one attribute that is far off must not make all responses equally impossible."""


def log_likelihood(
    schema: AttributeSchema,
    requested: Mapping[str, Value],
    scores: Mapping[str, Score],
    concentration: float = CONCENTRATION,
    kernels: Mapping[str, float] | None = None,
) -> float:
    """Return log P(a|x,y): the sum over the attributes asked for, as if they were independent given the response.

    Args:
        concentration: of the Beta distribution around a regression's output.
        kernels: attributes that are measured exactly, with the width of the kernel in levels (0: none); of a category
            the measure itself says the probabilities.

    Returns:
        A finite number: a level's probability is at least 1e-8.
    """
    total = 0.0
    for name, value in requested.items():
        attribute, score = schema[name], scores[name]
        if kernels is not None and name in kernels and attribute.kind == "ordinal":
            probability = _measured(attribute, value, score.mean, kernels[name])
        elif score.probabilities is not None:
            probability = score.probabilities.get(str(value), 0.0)
        else:
            probability = _around(attribute, value, score.mean, concentration)
        total += math.log(max(probability, _LEAST))
    return total


def _around(attribute: Attribute, value: Value, mean: float, concentration: float) -> float:
    """Return the mass of the Beta distribution around `mean` between the halves below and above a level."""
    center = min(max(attribute.to_unit(mean), _EDGE), 1 - _EDGE)
    assert isinstance(value, int)
    low, high = (min(max(attribute.to_unit(edge), 0.0), 1.0) for edge in (value - 0.5, value + 0.5))
    a, b = concentration * center, concentration * (1 - center)
    return float(betainc(a, b, high) - betainc(a, b, low))


def _measured(attribute: Attribute, value: Value, measured: float, width: float) -> float:
    if width == 0:
        return float(attribute.round(measured) == value)
    masses = {level: math.exp(-0.5 * ((int(level) - measured) / width) ** 2) for level in attribute.levels}
    whole = sum(masses.values())
    return masses[value] / whole if whole else 0.0
