"""What `steerlm evaluate --suite steerbench` writes: `steerbench.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steerlm.results.codec import read_result
from steerlm.statistics.estimates import Estimate
from steerlm.statistics.steerability import SteerabilitySummary

Mode = Literal["reference", "words", "dials"]
"""A rule that is no model; asked in the benchmark's words, comparable with published figures; asked by dials."""


@dataclass(frozen=True)
class ProbeDescription:
    """What was asked.

    Attributes:
        source: where the texts come from.
        published: the rows are those of the benchmark itself.
        bounds: raw values that are 0 and 1, by goal.
        bounds_from: the benchmark's own, or fitted to these texts.
    """

    source: str
    published: bool
    texts: int
    rows: int
    bounds: Mapping[str, Sequence[float]]
    bounds_from: Literal["published", "fitted"]
    seed: int


@dataclass(frozen=True)
class MeasuredBy:
    """What the texts were measured with; another version moves single values, see the page on the suite."""

    versions: Mapping[str, str]
    real_words: bool


@dataclass(frozen=True)
class RowGroup:
    """Figures of some rows, of movements in bins (as published) and as they are."""

    binned: SteerabilitySummary
    unbinned: SteerabilitySummary


@dataclass(frozen=True)
class GoalMovement:
    """What became of one goal.

    Attributes:
        asked: rows that ask for it.
        still: share of those in which it stayed in its bin.
        strayed: share of the other rows in which it left its bin.
        at_one: share of all rows in which it ends at exactly 1, which counts as moved whatever its source was.
    """

    asked: int
    still: float
    strayed: float
    at_one: float


@dataclass(frozen=True, kw_only=True)
class PolicyResult:
    """How one system, or one rule, did.

    Attributes:
        name: of the system or rule.
        unanswered: rows left out, because there is no answer.
        figures: of all rows.
        correlated: rows that ask reading difficulty and formality to go the same way; `anticorrelated`: opposite ways.
        leakage: per goal asked for, the change of every goal per unit requested (least squares over all rows).
        r2: share of the movements' variance that this linear response explains.
        overlap: share of the source's and the answer's content words that both have; what is no rewrite is low.
        published_side_effects: the median share of side effects as the benchmark's first figures count it.
    """

    name: str
    mode: Mode
    label: str
    unanswered: int
    figures: RowGroup
    correlated: RowGroup
    anticorrelated: RowGroup
    goals: Mapping[str, GoalMovement]
    leakage: Mapping[str, Mapping[str, float]]
    r2: float
    overlap: Estimate
    published_side_effects: float


@dataclass(frozen=True, kw_only=True)
class SteerbenchResult:
    """The file."""

    version: int = 0
    probe: ProbeDescription
    measured_by: MeasuredBy
    cautions: Sequence[str]
    policies: Sequence[PolicyResult]

    def of_mode(self, mode: Mode) -> list[PolicyResult]:
        return [policy for policy in self.policies if policy.mode == mode]


def read_steerbench(folder: Path) -> SteerbenchResult | None:
    """Read the results of a folder, or of the evaluation of a run; None where there are none.

    Raises:
        UserError: a damaged file.
    """
    for path in (folder / "steerbench.json", folder / "evaluate" / "suites" / "steerbench" / "steerbench.json"):
        if path.is_file():
            return read_result(SteerbenchResult, path)
    return None
