"""The head of an attribute model in closed form: per attribute and source, on frozen features and on tuned ones.

Sources that rate the same attribute use its scale differently, and may mean different things by it. Each gets outputs
of its own, and an attribute with several sources one more on the common scale: labels of a source are its value there,
stretched by a positive slope and moved by an offset (Mittag et al. 2021, arXiv 2104.10217), both shrunk towards the
identity by how much the sources differ beyond chance (empirical Bayes). A source all of whose labels are the same (one
file of good answers, one of bad ones) tells nothing by itself: it is read on the scale of another. N turns, F features,
K attributes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.errors import UserError, did_you_mean
from steerlm.scorers.features import Readout
from steerlm.scorers.heads import LEAST_SPREAD, Head, Output
from steerlm.scorers.ridge import Floats, GroupedRidge, Ridge, dead_features, error_ratio

COVERAGE = 0.9
"""Share of labels that the reported interval around a prediction shall hold."""
MIN_AGREEMENT = 0.3
"""Below this correlation two sources' predictions are of two different things."""
_LEAST_SLOPE = 0.1
_LEAST_HELD = 10
"""With fewer labels on either side, whether tuned features are better cannot be told."""
_LEAD = 0.5
"""Standard errors by which tuned features must be better to be used."""
_SHARPNESS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Calibration:
    """How a source uses the common scale: its label is `offset + slope * value`, in levels."""

    offset: float = 0.0
    slope: float = 1.0


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


@dataclass(frozen=True)
class Fitted:
    """All outputs, and how the sources of an attribute relate.

    Attributes:
        fits: in the order of the head's outputs: the common ones in the schema's order, then those of sources.
        calibrations: by attribute with several sources, by source.
        agreements: by attribute with several sources, the correlation of what two of them would say of all turns.
        dead: features that never vary.
    """

    fits: tuple[Fit, ...]
    calibrations: Mapping[str, Mapping[str, Calibration]]
    agreements: Mapping[str, Mapping[tuple[str, str], float]]
    dead: tuple[int, ...] = ()

    @property
    def tuned(self) -> bool:
        """Whether any output reads the tuned features."""
        return any(fit.tuned for fit in self.fits)

    def head(self, readout: Readout | None) -> Head:

        def stacked(ridges: Sequence[Ridge | None]) -> tuple[torch.Tensor, torch.Tensor]:
            width = len(self.fits[0].ridge.weight)
            weights = [np.zeros(width) if ridge is None else ridge.weight for ridge in ridges]
            biases = [0.0 if ridge is None else ridge.bias for ridge in ridges]
            return torch.tensor(np.stack(weights), dtype=torch.float32), torch.tensor(biases, dtype=torch.float32)

        weight, bias = stacked([fit.ridge for fit in self.fits])
        spread_weight, spread_bias = stacked([fit.spread for fit in self.fits])
        floor = torch.tensor([fit.spread_floor for fit in self.fits], dtype=torch.float32)
        return Head(tuple(f.output for f in self.fits), weight, bias, spread_weight, spread_bias, floor, readout)

    @property
    def width(self) -> int:
        """How many features there are."""
        return len(self.fits[0].ridge.weight)

    def narrowed(self, width: int) -> Fitted:
        """Return the same without the features behind the first `width`, which nothing reads."""

        def cut(ridge: Ridge) -> Ridge:
            return replace(ridge, weight=ridge.weight[:width])

        fits = [replace(f, ridge=cut(f.ridge), spread=None if f.spread is None else cut(f.spread)) for f in self.fits]
        return replace(self, fits=tuple(fits), dead=tuple(feature for feature in self.dead if feature < width))

    def common(self, attribute: Attribute) -> list[Fit]:
        """Return the fits on the common scale: one, or one per category."""
        return [f for f in self.fits if f.output.attribute == attribute.name and f.output.source is None]


class Tuned(NamedTuple):
    """Features of a fine-tuned model.

    Attributes:
        held_N: the turns that it was not tuned on, nor on any of their group.
    """

    features_N_G: npt.NDArray[np.float32]
    held_N: npt.NDArray[np.bool_]


