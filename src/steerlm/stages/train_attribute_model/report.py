"""How good an attribute model is on held-out labels, beside the mean and beside what people agree on.

The paper reports nothing of the kind; a steerable model can be no better than the labels it was trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.results.findings import MORE_TO_LEARN_FROM
from steerlm.scorers.cut_points import fit_cut_points
from steerlm.scorers.features import Readout
from steerlm.scorers.level_curves import LevelCurve, fit_level_curve
from steerlm.scorers.protocol import Scores
from steerlm.stages.train_attribute_model.common_scale import MIN_AGREEMENT
from steerlm.stages.train_attribute_model.examples import FloatArray, LabelledTurn
from steerlm.stages.train_attribute_model.fitting import Fitted
from steerlm.stages.train_attribute_model.outputs import COVERAGE, Fit, conformal_multiple
from steerlm.statistics.metrics import (
    category_report,
    fleiss_kappa,
    human_ceiling,
    indistinguishable_pairs,
    low_range,
    regression_report,
)

_LEAST_SPREAD = 0.01
"""In levels: a model may be sure of a level, but no interval is empty."""
_FEWEST_IN_HALF = 20
"""Labels below which a quantile of nine tenths says nothing."""
UNMOVED = 0.02
"""Share of the labels' standard deviation below which predictions count as one and the same."""


def residual_std(turns: Sequence[LabelledTurn], scores: Sequence[Scores], schema: AttributeSchema) -> dict[str, float]:
    """Return per ordinal attribute the root mean square of (label - score) in levels; attributes without label lack."""
    spread = {}
    for attribute in schema.ordinal:
        errors = [
            float(turn.labels[attribute.name]) - score[attribute.name].mean
            for turn, score in zip(turns, scores, strict=True)
            if attribute.name in turn.labels
        ]
        if errors:
            spread[attribute.name] = math.sqrt(sum(error * error for error in errors) / len(errors))
    return spread


def attribute_reports(
    turns: Sequence[LabelledTurn],
    scores: Sequence[Scores],
    values_of: Callable[[Scores], Mapping[str, Value]],
    schema: AttributeSchema,
    means: Sequence[Mapping[str, float]],
    seed: int,
) -> dict[str, Any]:
    """Compare predictions with held-out labels, per attribute, over all data and per source.

    Sources may use one scale differently: a label is compared with what its own source would say, so that an attribute
    which several of them rate is not taken for unlearned where they differ by an offset alone.

    Args:
        scores: predictions of each turn, as its source rates.
        values_of: turns predictions into values on the scale.
        means: per turn what the mean of the training labels says, by ordinal attribute.

    Returns:
        JSON-able: `attributes` and, per source, `sources`; see `metrics.regression_report` and `category_report`. Where
        turns have several ratings, `human_ceiling` and `annotator_kappa` (Fleiss) of the attribute stand beside.
    """
    sources = sorted({turn.source for turn in turns})
    members = {source: [i for i, turn in enumerate(turns) if turn.source == source] for source in sources}

    def reports(indices: Sequence[int]) -> dict[str, Any]:
        chosen = [(turns[i], scores[i], values_of(scores[i]), means[i]) for i in indices]
        found = {}
        for attribute in schema:
            rows = [row for row in chosen if attribute.name in row[0].labels]
            if rows:
                found[attribute.name] = _report(attribute, rows, seed)
        return found

    return {
        "attributes": reports(range(len(turns))),
        "sources": {source: reports(indices) for source, indices in members.items()},
    }


def _report(
    attribute: Attribute,
    rows: Sequence[tuple[LabelledTurn, Scores, Mapping[str, Value], Mapping[str, float]]],
    seed: int,
) -> dict[str, Any]:
    name = attribute.name
    clusters = [turn.group for turn, *_ in rows]
    truth = [turn.labels[name] for turn, *_ in rows]
    if attribute.kind == "categorical":
        return category_report(
            [str(label) for label in truth], [str(value[name]) for _, _, value, _ in rows], attribute, clusters, seed
        )
    predicted = [score[name].mean for _, score, *_ in rows]
    baseline = [means[name] for *_, means in rows]
    report = regression_report([float(x) for x in truth], predicted, attribute, clusters, baseline, seed)
    ratings = [turn.ratings.get(name, ()) for turn, *_ in rows]
    if any(len(row) > 1 for row in ratings):
        report["human_ceiling"] = human_ceiling(ratings, clusters, seed)
        levels = [[attribute.round(rating) for rating in row] for row in ratings]
        report["annotator_kappa"] = fleiss_kappa(levels, clusters).to_dict()
    return report


