"""The head of an attribute model in closed form: per attribute and source, on frozen features and on tuned ones.

Sources that rate the same attribute use its scale differently, and may mean different things by it. Each gets outputs
of its own (`outputs`), and an attribute with several sources one more on the common scale (`common_scale`). A source
all of whose labels are the same (one file of good answers, one of bad ones) tells nothing by itself: it is read on the
scale of another. N turns, F features, K attributes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.errors import UserError, did_you_mean
from steerlm.scorers.features import Readout
from steerlm.scorers.heads import Head, Output
from steerlm.scorers.ridge import Floats, Ridge, dead_features
from steerlm.stages.train_attribute_model.common_scale import Calibration, agreements_of, best_source, common_scale
from steerlm.stages.train_attribute_model.outputs import Fit, Ridges, Tuned, fit_categories, fit_ordinal


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
    ridges = Ridges(features_N_F, group_N, tuned)
    features_N_F = ridges.features
    fits: list[Fit] = []
    fits_of_sources: list[Fit] = []
    calibrations: dict[str, dict[str, Calibration]] = {}
    agreements: dict[str, dict[tuple[str, str], float]] = {}
    for attribute, label_N in zip(schema, labels_N_K.T.astype(np.float64), strict=True):
        rows = np.flatnonzero(~np.isnan(label_N))
        if attribute.kind == "categorical":
            fits += fit_categories(attribute, ridges, label_N[rows], rows)
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
        agreements[attribute.name] = agreements_of(features_N_F, of_sources)
        anchor = anchor or best_source(of_sources)
        common, found = common_scale(features_N_F, ridges, of_sources, anchor)
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
    ridges: Ridges,
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
        fit = fit_ordinal(Output(attribute.name, name), ridges, rows[mine], unit_N[mine])
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
        host = anchor or best_source(found)
        found[host] = fitted(host, same)
    return found