def fit_all(
    features_N_F: npt.NDArray[np.float32],
    labels_N_K: npt.NDArray[np.floating],
    schema: AttributeSchema,
    sources: Sequence[str],
    groups: Sequence[str],
    anchors: Mapping[str, str],
    tuned: Tuned | None = None,
) -> Fitted:
    """Fit every output.

    Args:
        labels_N_K: on the schema's scale, the index of a category, NaN where there is none.
        schema: the K attributes.
        groups: of the turns; cross-validation keeps them together.
        anchors: by attribute the source whose use of the scale is the common one; else the one that is predicted best.
        tuned: further features, which an output reads beside the others where that is better by cross-validation.

    Raises:
        UserError: an anchor that has no labels of its attribute.
    """
    source_N, group_N = np.asarray(sources, dtype=np.str_), np.asarray(groups, dtype=np.str_)
    ridges = _Ridges(features_N_F, group_N, tuned)
    features_N_F = ridges.features
    fits: list[Fit] = []
    fits_of_sources: list[Fit] = []
    calibrations: dict[str, dict[str, Calibration]] = {}
    agreements: dict[str, dict[tuple[str, str], float]] = {}
    for attribute, label_N in zip(schema, labels_N_K.T.astype(np.float64), strict=True):
        rows = np.flatnonzero(~np.isnan(label_N))
        if attribute.kind == "categorical":
            fits += _categories(attribute, ridges, label_N[rows], rows)
            continue
        unit_N = (label_N - attribute.minimum) / (attribute.maximum - attribute.minimum)
        names = sorted(set(source_N[rows].tolist()))
        anchor = anchors.get(attribute.name)
        if anchor is not None and anchor not in names:
            raise UserError(
                f"train_attribute_model.anchors: no label of {attribute.name!r} is from {anchor!r}: "
                f"{did_you_mean(anchor, names)}"
            )
        of_sources = _of_sources(attribute, ridges, rows, unit_N[rows], source_N[rows], anchor)
        if len(of_sources) == 1:
            [fit] = of_sources.values()
            fits.append(replace(fit, output=Output(attribute.name)))
            continue
        agreements[attribute.name] = _agreements(features_N_F, of_sources)
        anchor = anchor or _best(of_sources)
        common, found = _common(features_N_F, ridges, of_sources, anchor)
        fits.append(common)
        fits_of_sources += of_sources.values()
        span = attribute.maximum - attribute.minimum
        calibrations[attribute.name] = {
            # the slope stays, the offset is one of levels, measured from the scale's lowest
            name: Calibration(attribute.minimum * (1 - c.slope) + c.offset * span, c.slope)
            for name, c in found.items()
        }
    return Fitted((*fits, *fits_of_sources), calibrations, agreements, tuple(dead_features(features_N_F).tolist()))


def _of_sources(
    attribute: Attribute,
    ridges: _Ridges,
    rows: npt.NDArray[np.int64],
    unit_N: Floats,
    source_N: npt.NDArray[np.str_],
    anchor: str | None,
) -> dict[str, Fit]:
    """Fit the labels of every source; those of sources with one label only together with another's.

    They are fitted with the anchor's, else with those of the source that is predicted best; where no more than one
    source has different labels, all are fitted at once.

    Args:
        rows: the turns that have a label.
        unit_N: their labels on the unit scale.
        source_N: their sources.
    """
    labels = {name: unit_N[source_N == name] for name in sorted(set(source_N.tolist()))}
    same = tuple(name for name, own in labels.items() if np.ptp(own) == 0)
    differing = [name for name in labels if name not in same]

    def fitted(name: str, others: Sequence[str] = ()) -> Fit:
        mine = np.isin(source_N, [name, *others])
        fit = _ordinal(Output(attribute.name, name), ridges, rows[mine], unit_N[mine])
        return replace(fit, joined=tuple(others))

    if len(differing) <= 1:
        host, *others = [*differing, *same]
        return {host: fitted(host, others)}
    if anchor is not None and anchor in same:
        raise UserError(
            f"train_attribute_model.anchors: all labels of {attribute.name!r} from {anchor!r} are the same, which is "
            f"no scale: {did_you_mean(anchor, differing)}"
        )
    found = {name: fitted(name) for name in differing}
    if same:
        host = anchor or _best(found)
        found[host] = fitted(host, same)
    return found


def _best(fits: Mapping[str, Fit]) -> str:
    """Return the source that is predicted best."""
    return max(fits, key=lambda name: fits[name].skill)


class _Ridges:
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


def _ordinal(output: Output, ridges: _Ridges, rows: npt.NDArray[np.int64], targets: Floats) -> Fit:
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


def with_spread(fit: Fit, ridges: _Ridges) -> Fit:
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


def _categories(attribute: Attribute, ridges: _Ridges, label_N: Floats, rows: npt.NDArray[np.int64]) -> list[Fit]:
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


def _common(
    features_N_F: npt.NDArray[np.float32], ridges: _Ridges, fits: Mapping[str, Fit], anchor: str
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


def _agreements(features_N_F: npt.NDArray[np.float32], fits: Mapping[str, Fit]) -> dict[tuple[str, str], float]:
    """Return the correlation of what two sources would say of all turns, of those better than the mean."""
    said = {name: features_N_F @ fit.ridge.weight for name, fit in fits.items() if fit.useful}
    return {(a, b): float(np.corrcoef(said[a], said[b])[0, 1]) for a, b in itertools.combinations(said, 2)}