def label_warnings(labels_N_K: FloatArray, schema: AttributeSchema) -> list[str]:
    """Say which attributes the training labels cannot teach apart, or hardly at all (HelpSteer2's correctness, |r| 0.94
    with helpfulness, and coherence, mean 3.64 of 4, are known cases)."""
    columns = {
        attribute.name: column_N.astype(np.float64)
        for attribute, column_N in zip(schema, labels_N_K.T, strict=True)
        if attribute.kind == "ordinal"
    }
    warnings = []
    for pair in indistinguishable_pairs(columns):
        a, b = pair["attributes"]
        warnings.append(
            f"{a} and {b} cannot be told apart in the labels (r = {pair['r']:.2f} over {pair['n']} turns): "
            "turning one dial will turn the other"
        )
    for row in low_range(columns, schema):
        warnings.append(
            f"{row['attribute']}: {row['reason']} (mean {row['mean']:.2f}, standard deviation {row['std']:.2f}, "
            f"{row['n']} labels): the dial will have little effect"
        )
    return warnings


def fit_reports(fitted: Fitted, schema: AttributeSchema) -> list[dict[str, object]]:
    """Describe every output: rows, penalty, error over that of the mean by cross-validation, what is used."""
    return [
        {
            **fit.output._asdict(),
            "joined": fit.joined,
            "rows": len(fit.rows),
            "penalty": fit.ridge.penalty,
            "error_ratio": fit.ridge.error_ratio,
            "interval": fit.interval,
            "used": ("tuned" if fit.tuned else "ridge") if fit.useful else "mean",
            **_relation(fitted, fit.output.attribute, fit.output.source),
        }
        for fit in fitted.fits
    ]


def _relation(fitted: Fitted, attribute: str, source: str | None) -> dict[str, object]:
    if source is None:
        return {}
    calibration = fitted.calibrations[attribute][source]
    others = {(b if a == source else a): r for (a, b), r in fitted.agreements[attribute].items() if source in (a, b)}
    return {"offset": calibration.offset, "slope": calibration.slope, "agreement": others}


def fit_warnings(fitted: Fitted) -> list[str]:
    """Say where sources of one name do not agree, and what cannot be predicted."""
    found = []
    for attribute, pairs in fitted.agreements.items():
        for (a, b), r in pairs.items():
            if r < MIN_AGREEMENT:
                found.append(
                    f"{attribute} means different things in {a} and {b}: what they would say of the same turns "
                    f"correlates at {r:.2f}; give them different names, or name an anchor"
                )
    for fit in fitted.fits:
        if not fit.useful:
            source = fit.output.source
            cure = f"its labels would teach a dial nothing: {MORE_TO_LEARN_FROM}"
            if source is not None:
                cure = "more or clearer ratings would help, or leaving these out"
            found.append(
                f"{fit.output.attribute}{f' of {source}' if source else ''} cannot be predicted better than by its "
                f"mean from {len(fit.rows)} rows (error ratio {fit.ridge.error_ratio:.2f}); {cure}"
            )
    return found


def dead_warnings(fitted: Fitted, readout: Readout, hidden_size: int) -> list[str]:
    """Name the dimensions of the model that never vary."""
    if not fitted.dead:
        return []
    places = readout.places()
    lengths = 4
    width = len(places) * hidden_size + lengths
    where: dict[str, list[int]] = {}
    for feature in fitted.dead:
        place, dimension = divmod(feature % width, hidden_size)
        name = f"the {places[place]}" if place < len(places) else "a length"
        where.setdefault(name if feature < width else f"{name}, tuned", []).append(dimension)
    named = [
        name if name.startswith("a length") else f"dimension {', '.join(map(str, dimensions))} of {name}"
        for name, dimensions in where.items()
    ]
    return [f"{len(fitted.dead)} of {fitted.width} features never vary and count for nothing: {'; '.join(named)}"]


def unmoved_warnings(scores: Sequence[Scores], labels: Mapping[str, npt.NDArray[np.float64]]) -> list[str]:
    """Name the ordinal attributes whose predictions hardly vary beside their labels."""
    found = []
    for name, label_N in labels.items():
        spread = float(np.std([score[name].mean for score in scores])) if scores else math.nan
        if spread < UNMOVED * float(np.nanstd(label_N)):
            found.append(
                f"{name}: the predictions hardly differ (standard deviation {spread:.3g}, of the labels "
                f"{float(np.nanstd(label_N)):.3g}): its output stayed where it started, or learned the "
                f"mean only, which would teach a dial nothing: more steps, {MORE_TO_LEARN_FROM}"
            )
    return found


