"""The probe of SteerBench: source texts spread over the goals' space, and for each a number of requests to move it.

The requests are drawn in the order of the original (NumPy's legacy generator), so that a seed gives the same ones.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from steerlm.errors import UserError, did_you_mean
from steerlm.scorers.goal_measures import GOALS
from steerlm.scorers.goal_measures import PUBLISHED_BOUNDS as GOAL_BOUNDS
from steerlm.statistics.estimates import FloatArray
from steerlm.statistics.steerability import uniform_weights
from steerlm.storage.files import open_text_bytes

LEAST_MOVE, FARTHEST_MOVE = 0.1, 0.7
_LONGEST_FIELD = 1 << 24
_SHOWN = 30
"""Columns, and characters of each, that an error names of a file that may be anything."""


class Bounds(NamedTuple):
    """Raw values that are 0 and 1, per goal."""

    low: FloatArray
    high: FloatArray

    def scale(self, raw: FloatArray) -> FloatArray:
        """Return the values on 0..1; beyond the bounds they are 0 and 1."""
        return np.asarray(np.clip((raw - self.low) / (self.high - self.low), 0, 1), dtype=np.float64)

    def raw(self, point: FloatArray) -> FloatArray:
        """Return the raw values of a point on 0..1."""
        return np.asarray(self.low + point * (self.high - self.low), dtype=np.float64)

    def to_dict(self) -> dict[str, list[float]]:
        return {g: [float(a), float(b)] for g, a, b in zip(GOALS, self.low, self.high, strict=True)}


PUBLISHED_BOUNDS = Bounds(*np.array(GOAL_BOUNDS).T)
"""Of the benchmark."""


def fit_bounds(raw: FloatArray) -> Bounds:
    """Return the bounds that hold the middle 95 % of texts."""
    low, high = np.percentile(raw, [2.5, 97.5], axis=0)
    flat = [goal for goal, a, b in zip(GOALS, low, high, strict=True) if not b > a]
    if flat:
        raise UserError(f"the texts do not differ in {' and '.join(flat)}; give more texts, or the published bounds")
    return Bounds(low, high)


@dataclass(frozen=True)
class ProbeRow:
    """One request: a source text and where its measures should go.

    Attributes:
        text: number of the source text.
        source: its measures, 0..1.
        delta: what is asked for; NaN where nothing is.
    """

    text: int
    source: FloatArray
    delta: FloatArray

    @property
    def target(self) -> FloatArray:
        """Where the measures should come."""
        return np.where(np.isnan(self.delta), self.source, self.source + self.delta)


@dataclass(frozen=True)
class Probe:
    """What is asked: the source texts and the requests.

    Attributes:
        source: where the texts come from, in words.
        published: the rows are those of the benchmark itself.
    """

    texts: tuple[str, ...]
    rows: tuple[ProbeRow, ...]
    bounds: Bounds
    source: str
    published: bool = False


def draw_deltas(source: FloatArray, active: int, random: np.random.RandomState) -> FloatArray:
    """Draw what every row asks for: `active` goals each, moved by 0.1 to 0.7 as far as 0..1 allows; others NaN."""
    num, d = source.shape
    asked = np.zeros((num, d), dtype=bool)
    for row in asked:
        row[random.choice(range(d), size=active, replace=False)] = True
    down = np.clip(source - LEAST_MOVE, 0, FARTHEST_MOVE - LEAST_MOVE)
    up = np.clip(1 - source - LEAST_MOVE, 0, FARTHEST_MOVE - LEAST_MOVE)
    start = np.where(source < LEAST_MOVE, LEAST_MOVE, np.maximum(-source, -FARTHEST_MOVE))
    end = np.where(1 - source < LEAST_MOVE, -LEAST_MOVE, np.minimum(1 - source, FARTHEST_MOVE))
    drawn = random.rand(num, d) * (down + up) + start
    drawn[(drawn > -LEAST_MOVE) & (start < LEAST_MOVE) & (end > -LEAST_MOVE)] += 2 * LEAST_MOVE
    return np.where(asked, drawn, np.nan)


def make_probe(
    texts: Sequence[str],
    raw: FloatArray,
    source: str,
    *,
    bounds: Bounds,
    num_texts: int,
    num_goals: int,
    active: int,
    seed: int,
) -> Probe:
    """Draw a probe from texts.

    Args:
        raw: their measures, shape (N, 4).
        source: where they come from.
        num_texts: so many are drawn, evenly over the goals' space; all where there are fewer.
        active: goals that each request moves.
    """
    points = bounds.scale(raw)
    size = min(num_texts, len(texts))
    weights = uniform_weights(points, np.random.RandomState(seed))
    chosen = np.random.RandomState(seed).choice(len(texts), size=size, replace=False, p=weights)
    owners = np.repeat(np.arange(size), num_goals)
    sources = points[chosen][owners]
    deltas = draw_deltas(sources, active, np.random.RandomState(seed))
    rows = tuple(ProbeRow(int(t), z, delta) for t, z, delta in zip(owners, sources, deltas, strict=True))
    return Probe(tuple(texts[i] for i in chosen), rows, bounds, source)


def read_probe(path: Path) -> Probe:
    """Read a probe in the benchmark's own form, a CSV with `text`, `source_<goal>` and `delta_<goal>`.

    Raises:
        UserError: columns are missing, or a cell is no number; with the line.
    """
    needed = ["text", *(f"{kind}_{goal}" for kind in ("source", "delta") for goal in GOALS)]
    csv.field_size_limit(_LONGEST_FIELD)
    with open_text_bytes(path) as stream:
        reader = csv.DictReader(line.decode("utf-8") for line in stream)
        columns = reader.fieldnames or []
        for name in needed:
            if name not in columns:
                shown = [column[:_SHOWN] for column in columns[:_SHOWN]]
                raise UserError(f"{path}: a probe needs the column {name!r}: {did_you_mean(name, shown)}")
        numbers: dict[str, int] = {}
        rows = []
        for line in reader:
            text = numbers.setdefault(line["text"], len(numbers))
            at = f"{path}, line {reader.line_num}"
            source, delta = (np.array([_cell(line, f"{kind}_{g}", at) for g in GOALS]) for kind in ("source", "delta"))
            if np.isnan(source).any():
                raise UserError(f"{at}: a source value is missing")
            rows.append(ProbeRow(text, source, delta))
    if not rows:
        raise UserError(f"{path} holds no rows")
    return Probe(tuple(numbers), tuple(rows), PUBLISHED_BOUNDS, path.name, published=True)


def _cell(line: Mapping[str, str | None], name: str, at: str) -> float:
    text = (line[name] or "").strip()
    try:
        return float(text) if text else math.nan
    except ValueError:
        raise UserError(f"{at}: {name} is {text!r}, not a number") from None
