"""What a study says: agreement, each annotator's bias, and how people rank the systems beside a judge.

Every number is an estimate with an interval clustered by prompt, or says why it has none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steerlm.attributes import Attribute
from steerlm.errors import UserError
from steerlm.scorers.llm.judge import judgement_from_dict, to_matches
from steerlm.statistics import rankings
from steerlm.statistics.agreement import agreement, agreement_with_others, leniency, pairwise
from steerlm.statistics.estimates import Estimate, cluster_bootstrap, estimate_share, mean, to_dicts
from steerlm.statistics.metrics import human_ceiling
from steerlm.statistics.rankings import Match
from steerlm.storage.files import read_objects
from steerlm.studies.rate.items import Comparison, Item
from steerlm.studies.rate.store import RaterAnswer, Study, annotators, read_answers, read_items

VERDICTS = ("first", "second", "tie")
_OUTCOMES = {"first": 1.0, "tie": 0.5, "second": 0.0}


def study_results(study: Study, judge: Sequence[Match] | None = None) -> dict[str, object]:
    """Return the results of a study as they stand; it need not be finished.

    Args:
        judge: verdicts of a judge on the same prompts and systems (comparisons only).

    Raises:
        UserError: a judge for a study of ratings, or one that saw none of the study's pairs.
    """
    items, answers = read_items(study), read_answers(study)
    if judge is not None and study.kind == "rating":
        raise UserError("--judge goes with a comparison of systems; this is a study of ratings")
    skips = {(a.annotator, a.item) for a in answers if a.attribute == "" and a.value == "skip"}
    counted = [a for a in answers if a.value not in ("", "skip") and (a.annotator, a.item) not in skips]
    names = [annotator.name for annotator in annotators(study)]
    head = {
        "kind": study.kind,
        "question": study.question,
        "items": len(items),
        "prompts": len({item.prompt for item in items}),
        "left_out": dict(study.left_out),
    }
    skipped = Counter(name for name, _ in skips)
    if study.kind == "rating":
        return {**head, **_of_ratings(study, items, counted, names, skipped)}
    return {**head, **_of_comparisons(study, items, counted, names, skipped, judge)}


# Comparisons


def _of_comparisons(
    study: Study,
    items: Sequence[Item],
    answers: Sequence[RaterAnswer],
    names: Sequence[str],
    skipped: Mapping[str, int],
    judge: Sequence[Match] | None,
) -> dict[str, object]:
    clusters = [item.prompt for item in items]
    votes: dict[int, dict[str, int]] = {}
    for answer in answers:
        votes.setdefault(answer.item, {})[answer.annotator] = VERDICTS.index(answer.value)
    matches = {name: shown_matches(items, [a for a in answers if a.annotator == name]) for name in names}
    everyone = [match for own in matches.values() for match in own]
    out: dict[str, object] = {
        "systems": list(study.systems),
        "agreement": agreement(votes, len(VERDICTS), "nominal", clusters),
        "annotators": [
            {
                "name": name,
                "answered": len(matches[name]),
                "skipped": skipped.get(name, 0),
                "ties": _share(matches[name], 0.5).to_dict(),
                "shown_first_wins": rankings.position_bias(matches[name]).to_dict(),
                "shown_second_wins": _share(matches[name], 0.0).to_dict(),
                "agrees_with_others": agreement_with_others(votes, name, clusters).to_dict(),
                "win_rates": to_dicts(rankings.overall_win_rates(matches[name])),
            }
            for name in names
        ],
        "pairs_of_annotators": pairwise(votes, names, "nominal", clusters),
    }
    judged = None if judge is None else _same_pairs(judge, everyone)
    # Elo ratings drift apart with the number of games: only equal numbers compare
    games = min(len(everyone), len(judged)) if judged is not None else None
    out["people"] = ranking(everyone, games)
    if judged is not None:
        out["judge"] = {**ranking(judged, games), "agrees_with_people": _judge_agreement(judged, everyone).to_dict()}
    return out


def shown_matches(items: Sequence[Item], answers: Sequence[RaterAnswer]) -> list[Match]:
    """Return people's verdicts in the order in which they saw the answers."""
    matches = []
    for answer in answers:
        item = items[answer.item]
        assert isinstance(item, Comparison)
        (first, second), outcome = item.systems, _OUTCOMES[answer.value]
        if answer.swapped:
            first, second, outcome = second, first, 1 - outcome
        matches.append(Match(item.prompt, first, second, outcome))
    return matches


def ranking(matches: Sequence[Match], games_per_run: int | None) -> dict[str, object]:
    """Return Elo, Bradley-Terry and the head-to-head matrix of some verdicts."""
    if not matches:
        return {"matches": 0, "elo": {}, "bradley_terry": {}, "head_to_head": {}}
    return {
        "matches": len(matches),
        "elo": to_dicts(rankings.elo(matches, games_per_run=games_per_run)),
        "bradley_terry": to_dicts(rankings.bradley_terry_intervals(matches)),
        "head_to_head": {
            a: {b: record.to_dict() for b, record in row.items()} for a, row in rankings.win_rates(matches).items()
        },
    }


