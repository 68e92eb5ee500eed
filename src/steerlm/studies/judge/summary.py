"""What the judgements say: scores and win rates with intervals, what has no verdict, and how the order mattered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from steerlm.scorers.llm.judge import Judgement, to_matches
from steerlm.statistics.estimates import cluster_bootstrap, mean, to_dicts
from steerlm.statistics.rankings import flip_rate, overall_win_rates, position_bias, win_rates
from steerlm.statistics.score_ratios import ScoredPair, score_ratios

Json = dict[str, Any]
"""A piece of `results.json`."""


def summarise(judgements: Sequence[Judgement], baseline: str | None = None) -> Json:
    """Sum up judgements of one or several protocols.

    Args:
        baseline: the system that scores are given as a share of (Vicuna protocol); None: no shares.

    Returns:
        JSON-able: `counts` (asked, parsed, unparsed, failed), `problems` by kind, and where they apply `pairs`
        (position bias, flip rate, win rates), `scores` per system (Vicuna), `ratings` per system (MT-bench),
        `attributes` per system (levels), and `categories` per categorical attribute and system (share of each). Every
        estimate is clustered by question.
    """
    pairs = [judgement for judgement in judgements if len(judgement.systems) == 2]
    out: Json = {
        "judges": sorted({judgement.judge for judgement in judgements if judgement.judge}),
        "counts": count(judgements),
        "problems": dict(Counter(judgement.problem for judgement in judgements if judgement.problem).most_common()),
    }
    if pairs:
        out["pairs"] = _pairs(pairs)
    scored = [judgement for judgement in pairs if len(judgement.scores) == 2]
    if scored:
        out["scores"] = _scores(scored, baseline)
    ratings = [j for j in judgements if len(j.systems) == 1 and j.scores and not j.attribute]
    if ratings:
        out["ratings"] = {name: _ratings(of) for name, of in _by_system(ratings).items()}
    rated = [judgement for judgement in judgements if judgement.attribute and judgement.scores]
    if levels := [judgement for judgement in rated if not judgement.categories]:
        out["attributes"] = {name: _attributes(of) for name, of in _by_system(levels).items()}
    if named := [judgement for judgement in rated if judgement.categories]:
        out["categories"] = {
            attribute: {name: _shares(of) for name, of in _by_system(of_attribute).items()}
            for attribute, of_attribute in _by_attribute(named).items()
        }
    return out


def count(judgements: Sequence[Judgement]) -> dict[str, int]:
    """Count what was asked, parsed, not parsed, and what the endpoint did not answer."""
    failed = sum(judgement.failed for judgement in judgements)
    unparsed = sum(bool(judgement.problem) and not judgement.failed for judgement in judgements)
    parsed = len(judgements) - failed - unparsed
    return {"asked": len(judgements), "parsed": parsed, "unparsed": unparsed, "failed": failed}


def without_verdict(judgements: Iterable[Judgement]) -> list[Json]:
    """Return what has no verdict: where it belongs, why, and the output verbatim."""
    kept = ("question", "turn", "kind", "systems", "attribute", "failed", "problem", "text")
    found = [asdict(judgement) for judgement in judgements if judgement.problem]
    return [{key: row[key] for key in kept} for row in found]


def _pairs(pairs: Sequence[Judgement]) -> Json:
    matches = to_matches(pairs)
    turns = sorted({judgement.turn for judgement in pairs})
    return {
        "position_bias": position_bias(matches).to_dict(),
        # the two turns of a question are two comparisons: each has its own flips
        "flip_rate": {str(t): flip_rate(to_matches(j for j in pairs if j.turn == t)).to_dict() for t in turns},
        "overall": to_dicts(overall_win_rates(matches)),
        "head_to_head": {
            a: {b: record.to_dict() for b, record in row.items()} for a, row in win_rates(matches).items()
        },
    }


def to_scored_pairs(judgements: Iterable[Judgement]) -> list[ScoredPair]:
    """Return the score pairs of the Vicuna protocol; judgements without one are left out: count them."""
    scored = [judgement for judgement in judgements if len(judgement.scores) == 2]
    return [ScoredPair(j.question, j.systems[0], j.systems[1], *j.scores) for j in scored]


def _scores(scored: Sequence[Judgement], baseline: str | None) -> Json:
    """Mean score of every system, by the position its answer was shown in, and its share of the baseline's."""
    rows: dict[str, list[tuple[str, float, int]]] = {}
    for judgement in scored:
        for position, (name, score) in enumerate(zip(judgement.systems, judgement.scores, strict=True)):
            rows.setdefault(name, []).append((judgement.question, score, position))
    ratios = {} if baseline is None else score_ratios(to_scored_pairs(scored), baseline)
    out: Json = {}
    for name, found in rows.items():
        out[name] = {"all": _mean((question, score) for question, score, _ in found)}
        for position, word in enumerate(("first", "second")):
            out[name][word] = _mean((question, score) for question, score, at in found if at == position)
        if name in ratios:
            out[name]["share_of_baseline"] = {
                "baseline_first": ratios[name].reference_first.to_dict(),
                "system_first": ratios[name].system_first.to_dict(),
                "pooled": ratios[name].pooled.to_dict(),
            }
    return out


def _ratings(judgements: Sequence[Judgement]) -> Json:
    turns = sorted({judgement.turn for judgement in judgements})
    by_turn = {f"turn_{t}": _mean((j.question, j.scores[0]) for j in judgements if j.turn == t) for t in turns}
    return {"all": _mean((j.question, j.scores[0]) for j in judgements), **by_turn}


def _attributes(judgements: Sequence[Judgement]) -> Json:
    return {name: _mean((j.question, j.scores[0]) for j in of) for name, of in _by_attribute(judgements).items()}


def _shares(judgements: Sequence[Judgement]) -> Json:
    """Share of every category of one attribute."""
    return {
        category: _mean((j.question, float(j.scores[0] == index)) for j in judgements)
        for index, category in enumerate(judgements[0].categories)
    }


def _by_attribute(judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    return _grouped(judgements, lambda judgement: judgement.attribute)


def _by_system(judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    return _grouped(judgements, lambda judgement: judgement.systems[0])


def _grouped(judgements: Sequence[Judgement], key: Callable[[Judgement], str]) -> dict[str, list[Judgement]]:
    """Return the judgements of every key, both in the order of the judgements."""
    found: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        found.setdefault(key(judgement), []).append(judgement)
    return found


def _mean(rows: Iterable[tuple[str, float]]) -> Json:
    found = list(rows)
    return cluster_bootstrap(mean, [[score for _, score in found]], [question for question, _ in found]).to_dict()
