"""From measured answers to figures with intervals: prompts are resampled, seeds are shown.

A figure pools the seeds of a rung; its interval comes from resampled prompts, which all seeds share. How much the seeds
differ is told apart from that: every seed's own figure, and a t interval over them. With three seeds the latter is
wide, and it should be.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Score
from steerlm.results.studies import (
    DialFigures,
    DialsEstimate,
    Gain,
    ModelFigures,
    OverSeeds,
    SeededEstimate,
    TextFigures,
)
from steerlm.scorers.measures import distinct_n
from steerlm.stages.tuning.quality import predicted_quality
from steerlm.statistics.estimates import (
    Estimate,
    FloatArray,
    Statistic,
    Weights,
    cluster_bootstrap,
    estimate_share,
    mean,
    mean_absolute_error,
    slope,
    spearman,
)
from steerlm.studies.ablate.measuring import Row

Answers = Mapping[int, Sequence[Row]]
"""Seed -> the rows of `measuring.read_answers`."""


@dataclass(frozen=True)
class Judged:
    """Who measures each attribute, and which attributes count as quality."""

    schema: AttributeSchema
    headline: Mapping[str, str]
    quality: tuple[str, ...]

    def of(self, answer: Row, name: str) -> float | None:
        """What the quoted scorer measures of an attribute; None where it has no answer."""
        row = answer["scores"].get(self.headline.get(name, ""))
        return None if row is None or row[name] is None else float(row[name])

    def quality_of(self, answer: Row) -> float | None:
        """The mean level of the quality attributes, each counted towards its best end."""
        values = {name: self.of(answer, name) for name in self.quality}
        scores = {name: Score(value, 0.0) for name, value in values.items() if value is not None}
        if len(scores) < len(values):
            return None
        return predicted_quality(self.schema, self.quality, scores)


def describe(answers: Answers, judged: Judged) -> ModelFigures:
    """Return the figures of one rung (or baseline)."""
    attributes = {a.name: _best(answers, lambda row, n=a.name: judged.of(row, n)) for a in judged.schema.ordinal}
    return ModelFigures(
        quality=_estimate(mean, [_best(answers, judged.quality_of)]),
        attributes={
            name: _estimate(mean, [columns]) for name, columns in attributes.items() if name in judged.headline
        },
        steering=_steering(answers, judged),
        text=_text(answers),
    )


def gain(before: Answers, after: Answers, judged: Judged) -> Gain:
    """Compare two rungs on the prompts, settings and seeds that both have."""
    return Gain(
        quality=_estimate(mean, [_differences(_by_prompt(before, judged), _by_prompt(after, judged))]),
        error=_estimate(mean, [_differences(_errors(before, judged), _errors(after, judged))]),
    )


@dataclass(frozen=True)
class Columns:
    """Observations: the prompt and the seed each comes from, and its numbers."""

    cluster: Sequence[int]
    seed: Sequence[int]
    values: tuple[Sequence[float], ...]


def _best(answers: Answers, value: Any) -> Columns:
    """What the answers to the maximum-quality setting are worth."""
    found = [
        (row["cluster"], seed, measured)
        for seed, rows in answers.items()
        for row in rows
        for measured in map(value, row["best"])
        if measured is not None
    ]
    return Columns([c for c, _, _ in found], [s for _, s, _ in found], ([v for _, _, v in found],))


def _estimate(statistic: Statistic, blocks: Sequence[Columns]) -> SeededEstimate:
    """Estimate the mean over blocks of a statistic, all resampled by prompt together, and once per seed."""
    seeds = sorted({seed for block in blocks for seed in block.seed})
    each = {seed: _bootstrap(statistic, [_of_seed(block, seed) for block in blocks]) for seed in seeds}
    return SeededEstimate(
        estimate=_bootstrap(statistic, blocks),
        seeds={str(seed): estimate for seed, estimate in each.items()},
        over_seeds=over_seeds([estimate.value for estimate in each.values()]),
    )


def over_seeds(values: Sequence[float]) -> OverSeeds:
    """Return mean, standard deviation and 95 % t interval of one figure per seed; no interval for a single seed."""
    n = len(values)
    if n == 0 or not all(map(math.isfinite, values)):
        return OverSeeds(n, math.nan, math.nan, math.nan, math.nan)
    middle = float(np.mean(values))
    if n == 1:
        return OverSeeds(n, middle, math.nan, math.nan, math.nan)
    sd = float(np.std(values, ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return OverSeeds(n, middle, sd, middle - half, middle + half)


def _of_seed(block: Columns, seed: int) -> Columns:
    rows = [i for i, s in enumerate(block.seed) if s == seed]
    return Columns(
        [block.cluster[i] for i in rows],
        [seed] * len(rows),
        tuple([column[i] for i in rows] for column in block.values),
    )


def _bootstrap(statistic: Statistic, blocks: Sequence[Columns]) -> Estimate:
    blocks = [block for block in blocks if block.cluster]
    if not blocks:
        return Estimate(math.nan, math.nan, math.nan, 0, 0, "no data")
    edges = np.cumsum([0, *(len(block.cluster) for block in blocks)])
    arrays = [np.concatenate(column) for column in zip(*(block.values for block in blocks), strict=True)]

    def averaged(weights: Weights, *columns: FloatArray) -> FloatArray:
        parts = [
            statistic(weights.take(slice(i, j)), *(column[i:j] for column in columns))
            for i, j in itertools.pairwise(edges)
        ]
        return np.asarray(np.mean(parts, axis=0), dtype=np.float64)

    return cluster_bootstrap(averaged, arrays, [c for block in blocks for c in block.cluster])


def _steering(answers: Answers, judged: Judged) -> DialFigures:
    by_dial = _sweeps(answers, judged)
    if not any(columns.cluster for columns in by_dial.values()):
        return DialFigures()

    def figure(statistic: Statistic) -> DialsEstimate:
        each = {dial: _bootstrap(statistic, [columns]) for dial, columns in by_dial.items()}
        return DialsEstimate(_estimate(statistic, list(by_dial.values())), each)

    return DialFigures(error=figure(mean_absolute_error), spearman=figure(spearman), slope=figure(slope))


def _sweeps(answers: Answers, judged: Judged) -> dict[str, Columns]:
    """Per dial the levels asked for and obtained."""
    found: dict[str, list[tuple[int, int, float, float]]] = {}
    for seed, rows in answers.items():
        for row in rows:
            for answer in row["sweep"]:
                obtained = judged.of(answer, answer["dial"])
                if obtained is not None:
                    observation = (row["cluster"], seed, float(answer["level"]), obtained)
                    found.setdefault(answer["dial"], []).append(observation)
    return {
        dial: Columns([o[0] for o in rows], [o[1] for o in rows], ([o[2] for o in rows], [o[3] for o in rows]))
        for dial, rows in found.items()
    }


Paired = dict[tuple[Any, ...], tuple[int, int, float]]
"""What two rungs share (prompt, seed, and so on) -> (prompt's cluster, seed, value)."""


def _by_prompt(answers: Answers, judged: Judged) -> Paired:
    """The mean quality of the answers to each prompt."""
    found: Paired = {}
    for seed, rows in answers.items():
        for row in rows:
            values = [value for value in map(judged.quality_of, row["best"]) if value is not None]
            if values:
                found[seed, row["prompt"]] = (row["cluster"], seed, float(np.mean(values)))
    return found


def _errors(answers: Answers, judged: Judged) -> Paired:
    found: Paired = {}
    for seed, rows in answers.items():
        for row in rows:
            for answer in row["sweep"]:
                obtained = judged.of(answer, answer["dial"])
                if obtained is not None:
                    error = abs(obtained - float(answer["level"]))
                    found[seed, row["prompt"], answer["dial"], answer["level"]] = (row["cluster"], seed, error)
    return found


def _differences(before: Paired, after: Paired) -> Columns:
    shared = [(after[key], before[key]) for key in after if key in before]
    return Columns([a[0] for a, _ in shared], [a[1] for a, _ in shared], ([a[2] - b[2] for a, b in shared],))


def _text(answers: Answers) -> TextFigures:
    """Length and diversity of the answers to the maximum-quality setting."""
    unfinished = _best(answers, lambda answer: float(not answer["finished"]))
    each = [[[answer["text"] for answer in row["best"]] for row in rows] for rows in answers.values()]
    texts = [[text for prompt in prompts for text in prompt] for prompts in each]
    prompts = [prompt for rows in each for prompt in rows if len(prompt) > 1]
    return TextFigures(
        answers=sum(map(len, texts)),
        unanswered=sum(not prompt for rows in each for prompt in rows),
        tokens=_estimate(mean, [_best(answers, lambda answer: float(answer["num_tokens"]))]),
        unfinished=estimate_share(unfinished.values[0], unfinished.cluster),
        # collections of equal size: the answers of one seed
        distinct_1=float(np.mean([distinct_n(t, 1) for t in texts])),
        distinct_2=float(np.mean([distinct_n(t, 2) for t in texts])),
        unique=float(np.mean([len(set(t)) / max(1, len(t)) for t in texts])),
        unique_per_prompt=float(np.mean([len(set(p)) / len(p) for p in prompts])) if prompts else math.nan,
    )