def read_matches(path: Path) -> list[Match]:
    """Read a judge's verdicts: what `steerlm judge` writes, or lines of `{"prompt", "first", "second", "outcome"}`.

    `first` was shown first; the outcome is 1 where it won, 0.5 for a tie, 0 where it lost.
    """
    matches = []
    for raw, place in read_objects(path):
        if "question" in raw:
            matches += to_matches([judgement_from_dict(raw, place)])
            continue
        if any(key not in raw for key in ("prompt", "first", "second", "outcome")):
            raise UserError(f"{place}: a verdict needs prompt, first, second and outcome")
        first, second, outcome = str(raw["first"]), str(raw["second"]), raw["outcome"]
        if outcome not in (0, 0.5, 1) or first == second:
            raise UserError(f"{place}: a verdict on two systems is 1, 0.5 or 0, got {outcome!r} on {first}, {second}")
        matches.append(Match(str(raw["prompt"]), first, second, float(outcome)))
    return matches


def _same_pairs(judge: Sequence[Match], people: Sequence[Match]) -> list[Match]:
    """Keep the judge's verdicts on the pairs that people compared."""
    seen = {_pair(match) for match in people}
    judged = [match for match in judge if _pair(match) in seen]
    if not judged:
        raise UserError(
            "the judge has no verdict on any pair that people compared: prompts or names of systems differ "
            f"(judge: {', '.join(rankings.systems(judge)) or 'no verdict'}; "
            f"people: {', '.join(rankings.systems(people)) or 'no verdict'})"
        )
    return judged


def _judge_agreement(judge: Sequence[Match], people: Sequence[Match]) -> Estimate:
    """Share of people's verdicts that equal the judge's on the pair; the judge's orders are averaged."""
    sums: dict[tuple[str, frozenset[str]], list[float]] = {}
    for match in judge:
        low = min(match.first, match.second)
        sums.setdefault(_pair(match), []).append((match.outcome - 0.5) * (1 if match.first == low else -1))
    hits, clusters = [], []
    for match in people:
        if _pair(match) in sums:
            verdict = sum(sums[_pair(match)]) * (1 if match.first < match.second else -1)
            hits.append((verdict > 0) - (verdict < 0) == 2 * match.outcome - 1)
            clusters.append(match.prompt)
    return estimate_share(hits, clusters)


def _pair(match: Match) -> tuple[str, frozenset[str]]:
    return match.prompt, frozenset((match.first, match.second))


def _share(matches: Sequence[Match], outcome: float) -> Estimate:
    return estimate_share([match.outcome == outcome for match in matches], [match.prompt for match in matches])


# Ratings


def _of_ratings(
    study: Study,
    items: Sequence[Item],
    answers: Sequence[RaterAnswer],
    names: Sequence[str],
    skipped: Mapping[str, int],
) -> dict[str, object]:
    assert study.schema is not None
    clusters = [item.prompt for item in items]
    votes: dict[str, dict[int, dict[str, int]]] = {attribute.name: {} for attribute in study.schema}
    for answer in answers:
        attribute = study.schema[answer.attribute]
        code = attribute.levels.index(attribute.parse(answer.value))
        votes[attribute.name].setdefault(answer.item, {})[answer.annotator] = code
    rated = {name: {a.item for a in answers if a.annotator == name} for name in names}
    return {
        "schema": study.schema.signature,
        "attributes": {a.name: _attribute(a, votes[a.name], clusters) for a in study.schema},
        "annotators": [
            {
                "name": name,
                "answered": len(rated[name]),
                "skipped": skipped.get(name, 0),
                "levels_above_others": {
                    a.name: leniency(votes[a.name], name, clusters).to_dict() for a in study.schema.ordinal
                },
                "agrees_with_others": {
                    a.name: agreement_with_others(votes[a.name], name, clusters).to_dict() for a in study.schema
                },
            }
            for name in names
        ],
        "pairs_of_annotators": [
            {"attribute": a.name, **row}
            for a in study.schema
            for row in pairwise(votes[a.name], names, _scale(a), clusters)
        ],
    }


def _attribute(
    attribute: Attribute, votes: Mapping[int, Mapping[str, int]], clusters: Sequence[str]
) -> dict[str, object]:
    codes = [(code, clusters[item]) for item, of_item in votes.items() for code in of_item.values()]
    counts = Counter(code for code, _ in codes)
    out: dict[str, object] = {
        "ratings": len(codes),
        "items": len(votes),
        "counts": {str(level): counts[i] for i, level in enumerate(attribute.levels)},
        **agreement(votes, len(attribute.levels), _scale(attribute), clusters),
    }
    if attribute.kind == "ordinal":
        levels = [attribute.minimum + float(code) for code, _ in codes]
        out["mean"] = cluster_bootstrap(mean, [levels], [group for _, group in codes]).to_dict()
        rows = [[attribute.minimum + float(code) for code in of_item.values()] for of_item in votes.values()]
        out["one_against_the_others"] = human_ceiling(rows, [clusters[item] for item in votes])
    return out


def _scale(attribute: Attribute) -> Any:
    return "ordinal" if attribute.kind == "ordinal" else "nominal"
