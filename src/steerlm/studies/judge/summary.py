"""What the judgements say: scores and win rates with intervals, what has no verdict, and how the order mattered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from steerlm.scorers.llm.judge import Judgement, to_matches
from steerlm.statistics.estimates import cluster_bootstrap, mean
from steerlm.statistics.rankings import flip_rate, overall_win_rates, position_bias, win_rates
from steerlm.statistics.score_ratios import ScoredPair, score_ratios


def summarise(judgements: Sequence[Judgement], baseline: str | None = None) -> dict[str, Any]:
    """Sum up judgements of one or several protocols.

    Args:
        judgements: as `judge` or `stored.read_stored` return them.
        baseline: the system that scores are given as a share of (Vicuna protocol); None: no shares.

    Returns:
        JSON-able: `counts` (asked, parsed, unparsed, failed), `problems` by kind, and where they apply `pairs`
        (position bias, flip rate, win rates), `scores` per system (Vicuna), `ratings` per system (MT-bench) and
        `attributes` per system. Every estimate is clustered by question.
    """
    pairs = [judgement for judgement in judgements if len(judgement.systems) == 2]
    out: dict[str, Any] = {
        "judges": sorted({judgement.judge for judgement in judgements if judgement.judge}),
        "counts": count(judgements),
        "problems": _problems(judgements),
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
    if rated:
        out["attributes"] = {name: _attributes(of) for name, of in _by_system(rated).items()}
    return out


def count(judgements: Sequence[Judgement]) -> dict[str, int]:
    """Count what was asked, parsed, not parsed, and what the endpoint did not answer."""
    failed = sum(judgement.failed for judgement in judgements)
    unparsed = sum(bool(judgement.problem) and not judgement.failed for judgement in judgements)
    parsed = len(judgements) - failed - unparsed
    return {"asked": len(judgements), "parsed": parsed, "unparsed": unparsed, "failed": failed}


def without_verdict(judgements: Iterable[Judgement]) -> list[dict[str, Any]]:
    """Return what has no verdict: where it belongs, why, and the output verbatim."""
    kept = ("question", "turn", "kind", "systems", "attribute", "failed", "problem", "text")
    found = [asdict(judgement) for judgement in judgements if judgement.problem]
    return [{key: row[key] for key in kept} for row in found]


def _problems(judgements: Sequence[Judgement]) -> dict[str, int]:
    problems: dict[str, int] = {}
    for judgement in judgements:
        if judgement.problem:
            problems[judgement.problem] = problems.get(judgement.problem, 0) + 1
    return dict(sorted(problems.items(), key=lambda item: -item[1]))


def _pairs(pairs: Sequence[Judgement]) -> dict[str, Any]:
    matches = to_matches(pairs)
    turns = sorted({judgement.turn for judgement in pairs})
    return {
        "position_bias": position_bias(matches).to_dict(),
        # the two turns of a question are two comparisons: each has its own flips
        "flip_rate": {str(t): flip_rate(to_matches(j for j in pairs if j.turn == t)).to_dict() for t in turns},
        "overall": {name: rate.to_dict() for name, rate in overall_win_rates(matches).items()},
        "head_to_head": {
            a: {b: {**asdict(cell), "win_rate": cell.win_rate.to_dict()} for b, cell in row.items()}
            for a, row in win_rates(matches).items()
        },
    }


def _scores(scored: Sequence[Judgement], baseline: str | None) -> dict[str, Any]:
    """Mean score of every system, by the position its answer was shown in, and its share of the baseline's."""
    rows: dict[str, list[tuple[str, float, int]]] = {}
    for judgement in scored:
        for position, (name, score) in enumerate(zip(judgement.systems, judgement.scores, strict=True)):
            rows.setdefault(name, []).append((judgement.question, score, position))
    out: dict[str, Any] = {}
    for name, found in rows.items():
        out[name] = {"all": _mean((question, score) for question, score, _ in found)}
        for position, word in enumerate(("first", "second")):
            out[name][word] = _mean((question, score) for question, score, at in found if at == position)
    if baseline is not None:
        pairs = [ScoredPair(j.question, j.systems[0], j.systems[1], j.scores[0], j.scores[1]) for j in scored]
        for name, ratio in score_ratios(pairs, baseline).items():
            shares = {
                "baseline_first": ratio.reference_first,
                "system_first": ratio.system_first,
                "pooled": ratio.pooled,
            }
            out[name]["share_of_baseline"] = {order: share.to_dict() for order, share in shares.items()}
    return out


def _ratings(judgements: Sequence[Judgement]) -> dict[str, Any]:
    turns = sorted({judgement.turn for judgement in judgements})
    by_turn = {f"turn_{t}": _mean((j.question, j.scores[0]) for j in judgements if j.turn == t) for t in turns}
    return {"all": _mean((j.question, j.scores[0]) for j in judgements), **by_turn}


def _attributes(judgements: Sequence[Judgement]) -> dict[str, Any]:
    names = dict.fromkeys(judgement.attribute for judgement in judgements)
    return {name: _mean((j.question, j.scores[0]) for j in judgements if j.attribute == name) for name in names}


def _by_system(judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    found: dict[str, list[Judgement]] = {}
    for judgement in judgements:
        found.setdefault(judgement.systems[0], []).append(judgement)
    return found


def _mean(rows: Iterable[tuple[str, float]]) -> dict[str, Any]:
    found = list(rows)
    return cluster_bootstrap(mean, [[score for _, score in found]], [question for question, _ in found]).to_dict()
