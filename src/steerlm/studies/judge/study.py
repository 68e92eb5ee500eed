"""Judge: an LLM compares or rates answers (SteerLM, section 4.1: GPT-4 on the Vicuna prompts, both orders).

    steerlm judge --protocol vicuna --questions q.jsonl --answers ours=a.jsonl --answers theirs=b.jsonl --out judged
    steerlm judge --reviews judged/judgements.jsonl --out again

The folder holds `replies.jsonl` (what was paid for), `judgements.jsonl`, `without_verdict.jsonl`, `results.json`, and
the same judgements in FastChat's or QLoRA's form. All but the replies are made anew by every run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Message
from steerlm.errors import UserError, did_you_mean
from steerlm.scorers.llm.client import JudgeClient
from steerlm.scorers.llm.judge import Judgement, judge
from steerlm.scorers.llm.protocols import (
    REFERENCE_CATEGORIES,
    BenchmarkQuestion,
    JudgeAsk,
    Protocol,
    SystemAnswers,
    pair_asks,
    rubric_asks,
    single_asks,
)
from steerlm.storage.files import write_json, write_rows
from steerlm.studies.judge.formats import read_answers, read_questions, with_references
from steerlm.studies.judge.stored import read_stored, reparsed, write_fastchat, write_reviews
from steerlm.studies.judge.summary import Json, summarise, without_verdict
from steerlm.studies.names import require_distinct_names


def read_systems(files: Mapping[str, Path]) -> dict[str, SystemAnswers]:
    return {name: read_answers(path, name) for name, path in files.items()}


def questions_for(questions: Path | None, answers: Sequence[Path], references: Path | None) -> list[BenchmarkQuestion]:
    """Read the questions; without a question file they are taken from answers that are whole conversations."""
    if questions is not None:
        found = {question.id: question for question in read_questions(questions)}
    else:
        found = {}
        for path in answers:
            for question in read_questions(path):
                known = found.setdefault(question.id, question)
                if known.turns != question.turns:
                    raise UserError(f"{path}: question {question.id!r} is another one than in the other files")
    ordered = list(found.values())
    return ordered if references is None else with_references(ordered, read_answers(references, "reference"))


def build_asks(
    protocol: Protocol,
    questions: Sequence[BenchmarkQuestion],
    systems: Mapping[str, SystemAnswers],
    baseline: str | None = None,
    schema: AttributeSchema | None = None,
) -> list[JudgeAsk]:
    """Return everything to ask the judge.

    Args:
        baseline: compare the other systems with this one only; None: every pair.
        schema: the attributes to rate (rubric).
    """
    if baseline is not None and baseline not in systems:
        raise UserError(f"unknown system {baseline!r}: {did_you_mean(baseline, systems)}")
    if protocol == "rubric":
        if schema is None:
            raise UserError("the rubric needs the attributes to rate; give --attributes")
        return [
            ask
            for system in systems.values()
            for ask in rubric_asks(system.name, conversations(questions, system), schema)
        ]
    if protocol == "mt-bench-single":
        return [ask for system in systems.values() for ask in single_asks(questions, system)]
    if len(systems) < 2:
        raise UserError(f"{protocol} compares systems; give two or more --answers NAME=FILE")
    pairs = [(a, b) for a, b in itertools.combinations(systems, 2) if baseline is None or baseline in (a, b)]
    return [ask for a, b in pairs for ask in pair_asks(protocol, questions, systems[a], systems[b])]


def conversations(questions: Sequence[BenchmarkQuestion], system: SystemAnswers) -> dict[str, list[Message]]:
    """Return question id -> the conversation that ends with the system's last answer."""
    found = {}
    for question in questions:
        answers = system.answers.get(question.id)
        if answers is None:
            continue
        messages = [Message("system", question.system)] if question.system else []
        for text, answer in zip(question.turns, answers, strict=False):
            messages += [Message("user", text), Message("assistant", answer)]
        found[question.id] = messages
    if not found:
        raise UserError(f"{system.name} answered none of the {len(questions)} questions")
    return found


def missing_answers(
    questions: Sequence[BenchmarkQuestion], systems: Mapping[str, SystemAnswers]
) -> dict[str, list[str]]:
    """Return, per system that did not answer every question, the questions without an answer."""
    missing = {name: [q.id for q in questions if q.id not in system.answers] for name, system in systems.items()}
    return {name: ids for name, ids in missing.items() if ids}


def without_reference(protocol: Protocol, questions: Sequence[BenchmarkQuestion]) -> list[str]:
    """Return the questions that MT-bench would judge beside a reference answer, but that have none."""
    if not protocol.startswith("mt-bench"):
        return []
    return [q.id for q in questions if q.category in REFERENCE_CATEGORIES and len(q.references) < len(q.turns)]


def run_judge(
    asks: Sequence[JudgeAsk],
    questions: Sequence[BenchmarkQuestion],
    systems: Mapping[str, SystemAnswers],
    client: JudgeClient,
    out: Path,
    baseline: str | None = None,
) -> Json:
    """Ask the judge and write the folder; returns what `results.json` holds."""
    judgements = judge(asks, client, out / "judgements.jsonl")
    name = client.endpoint.model.replace("/", "_")
    if any(judgement.kind.startswith("single-") for judgement in judgements):
        write_fastchat(out / "fastchat" / f"{name}_single.jsonl", judgements)
    if any(judgement.kind.startswith("pair-") for judgement in judgements):
        write_fastchat(out / "fastchat" / f"{name}_pair.jsonl", judgements)
    write_reviews(out / "reviews", judgements, systems)
    return _results(judgements, out, baseline, {"missing_answers": missing_answers(questions, systems)})


def analyse(
    reviews: Sequence[Path],
    systems: Mapping[str, SystemAnswers],
    out: Path,
    *,
    baseline: str | None = None,
    reparse: bool = False,
    schema: AttributeSchema | None = None,
) -> Json:
    """Sum up stored judgements without any endpoint, and say where our parsers read the stored outputs otherwise.

    Args:
        reviews: judgement files of this tool, FastChat's or QLoRA's.
        systems: answers whose ids tell who wrote what, where the reviews alone do not.
        baseline: the system that scores are given as a share of.
        reparse: let our parsers' verdicts count instead of the stored ones.

    Raises:
        UserError: a system that no judgement is about.
    """
    authors = {answer: system.name for system in systems.values() for answer in system.answer_ids.values()}
    stored = read_stored(reviews, authors)
    judged = sorted({name for judgement in stored for name in judgement.systems})
    for name in [*systems, *([baseline] if baseline is not None else [])]:
        if name not in judged:
            raise UserError(f"no stored judgement is about system {name!r}: {did_you_mean(name, judged)}")
    require_distinct_names(judged, "systems", "give one system one name in all files")
    anew = reparsed(stored, schema)
    changed = [(a, b) for a, b in zip(stored, anew, strict=True) if (a.scores, a.outcome) != (b.scores, b.outcome)]
    differences = {
        "read_only_by_us": sum(bool(a.problem) for a, _ in changed),
        "read_only_by_them": sum(bool(b.problem) for _, b in changed),
        "read_differently": sum(not a.problem and not b.problem for a, b in changed),
    }
    return _results(anew if reparse else stored, out, baseline, {"reparsed": reparse, "differences": differences})


def _results(judgements: Sequence[Judgement], out: Path, baseline: str | None, more: Json) -> Json:
    results = {**summarise(judgements, baseline), **more}
    write_rows(out / "without_verdict.jsonl", without_verdict(judgements))
    write_json(out / "results.json", results)
    return results
