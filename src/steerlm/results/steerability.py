"""What an evaluation says of requests in several attributes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerlm.statistics.estimates import Estimate


@dataclass(frozen=True)
class MixedFigures:
    """SteerBench's figures, means over the answers of some requests; see `statistics.steerability`."""

    rows: int
    steering_error: Estimate
    miscalibration: Estimate
    side_effects: Estimate


@dataclass(frozen=True)
class SteeringPrediction:
    """What the leakage matrix of single dials says of requests of several.

    Attributes:
        miscalibration: predicted mean; so are `side_effects`.
        r2: share of the movements' variance that it explains.
        best_r2: the same of the linear response that fits these requests best: what noise and interaction leave.
    """

    miscalibration: float
    side_effects: float
    r2: float
    best_r2: float


@dataclass(frozen=True, kw_only=True)
class Steerability:
    """How requests of one and of several dials are met, seen from the mean answer at the defaults.

    Attributes:
        attributes: that span the space, each scaled to 0..1.
        floor: mean distance of single answers at the defaults from their mean: what noise alone moves.
        single: requests that turn one dial; `several`: two or more.
        correlated: of these, requests that the dials' leakage into each other pushes along; `anticorrelated`: holds up.
    """

    attributes: Sequence[str]
    floor: Estimate
    single: MixedFigures | None
    several: MixedFigures | None
    correlated: MixedFigures | None
    anticorrelated: MixedFigures | None
    prediction: SteeringPrediction | None
