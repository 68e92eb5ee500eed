"""Judging: pairs of answers, single answers, and answers per attribute; each call resumes and never pays twice.

    steerlm judge --protocol vicuna --questions q.jsonl --answers ours=a.jsonl --answers theirs=b.jsonl --out judged

The judgements file is a JSONL of `Judgement`; `studies.judge.stored` reads it back without any endpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.config import RubricLanguage
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.scorers.llm.client import JudgeClient
from steerlm.scorers.llm.parsing import Parsed, parse
from steerlm.scorers.llm.protocols import JudgeAsk, rubric_asks
from steerlm.scorers.llm.thinking import without_thinking
from steerlm.statistics.rankings import Match
from steerlm.storage.files import write_rows


@dataclass(frozen=True)
class Judgement:
    """What a judge said about one thing.

    Attributes:
        turn: which answer counted, from 1.
        kind: name of the prompt.
        text: the judge's output, verbatim; empty where there is none.
        scores: the scores in the order shown; empty for a verdict in words and where there is none.
        outcome: for a pair 1.0 the first won, 0.5 tie, 0.0 the second won; None for single ratings and without verdict.
        problem: why there is no verdict; empty where there is one.
        failed: the judge gave no output at all (the problem says why); asked again by the next run.
        categories: of a categorical attribute, whose score is the index of one of them; empty otherwise.
    """

    question: str
    turn: int
    kind: str
    judge: str
    systems: tuple[str, ...]
    text: str
    scores: tuple[float, ...] = ()
    outcome: float | None = None
    problem: str = ""
    failed: bool = False
    attribute: str = ""
    user_prompt: str = ""
    finish_reason: str = "stop"
    categories: tuple[str, ...] = ()


def rate_attributes(
    conversations: Sequence[Sequence[Message]],
    schema: AttributeSchema,
    client: JudgeClient,
    out: Path,
    language: RubricLanguage = "en",
) -> list[dict[str, float]]:
    """Rate the last answer of every conversation on every attribute of the schema; `language` as for `rubric_asks`.

    Returns:
        Per conversation attribute -> level on its scale (index of the category); what has no verdict is left out.
    """
    numbered = {str(i): messages for i, messages in enumerate(conversations)}
    judgements = judge(rubric_asks("", numbered, schema, language), client, out)
    ratings: list[dict[str, float]] = [{} for _ in conversations]
    for judgement in judgements:
        if not judgement.problem:
            ratings[int(judgement.question)][judgement.attribute] = judgement.scores[0]
    return ratings


def judge(asks: Sequence[JudgeAsk], client: JudgeClient, out: Path) -> list[Judgement]:
    """Put every question to the judge and write the judgements file."""
    replies = client.complete([ask.prompt for ask in asks])
    thinks = client.reasoning or any(reply.thought or without_thinking(reply.text).thought for reply in replies)
    judgements = []
    for ask, reply in zip(asks, replies, strict=True):
        parsed = Parsed(problem=reply.failure)
        if not reply.failure:
            # thinking that came in a field of its own is none of the text
            unseparated = thinks and not reply.thought
            parsed = parse(ask.kind, reply.text, ask.attribute, reply.finish_reason, unseparated)
        judgements.append(
            Judgement(
                question=ask.question,
                turn=ask.turn,
                kind=ask.kind,
                judge=client.endpoint.model,
                systems=ask.systems,
                text=reply.text,
                scores=parsed.scores,
                outcome=parsed.outcome,
                problem=parsed.problem,
                failed=bool(reply.failure),
                attribute=ask.attribute.name if ask.attribute else "",
                user_prompt=ask.prompt.user,
                finish_reason=reply.finish_reason,
                categories=ask.attribute.categories if ask.attribute else (),
            )
        )
    write_judgements(out, judgements)
    return judgements


def to_matches(judgements: Iterable[Judgement]) -> list[Match]:
    """Return the verdicts on pairs; those without one are left out (count them with `problem`)."""
    return [
        Match(judgement.question, *judgement.systems, judgement.outcome)
        for judgement in judgements
        if judgement.outcome is not None and len(judgement.systems) == 2
    ]


def write_judgements(path: Path, judgements: Iterable[Judgement]) -> None:
    write_rows(path, map(asdict, judgements))


def judgement_from_dict(row: Mapping[str, object], place: str) -> Judgement:
    """Build a judgement from its JSON form."""
    try:
        fields = dict(row)
        for name in ("systems", "scores"):
            fields[name] = tuple(fields[name])  # type: ignore[arg-type]
        fields["categories"] = tuple(fields.get("categories", ()))  # type: ignore[arg-type]
        return Judgement(**fields)  # type: ignore[arg-type]
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"{place}: no judgement of steerlm judge ({error})") from None
