"""The common scale of sources that rate the same attribute, and how each of them uses it.

Labels of a source are its value on the common scale, stretched by a positive slope and moved by an offset (Mittag et
al. 2021, arXiv 2104.10217), both shrunk towards the identity by how much the sources differ beyond chance (empirical
Bayes). N turns, F features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from steerlm.scorers.ridge import Floats, Ridge, error_ratio
from steerlm.stages.train_attribute_model.outputs import Fit, Ridges, with_spread

MIN_AGREEMENT = 0.3
"""Below this correlation two sources' predictions are of two different things."""
_LEAST_SLOPE = 0.1


@dataclass(frozen=True)
class Calibration:
    """How a source uses the common scale: its label is `offset + slope * value`, in levels."""

    offset: float = 0.0
    slope: float = 1.0


def best_source(fits: Mapping[str, Fit]) -> str:
    """Return the source that is predicted best."""
    return max(fits, key=lambda name: fits[name].skill)


def common_scale(
    features_N_F: npt.NDArray[np.float32], ridges: Ridges, fits: Mapping[str, Fit], anchor: str
) -> tuple[Fit, dict[str, Calibration]]:
    """Return the common scale, which is the anchor's, and how each source uses it (on the unit scale).

    It is the mean of what the sources would say, each brought to the anchor's mean and spread, weighted by how well
    the source is predicted and how far it agrees with the anchor; one that does not agree is left out.
    """
    rows = np.concatenate([fit.rows for fit in fits.values()])
    starts = np.cumsum([0, *(len(fit.rows) for fit in fits.values())])
    owns = {name: slice(starts[i], starts[i + 1]) for i, name in enumerate(fits)}
    said = {name: features_N_F[rows] @ fit.ridge.weight + fit.ridge.bias for name, fit in fits.items()}
    for name, fit in fits.items():
        # honest where the fit has seen the label
        said[name][owns[name]] = np.where(fit.honest, fit.ridge.held_out, said[name][owns[name]])
    centre, spread = said[anchor].mean(), said[anchor].std()
    shares, mapped = {}, {}
    for name, values in said.items():
        agreement = 0.0
        if values.std() > 0 and spread > 0:
            agreement = float(np.corrcoef(values, said[anchor])[0, 1])
        if name == anchor or (agreement >= MIN_AGREEMENT and fits[name].useful):
            shares[name] = fits[name].skill * agreement**2 if name != anchor else fits[name].skill or 1.0
            stretch = spread / values.std() if values.std() > 0 else 0.0
            mapped[name] = (stretch, centre - stretch * values.mean())
    total = sum(shares.values())
    value_N, weight_F, bias = np.zeros(len(rows)), np.zeros(features_N_F.shape[1]), 0.0
    for name, share in shares.items():
        stretch, shift = mapped[name]
        value_N += share / total * (stretch * said[name] + shift)
        weight_F += share / total * stretch * fits[name].ridge.weight
        bias += share / total * (stretch * fits[name].ridge.bias + shift)
    mine = fits[anchor]
    value, target = value_N[owns[anchor]][mine.honest], mine.targets[mine.honest]
    # an average of several varies less than each: bring it back to what the anchor's labels say
    slope = float(np.cov(value, target)[0, 1] / value.var(ddof=1)) if len(shares) > 1 and value.var() > 0 else 1.0
    shift = float(target.mean() - slope * value.mean()) if len(shares) > 1 else 0.0
    value_N, weight_F, bias = shift + slope * value_N, slope * weight_F, shift + slope * bias
    found = _calibrate(
        {
            name: (value_N[owns[name]][fit.honest], fit.targets[fit.honest])
            for name, fit in fits.items()
            if name != anchor
        }
    )
    held_out = np.where(mine.honest, value_N[owns[anchor]], math.nan)
    ratio = error_ratio(target, held_out[mine.honest], float(target.mean()))
    ridge = Ridge(weight_F, bias, mine.ridge.penalty, held_out, ratio)
    tuned = any(fits[name].tuned for name in shares)
    common = Fit(mine.output._replace(source=None), mine.rows, mine.targets, ridge, tuned=tuned)
    return with_spread(common, ridges), {anchor: Calibration(), **found}


def _calibrate(pairs: Mapping[str, tuple[Floats, Floats]]) -> dict[str, Calibration]:
    """Regress every source's labels on the common value; shrink what differs from the identity by empirical Bayes."""
    estimates = []
    for value, target in pairs.values():
        difference, centre = target - value, value.mean()
        square = float(((value - centre) ** 2).sum()) or 1e-12
        tilt = float(((value - centre) * difference).sum()) / square
        noise = float(np.var(difference - tilt * (value - centre))) + 1e-12
        estimates.append((centre, float(difference.mean()), tilt, noise / len(value), noise / square))
    table = np.array(estimates).reshape(-1, 5)
    shift_variance = max(0.0, float(np.mean(table[:, 1] ** 2 - table[:, 3])))
    tilt_variance = max(0.0, float(np.mean(table[:, 2] ** 2 - table[:, 4])))
    found = {}
    for name, (centre, shift, tilt, of_shift, of_tilt) in zip(pairs, table, strict=True):
        slope = max(_LEAST_SLOPE, 1 + tilt * tilt_variance / (tilt_variance + of_tilt))
        moved = shift * shift_variance / (shift_variance + of_shift)
        found[name] = Calibration(float(moved + centre * (1 - slope)), float(slope))
    return found


def agreements_of(features_N_F: npt.NDArray[np.float32], fits: Mapping[str, Fit]) -> dict[tuple[str, str], float]:
    """Return the correlation of what two sources would say of all turns, of those better than the mean."""
    said = {name: features_N_F @ fit.ridge.weight for name, fit in fits.items() if fit.useful}
    return {(a, b): float(np.corrcoef(said[a], said[b])[0, 1]) for a, b in itertools.combinations(said, 2)}
