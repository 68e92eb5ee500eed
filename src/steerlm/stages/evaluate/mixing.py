"""Several dials at once: SteerBench's figures of generation, and what single dials say of mixed requests.

An answer is a point: what its quoted scorers measure, each attribute on 0..1. Where all dials stand at their defaults
the mean answer is the source, and every other setting asks to move from there: to the level of each dial that is off
its default, and nowhere with the others. Sweeps hold many such settings already. If the response is linear the leakage
matrix of single dials predicts all of them (its residual is interaction). Answers at the defaults themselves show how
far noise alone moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from steerlm.attributes import AttributeSchema
from steerlm.results.evaluation import ScorerResult
from steerlm.results.steerability import MixedFigures, Steerability, SteeringPrediction
from steerlm.stages.evaluate.observing import ScoreRow
from steerlm.stages.evaluate.sweeping import SweepPlan
from steerlm.statistics.estimates import FloatArray, cluster_bootstrap, mean
from steerlm.statistics.steerability import (
    Movements,
    SteeringFigures,
    explained,
    linear_response,
    movements,
    steering_figures,
)

_LEAST_PUSH = 0.01
"""Leakage along a request, as a share of it, below which it neither helps nor hinders."""
_FEWEST = 2
"""Attributes, below which nothing can leak."""


class _Points(NamedTuple):
    """Answers as columns: the group of the prompt, what was asked, shape (N, d), and what was obtained.

    Attributes:
        at_home: whether every category stands at its default: another one may move what is measured.
    """

    cluster: NDArray[np.int64]
    asked: FloatArray
    obtained: FloatArray
    at_home: NDArray[np.bool_]


@dataclass(frozen=True)
class _Space:
    """The attributes that span it, where the defaults stand, and the leakage in its units."""

    names: tuple[str, ...]
    defaults: FloatArray
    leakage: FloatArray


def steerability(
    plan: SweepPlan,
    scores: Mapping[str, Sequence[ScoreRow]],
    schema: AttributeSchema,
    headline: Mapping[str, str],
    results: Mapping[str, ScorerResult],
) -> Steerability | None:
    """Report how requests of one and of several dials are met.

    Args:
        scores: by scorer, one row per ask.
        headline: attribute -> the scorer that is quoted.
        results: by scorer, whose leakage predicts.

    Returns:
        None where fewer than two ordinal attributes are measured, or no answer stands at the defaults.
    """
    names = tuple(a.name for a in schema.ordinal if a.name in headline and a.name in _row(results, headline, a.name))
    if len(names) < _FEWEST:
        return None
    space = _Space(
        names,
        np.array([schema[name].to_unit(float(schema.defaults[name])) for name in names]),
        _leakage(schema, names, headline, results),
    )
    points = _points(plan, scores, schema, headline, names)
    moved_dials = ~np.isclose(points.asked, space.defaults)
    still = ~moved_dials.any(axis=1) & points.at_home
    if not still.any() or still.all():
        return None
    source = points.obtained[still].mean(axis=0)
    delta = np.where(moved_dials, points.asked - source, np.nan)
    vectors = movements(np.broadcast_to(source, delta.shape), delta, points.obtained, cuts=False)
    figures = steering_figures(vectors)
    count = moved_dials.sum(axis=1)
    several = count >= _FEWEST
    turned = points.asked - space.defaults
    leaked = turned @ (space.leakage - np.diag(np.diag(space.leakage)))
    along = (leaked * turned).sum(axis=1) / np.maximum((turned**2).sum(axis=1), _LEAST_PUSH)

    def group(mask: NDArray[np.bool_]) -> MixedFigures | None:
        return _summary(SteeringFigures(*(x[mask] for x in figures)), points.cluster[mask]) if mask.any() else None

    noise = np.linalg.norm(points.obtained[still] - source, axis=1)
    return Steerability(
        attributes=list(names),
        floor=cluster_bootstrap(mean, [noise], points.cluster[still]),
        single=group(count == 1),
        several=group(several),
        correlated=group(several & (along > _LEAST_PUSH)),
        anticorrelated=group(several & (along < -_LEAST_PUSH)),
        prediction=_prediction(Movements(*(x[several] for x in vectors)), turned[several], space)
        if several.any()
        else None,
    )


def _row(results: Mapping[str, ScorerResult], headline: Mapping[str, str], name: str) -> Mapping[str, object]:
    return results[headline[name]].leakage.get(name, {})


def _leakage(
    schema: AttributeSchema, names: Sequence[str], headline: Mapping[str, str], results: Mapping[str, ScorerResult]
) -> FloatArray:
    """Return the change of each attribute (by its quoted scorer) per whole range of each dial, in shares of its own."""

    def width(name: str) -> float:
        return float(schema[name].maximum - schema[name].minimum)

    rows = [
        [results[headline[j]].leakage[i][j].value * width(i) / width(j) for j in names]
        for i in names
    ]  # fmt: skip
    return np.nan_to_num(np.array(rows, dtype=np.float64))


def _points(
    plan: SweepPlan,
    scores: Mapping[str, Sequence[ScoreRow]],
    schema: AttributeSchema,
    headline: Mapping[str, str],
    names: Sequence[str],
) -> _Points:
    """Lay out the answers that have a score of every attribute."""
    cluster, asked, obtained, at_home = [], [], [], []
    categories = [attribute for attribute in schema if attribute.kind == "categorical"]
    for number, ask in enumerate(plan.asks):
        if any(name not in ask.attributes for name in names):
            continue
        by_scorer = {id_: scores[id_][number]["scores"] for id_ in {headline[name] for name in names}}
        for k in range(min(map(len, by_scorer.values()))):
            found = [(by_scorer[headline[name]][k] or {}).get(name) for name in names]
            if any(value is None for value in found):
                continue
            cluster.append(plan.prompts[ask.prompt].cluster)
            at_home.append(all(ask.attributes.get(a.name, a.default_value) == a.default_value for a in categories))
            asked.append([schema[name].to_unit(float(ask.attributes[name])) for name in names])
            obtained.append([schema[n].to_unit(v) for n, v in zip(names, found, strict=True) if v is not None])
    shape = (len(cluster), len(names))
    there, here = (np.array(rows, dtype=np.float64).reshape(shape) for rows in (asked, obtained))
    return _Points(np.array(cluster, dtype=np.int64), there, here, np.array(at_home, dtype=np.bool_))


def _summary(figures: SteeringFigures, cluster: NDArray[np.int64]) -> MixedFigures:
    return MixedFigures(len(cluster), *(cluster_bootstrap(mean, [values], cluster) for values in figures))


def _prediction(vectors: Movements, turned: FloatArray, space: _Space) -> SteeringPrediction:
    """Compare mixed requests with what the leakage matrix says of them."""
    predicted = turned @ space.leakage
    figures = steering_figures(Movements(vectors.requested, predicted, vectors.requested - predicted))
    return SteeringPrediction(
        miscalibration=float(figures.miscalibration.mean()),
        side_effects=float(figures.side_effects.mean()),
        r2=explained(vectors.moved, predicted),
        best_r2=linear_response(np.column_stack([turned, np.ones(len(turned))]), vectors.moved).r2,
    )
