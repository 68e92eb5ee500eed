"""A judge's ratings as training data for the attribute model, as `rate export` writes people's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from steerlm.attributes import AttributeSchema, Value
from steerlm.conversation import Conversation, Message, parse_json_line, read_lines, write_conversations
from steerlm.errors import UserError
from steerlm.scorers.llm.judge import judgement_from_dict
from steerlm.scorers.llm.protocols import BenchmarkQuestion, SystemAnswers
from steerlm.stages.label import level_of, with_labels
from steerlm.studies.judge.study import conversations


class ExportedJudgements(NamedTuple):
    """What was written: conversations, ratings, and those left out since they could not be read."""

    conversations: int
    ratings: int
    unreadable: int


def export_judgements(
    judgements: Path,
    questions: list[BenchmarkQuestion],
    systems: Mapping[str, SystemAnswers],
    schema: AttributeSchema,
    path: Path,
) -> ExportedJudgements:
    """Write every rated answer as a record that `steerlm train-attribute-model` reads.

    Args:
        judgements: of `steerlm judge --protocol rubric`.
        path: is written.

    Raises:
        UserError: no rating, or one of an answer that is not given.
    """
    turns = {name: conversations(questions, answers) for name, answers in systems.items()}
    labels: dict[tuple[str, str], dict[str, Value]] = {}
    who = ""
    unreadable = 0
    for number, line in read_lines(judgements):
        row = parse_json_line(line, judgements, number)
        if not isinstance(row, dict):
            raise UserError(f"{judgements}:{number}: no judgement of steerlm judge")
        found = judgement_from_dict(row, f"{judgements}:{number}")
        if found.kind != "rubric" or found.attribute not in schema:
            continue
        if found.problem:
            unreadable += 1
            continue
        (system,) = found.systems
        if system not in turns or found.question not in turns[system]:
            raise UserError(f"{judgements}:{number}: no answer of {system!r} to {found.question!r}; give --answers")
        attribute = schema[found.attribute]
        labels.setdefault((system, found.question), {})[attribute.name] = level_of(attribute, found.scores[0])
        who = f"judge:{found.judge}"
    if not labels:
        raise UserError(f"{judgements} holds no readable rating of {', '.join(schema.names)} (protocol rubric)")

    def records() -> Iterator[Conversation]:
        for (system, question), values in labels.items():
            messages: list[Message] = list(turns[system][question])
            messages[-1] = with_labels(messages[-1], values, who, schema)
            yield Conversation(f"{system}/{question}", tuple(messages), system, f"question-{question}")

    written = write_conversations(path, records(), schema)
    return ExportedJudgements(written, sum(map(len, labels.values())), unreadable)
