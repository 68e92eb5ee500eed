"""A system's score as a share of a reference system's, from reviews that score two answers side by side.

The SteerLM paper (section 4.1) and QLoRA before it report "% of ChatGPT": the sum of a system's scores by that of the
reference. Judges prefer one of the two positions, so each order is a figure of its own, and the mean is the ratio of
the sums over both orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from steerlm.statistics.estimates import Estimate, FloatArray, Weights, cluster_bootstrap, divide


@dataclass(frozen=True)
class ScoredPair:
    """Two answers to a prompt with one score each, in the order in which the judge saw them."""

    prompt: str
    first: str
    second: str
    first_score: float
    second_score: float


@dataclass(frozen=True)
class ScoreRatio:
    """A system's scores as a share of the reference's (1.0 = as good), with intervals clustered by prompt.

    Attributes:
        reference_first: over reviews that showed the reference's answer first; no value where there are none.
        system_first: over reviews that showed the system's answer first.
        pooled: over both.
    """

    reference_first: Estimate
    system_first: Estimate
    pooled: Estimate


def score_ratios(pairs: Sequence[ScoredPair], reference: str) -> dict[str, ScoreRatio]:
    """Return the score ratio of every system that was reviewed beside the reference.

    Args:
        pairs: reviews; those without the reference are passed over. Reviews without scores are left out before.
    """
    rows: dict[str, list[tuple[bool, str, float, float]]] = {}
    for pair in pairs:
        if pair.first == reference:
            rows.setdefault(pair.second, []).append((True, pair.prompt, pair.second_score, pair.first_score))
        elif pair.second == reference:
            rows.setdefault(pair.first, []).append((False, pair.prompt, pair.first_score, pair.second_score))
    return {
        system: ScoreRatio(
            _ratio([row for row in found if row[0]]), _ratio([row for row in found if not row[0]]), _ratio(found)
        )
        for system, found in rows.items()
    }


def _ratio(rows: Sequence[tuple[bool, str, float, float]]) -> Estimate:
    scores, references = [row[2] for row in rows], [row[3] for row in rows]
    return cluster_bootstrap(_ratio_of_sums, [scores, references], [row[1] for row in rows])


def _ratio_of_sums(weights: Weights, scores_N: FloatArray, references_N: FloatArray) -> FloatArray:
    totals_R2 = weights.totals(scores_N, references_N)
    return divide(totals_R2[:, 0], totals_R2[:, 1])
