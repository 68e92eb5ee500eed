"""Comparison: any set of systems on the same prompts, decided in pairs by a scorer or a judge (SteerLM, section 4).

    steerlm compare sft=runs/x/train_sft/model tuned=runs/x/bootstrap/model --prompts prompts.jsonl --out compared

Answers are generated resumably (`evaluation.answering`), pairs are decided (`evaluation.deciding`, or a judge in both
orders), and everything is computed from the answers that all systems gave.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.attributes import AttributeSchema
from steerlm.errors import UserError
from steerlm.results.codec import VERSION, write_result
from steerlm.results.comparison import (
    ComparedSystem,
    ComparisonDraws,
    ComparisonResult,
    DecidedBy,
    MissingAnswer,
    PromptsCompared,
)
from steerlm.scorers.protocol import Scorer
from steerlm.statistics.estimates import MIN_CLUSTERS, Estimate
from steerlm.statistics.rankings import Match
from steerlm.storage.files import write_rows
from steerlm.studies.compare.answering import AnswerSampling, answer_prompts
from steerlm.studies.compare.deciding import (
    Objective,
    check_weights,
    decide,
    default_weights,
    open_decider,
    score_answers,
)
from steerlm.studies.compare.figures import answer_lengths, describe_answers, describe_scores, examples, rank
from steerlm.studies.compare.systems import ComparedPrompt, System, SystemAnswer, read_prompts

if TYPE_CHECKING:
    from steerlm.scorers.llm.client import Cost, JudgeClient
    from steerlm.scorers.llm.protocols import PairProtocol

_MISSING_LISTED = 20


@dataclass(frozen=True)
class ByScorer:
    """Decide by what a scorer measures.

    Attributes:
        scorer: `playground`, `text`, or the folder of an attribute model.
        weights: per attribute; None: those with a best end, 1 or -1 each.
    """

    scorer: str
    weights: Mapping[str, float] | None = None
    tie_margin: float = 0.0


@dataclass(frozen=True)
class ByJudge:
    """Decide by an LLM judge, every pair in both orders.

    Attributes:
        approve: told what the judging costs before it starts; False stops.
        references: file of reference answers (MT-bench's math, reasoning and coding).
    """

    client: JudgeClient
    protocol: PairProtocol
    approve: Callable[[Cost], bool]
    references: Path | None = None


@dataclass(frozen=True)
class Decided:
    """The verdicts, and what a report says about how they came about."""

    matches: list[Match]
    by: DecidedBy
    scores: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)


def compare(
    systems: Sequence[System],
    prompts: Path,
    decide_by: ByScorer | ByJudge,
    out: Path,
    *,
    generation: AnswerSampling | None = None,
    num_prompts: int | None = None,
    games_per_run: int | None = None,
    seed: int = 0,
) -> ComparisonResult:
    """Compare systems in pairs on the same prompts.

    Args:
        systems: two or more, from `evaluation.systems.parse_systems`.
        prompts: conversations or benchmark questions, JSONL.
        out: receives `answers/`, `generated/`, `matches.jsonl`, `results.json`, `comparison.html` and `comparison.md`.
            Called again after an interruption it goes on where it stopped.
        generation: how answers are sampled; None: the defaults.
        num_prompts: use so many prompts, drawn at random; None: all.
        games_per_run: games per ordering of Elo; None: all.

    Returns:
        What is in `results.json`.

    Raises:
        UserError: unusable prompts or systems, no prompt that all systems answered, nothing that could be decided.
    """
    generation = generation or AnswerSampling()
    schema = next((system.schema for system in systems if system.schema is not None), None)
    chosen = read_prompts(prompts, num_prompts, seed)
    decider = _prepare(decide_by, schema)  # what cannot be decided should fail before anything is generated
    answers = {system.name: answer_prompts(system, chosen, generation, out) for system in systems}
    used = _common(chosen, answers)
    common = [chosen[i] for i in used]
    kept = {name: [found[i] for i in used] for name, found in answers.items()}
    decided = _judged(decider, common, kept, out) if isinstance(decider, ByJudge) else _scored(*decider, common, kept)
    if not decided.matches:
        raise UserError("no pair could be decided; see the answers and verdicts in " + str(out))
    write_rows(out / "matches.jsonl", map(asdict, decided.matches))
    results = ComparisonResult(
        version=VERSION,
        seed=seed,
        prompts=PromptsCompared(file=prompts.name, asked=len(chosen), compared=len(common)),
        generation=ComparisonDraws(**asdict(generation)),
        systems={system.name: _side(system, chosen, answers[system.name]) for system in systems},
        decided_by=decided.by,
        notes=_notes(chosen, common, answers, decided),
        ranking=rank(decided.matches, answer_lengths(common, kept), games_per_run, seed),
        scores=decided.scores,
        answers={system.name: describe_answers(common, kept[system.name], system.schema) for system in systems},
        examples=examples(common, kept, decided.matches),
    )
    write_result(out / "results.json", results)
    from steerlm.reporting.comparison import write_comparison

    write_comparison(out, results)
    return results


def _common(prompts: Sequence[ComparedPrompt], answers: Mapping[str, Sequence[SystemAnswer]]) -> list[int]:
    """Return the numbers of the prompts that every system answered."""
    used = [i for i in range(len(prompts)) if all(found[i].text is not None for found in answers.values())]
    if not used:
        counts = ", ".join(f"{name} {sum(a.text is not None for a in found)}" for name, found in answers.items())
        raise UserError(
            f"no prompt was answered by all systems (answered of {len(prompts)}: {counts}); "
            f"stored answers are found by the prompts' ids, such as {prompts[0].id!r}"
        )
    return used


def _prepare(decide_by: ByScorer | ByJudge, schema: AttributeSchema | None) -> tuple[Scorer, Objective] | ByJudge:
    if isinstance(decide_by, ByJudge):
        return decide_by
    scorer, own = open_decider(decide_by.scorer)
    weights = decide_by.weights
    if weights is None:
        weights = default_weights(own or schema, scorer.attributes)
    check_weights(weights, scorer.attributes)
    return scorer, Objective(weights, decide_by.tie_margin)


def _scored(
    scorer: Scorer,
    objective: Objective,
    prompts: Sequence[ComparedPrompt],
    answers: Mapping[str, Sequence[SystemAnswer]],
) -> Decided:
    scores = score_answers(scorer, prompts, answers)
    matches, unscored = decide(prompts, answers, scores, objective)
    by = DecidedBy(
        kind="scorer",
        label=scorer.label,
        weights=dict(objective.weights),
        tie_margin=objective.tie_margin,
        undecided=unscored,
    )
    return Decided(matches, by, describe_scores(prompts, scores, objective))


def _judged(
    judge: ByJudge, prompts: Sequence[ComparedPrompt], answers: Mapping[str, Sequence[SystemAnswer]], out: Path
) -> Decided:
    from steerlm.scorers.llm.judge import judge as ask_judge
    from steerlm.scorers.llm.judge import to_matches
    from steerlm.scorers.llm.protocols import SystemAnswers, pair_asks
    from steerlm.studies.judge.formats import read_answers, with_references

    questions = [prompt.question() for prompt in prompts]
    if judge.references is not None:
        questions = with_references(questions, read_answers(judge.references, "references"))
    said = {
        name: SystemAnswers(name, {p.id: (a.text or "",) for p, a in zip(prompts, found, strict=True)}, {})
        for name, found in answers.items()
    }
    by_pair = {
        pair: pair_asks(judge.protocol, questions, said[pair[0]], said[pair[1]])
        for pair in itertools.combinations(said, 2)
    }
    if not judge.approve(judge.client.estimate([ask.prompt for asks in by_pair.values() for ask in asks])):
        raise UserError(f"stopped before the judge was asked; the answers are kept in {out / 'answers'}")
    judgements = []
    for (first, second), asks in by_pair.items():
        judgements += ask_judge(asks, judge.client, out / "judgements" / f"{first}-vs-{second}.jsonl")
    matches = to_matches(judgements)
    by = DecidedBy(
        kind="judge",
        label=f"judge {judge.client.endpoint.model}",
        protocol=judge.protocol,
        undecided=len(judgements) - len(matches),
    )
    return Decided(matches, by)


def _side(system: System, prompts: Sequence[ComparedPrompt], answers: Sequence[SystemAnswer]) -> ComparedSystem:
    missing = [
        MissingAnswer(prompt.id, answer.problem)
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer.text is None
    ]
    return ComparedSystem(
        kind=system.kind,
        where=system.shown,
        model=system.model,
        setting=dict(system.setting) if system.setting else None,
        answered=len(answers) - len(missing),
        missing=len(missing),
        missing_examples=missing[:_MISSING_LISTED],
    )


def _notes(
    prompts: Sequence[ComparedPrompt],
    common: Sequence[ComparedPrompt],
    answers: Mapping[str, Sequence[SystemAnswer]],
    decided: Decided,
) -> list[str]:
    notes = []
    for name, found in answers.items():
        missing = sum(answer.text is None for answer in found)
        if missing:
            problem = next(answer.problem for answer in found if answer.text is None)
            notes.append(f"{name} lacks {missing} of {len(prompts)} answers ({problem}).")
    if len(common) < len(prompts):
        notes.append(f"Compared on the {len(common)} prompts that all systems answered.")
    if decided.by.undecided:
        what = "verdicts could not be read" if decided.by.kind == "judge" else "pairs have no score"
        notes.append(f"{decided.by.undecided} {what}; they are left out.")
    if len(common) < MIN_CLUSTERS:
        notes.append(f"{len(common)} prompts are too few for intervals: at least {MIN_CLUSTERS} are needed.")
    return notes
