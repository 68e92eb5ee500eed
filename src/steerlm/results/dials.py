"""How attributes follow their dials, in the results of evaluate and of all that compares with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steerlm.results.codec import FLAT
from steerlm.statistics.estimates import Estimate


@dataclass(frozen=True)
class CurvePoint:
    """The mean obtained at one level asked for."""

    requested: float
    estimate: Estimate = field(metadata=FLAT)


@dataclass(frozen=True)
class Leak:
    """The attribute that a dial moves most against its will, and by how much per level."""

    attribute: str
    estimate: Estimate = field(metadata=FLAT)


@dataclass(frozen=True)
class DialLeak:
    """The largest leak of all dials."""

    dial: str
    leak: Leak = field(metadata=FLAT)


@dataclass(frozen=True)
class Misses:
    """How far off a dial is, in `n` answers.

    Attributes:
        mae: mean absolute error in levels.
        exact: share that rounds to the level asked for.
    """

    n: int
    mae: Estimate
    exact: Estimate


@dataclass(frozen=True)
class Following(Misses):
    """How an attribute follows its dial; a slope of 1 is exact."""

    spearman: Estimate
    slope: Estimate


@dataclass(frozen=True, kw_only=True)
class DialResult:
    """How one ordinal attribute follows its own dial.

    Attributes:
        constant: the only value ever obtained; None where it varies.
        spearman: pooled over all sweeps; `n`, `mae`, `exact` and `slope` as in `Following`.
        spearman_per_prompt: mean over sweeps; a sweep without any change counts 0.
        monotonicity: share of level pairs in the right order, ties half.
        contexts: the same by what the other dials stood at.
        support: for settings `seen` and `unseen` in training, where there are both.
        curve: per level asked for the mean obtained.
    """

    clusters: int
    constant: float | None
    n: int
    mae: Estimate
    exact: Estimate
    spearman: Estimate
    slope: Estimate
    spearman_per_prompt: Estimate
    monotonicity: Estimate
    contexts: Mapping[str, Following]
    support: Mapping[str, Misses]
    curve: Sequence[CurvePoint]
    largest_leak: Leak | None


@dataclass(frozen=True)
class CategoryResult:
    """How a categorical attribute follows its dial.

    Attributes:
        accuracy: share of answers in the category asked for.
        confusion: per category asked for the share of answers in each category.
    """

    n: int
    accuracy: Estimate
    confusion: Mapping[str, Mapping[str, Estimate]]


@dataclass(frozen=True, kw_only=True)
class Differences:
    """After minus before; `at_best`: what is obtained when the best is asked for."""

    mae: Estimate | None = None
    spearman: Estimate | None = None
    slope: Estimate | None = None
    at_best: Estimate | None = None