def fitted_cut_points(fitted: Fitted, schema: AttributeSchema) -> dict[str, tuple[float, ...]]:
    """Fit the cuts between levels to predictions that cross-validation made."""
    cuts = {}
    for attribute in schema.ordinal:
        [fit] = fitted.common(attribute)
        truth_N, guess_N = _on_scale(attribute, fit)
        cuts[attribute.name] = fit_cut_points(attribute, truth_N, guess_N)
    return cuts


def fitted_curves(fitted: Fitted, schema: AttributeSchema) -> dict[str, LevelCurve]:
    """Fit the probabilities of the levels of attributes with few of them to predictions that cross-validation made."""
    curves = {}
    for attribute in schema.ordinal:
        [fit] = fitted.common(attribute)
        truth_N, guess_N = _on_scale(attribute, fit)
        curve = fit_level_curve(attribute, truth_N, guess_N)
        if curve is not None:
            curves[attribute.name] = curve
    return curves


def _on_scale(attribute: Attribute, fit: Fit) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return labels, and predictions by fits that have not seen them, on the attribute's scale."""
    span = attribute.maximum - attribute.minimum
    truth_N, guess_N = (attribute.minimum + span * x_N[fit.honest] for x_N in (fit.targets, fit.ridge.held_out))
    return truth_N, guess_N


def fitted_intervals(fitted: Fitted, schema: AttributeSchema) -> dict[str, float]:
    """Return per ordinal attribute how many spreads on either side hold `COVERAGE` of the labels."""
    return {attribute.name: fitted.common(attribute)[0].interval for attribute in schema.ordinal}


def coverage(
    turns: Sequence[LabelledTurn], scores: Sequence[Scores], fitted: Fitted, schema: AttributeSchema
) -> dict[str, object]:
    """Return the share of held-out labels inside the intervals, by attribute and source."""
    multiples = {(f.output.attribute, f.output.source): f.interval for f in fitted.fits}
    inside: dict[str, list[bool]] = {}
    for turn, score in zip(turns, scores, strict=True):
        for attribute in schema.ordinal:
            if attribute.name in turn.labels:
                own = multiples.get((attribute.name, turn.source))
                multiple = multiples[attribute.name, None] if own is None else own
                off = abs(float(turn.labels[attribute.name]) - score[attribute.name].mean)
                hit = off <= multiple * score[attribute.name].std
                inside.setdefault(f"{attribute.name}/{turn.source}", []).append(hit)
    return _coverage(inside)


def held_out_intervals(
    turns: Sequence[LabelledTurn], scores: Sequence[Scores], schema: AttributeSchema, seed: int
) -> tuple[dict[str, float], dict[str, object]]:
    """Return what `fitted_intervals` and `coverage` do, of a model without a fitted head.

    The multiples come from the held-out turns themselves (split conformal prediction): the coverage is that of one half
    of their groups with the multiples of the other half, both ways.

    Returns:
        Of the attributes that have labels enough for two halves.
    """
    multiples: dict[str, float] = {}
    inside: dict[str, list[bool]] = {}
    for attribute in schema.ordinal:
        name = attribute.name
        rated = [(turn, score[name]) for turn, score in zip(turns, scores, strict=True) if name in turn.labels]
        if len(rated) < 2 * _FEWEST_IN_HALF:
            continue
        groups, group_N = np.unique([turn.group for turn, _ in rated], return_inverse=True)
        half_N = np.random.default_rng(seed).permutation(len(groups))[group_N] % 2 == 1
        if min(half_N.sum(), (~half_N).sum()) < _FEWEST_IN_HALF:
            continue
        ratio_N = np.array(
            [abs(float(turn.labels[name]) - score.mean) / max(score.std, _LEAST_SPREAD) for turn, score in rated]
        )
        multiples[name] = conformal_multiple(ratio_N)
        hit_N = np.empty(len(rated), dtype=bool)
        for here_N in (half_N, ~half_N):
            hit_N[here_N] = ratio_N[here_N] <= conformal_multiple(ratio_N[~here_N])
        for (turn, _), hit in zip(rated, hit_N.tolist(), strict=True):
            inside.setdefault(f"{name}/{turn.source}", []).append(hit)
    return multiples, _coverage(inside)


def _coverage(inside: Mapping[str, Sequence[bool]]) -> dict[str, object]:
    everything = [hit for hits in inside.values() for hit in hits]
    return {
        "wanted": COVERAGE,
        "all": sum(everything) / max(1, len(everything)),
        "n": len(everything),
        "by_source": {name: {"n": len(hits), "share": sum(hits) / len(hits)} for name, hits in inside.items()},
    }
