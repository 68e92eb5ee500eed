"""Labels that a judge gives: an LLM rates some turns, from which the attribute model learns to label the rest.

    steerlm label RECIPE
    steerlm label DATA --attributes a.yaml --with judge --out OUT

The turns are those that tell most about the others (`scorers.choosing`), spread over the data sets and lengths. Every
reply is kept when it arrives; what was asked once is never paid for again. People's labels stay; where both exist,
their agreement is reported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from steerlm.attributes import Attribute, AttributeSchema, JudgeShare, Value
from steerlm.config import LabelConfig, RubricLanguage
from steerlm.conversation import Conversation, Message, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.scorers.choosing import candidate_of, choose
from steerlm.scorers.labelling import one_for_all
from steerlm.scorers.llm.client import Cost, Endpoint, JudgeClient, check_endpoint
from steerlm.scorers.llm.judge import judge
from steerlm.scorers.llm.protocols import JudgeAsk, rubric_asks
from steerlm.stages.prepare.dials import drawn_turns
from steerlm.statistics.metrics import category_report, regression_report
from steerlm.storage.files import lines_name, write_json

_MOST_CANDIDATES = 20_000
"""Turns of a file that are compared with one another; of more, a fixed draw."""
_HELD_OUT = 0.15
"""Most of the ratings that the held-out file gets."""


class JudgedReport(TypedDict):
    """What a judge said.

    Attributes:
        asked: requests by attribute.
        rated: those with a readable rating.
        agreement: with people, by attribute, where both rated.
        files: by file name, turns that carry a label of the judge.
    """

    judge: str
    asked: dict[str, int]
    rated: dict[str, int]
    agreement: dict[str, object]
    files: dict[str, int]


class TurnPlace(NamedTuple):
    """Where a turn stands."""

    record: str
    turn: int


class ChosenTurn(NamedTuple):
    """A turn that is rated."""

    file: Path
    place: TurnPlace
    messages: tuple[Message, ...]


def judged_attributes(schema: AttributeSchema) -> list[Attribute]:
    return [attribute for attribute in schema if attribute.judge is not None]


def judge_client(config: LabelConfig, folder: Path) -> JudgeClient:
    """Return the client of a recipe's judge.

    Raises:
        UserError: no model or endpoint is named.
    """
    return JudgeClient(
        Endpoint.from_environment(config.base_url, config.model),
        (config.folder or folder) / "replies.jsonl",
        config.max_in_flight,
        reasoning=config.reasoning,
        max_tokens=config.max_tokens,
    )


def check_judge(config: LabelConfig, folder: Path) -> None:
    """Refuse a judge that cannot be asked.

    Raises:
        UserError: no model or endpoint is named, or nothing answers there.
    """
    check_endpoint(judge_client(config, folder).endpoint)


def label(
    config: LabelConfig,
    schema: AttributeSchema,
    data: Sequence[Path],
    out: Path,
    folder: Path,
    agree: Callable[[str], bool] = lambda text: True,
) -> JudgedReport:
    """Let a judge rate the attributes that say so, and write the data with its labels.

    Args:
        schema: the attributes; `judge.ratings` of each is how many turns it rates.
        data: the training file, and the held-out one, which gets a sixth of the ratings at most.
        out: receives each file under its name, `judgements-<attribute>.jsonl` and `summary.json`.
        folder: of the replies, unless `config` names one.
        agree: told what it costs before anything is asked, and says whether to go on.

    Raises:
        UserError: an endpoint that is down, no turn to rate, a malformed file, nobody agrees.
    """
    client = judge_client(config, folder)
    attributes = judged_attributes(schema)
    most = max(attribute.judge.ratings for attribute in attributes if attribute.judge is not None)
    chosen = choose_turns(data, schema, most)
    if not chosen:
        raise UserError(f"{', '.join(map(str, data))}: no assistant turn to rate")
    asks = {a.name: asks_of(chosen, a, config.language) for a in attributes}
    cost = client.estimate([ask.prompt for of in asks.values() for ask in of])
    if not agree(cost_line(cost, config)) and cost.requests:
        raise UserError("the judge was not asked")
    out.mkdir(parents=True, exist_ok=True)
    labels: dict[tuple[Path, TurnPlace], dict[str, Value]] = {}
    asked, rated = {}, {}
    for attribute in attributes:
        found = judge(asks[attribute.name], client, out / f"judgements-{attribute.name}.jsonl")
        asked[attribute.name] = len(found)
        rated[attribute.name] = sum(not judgement.problem for judgement in found)
        for judgement in found:
            if not judgement.problem:
                turn = chosen[int(judgement.question)]
                of_turn = labels.setdefault((turn.file, turn.place), {})
                of_turn[attribute.name] = level_of(attribute, judgement.scores[0])
        if not rated[attribute.name]:
            raise UserError(
                f"{client.endpoint.model} gave no readable rating of {attribute.name!r} in {len(found)} answers; see "
                f"{out / f'judgements-{attribute.name}.jsonl'}"
            )
    pairs: dict[str, list[tuple[Value, Value, str]]] = {}
    files = {}
    for path in data:
        target = out / lines_name(path)
        files[target.name] = sum(file == path for file, _ in labels)
        who = f"judge:{client.endpoint.model}"
        write_conversations(target, _labelled(path, schema, labels, who, pairs), schema)
    report: JudgedReport = {
        "judge": client.endpoint.model,
        "asked": asked,
        "rated": rated,
        "agreement": {name: _agreement(schema[name], found) for name, found in pairs.items()},
        "files": files,
    }
    write_json(out / "summary.json", report)
    return report


def choose_turns(data: Sequence[Path], schema: AttributeSchema | None, number: int) -> list[ChosenTurn]:
    """Choose turns of files to rate, in an order of which every beginning is a good choice.

    Where an attribute model has labelled the files, its scores count beside words, length and source: the turns are
    those of which a model of all four is least sure.
    """
    orders = []
    pools = [_pool(path, schema) for path in data]
    for position, pool in enumerate(pools):
        share = min(_HELD_OUT, len(pool) / max(1, sum(map(len, pools)))) if position else 1.0
        wanted = max(1, round(share * number)) if pool else 0
        found = choose([candidate_of(turn.messages[-1], source) for turn, source in pool], wanted)
        # the k-th of a file that gets a share of s stands where k / s of the whole have been chosen
        orders += [((k + 1) / share, position, pool[i][0]) for k, i in enumerate(found)]
    return [turn for _, _, turn in sorted(orders, key=lambda row: row[:2])][:number]


def _pool(path: Path, schema: AttributeSchema | None) -> list[tuple[ChosenTurn, str]]:
    """Return the turns of a file, or as many as can be compared, with their sources, in the order of the file."""
    return [
        (ChosenTurn(path, TurnPlace(record.id, turn), record.messages[: turn + 1]), record.source)
        for record, turn in drawn_turns(path, schema, _MOST_CANDIDATES)
    ]


def asks_of(chosen: Sequence[ChosenTurn], attribute: Attribute, language: RubricLanguage = "en") -> list[JudgeAsk]:
    """Return what a judge is asked about one attribute: the first turns, as many as it rates."""
    number = len(chosen) if attribute.judge is None else attribute.judge.ratings
    turns = {str(i): turn.messages for i, turn in enumerate(chosen[:number])}
    return rubric_asks("", turns, AttributeSchema((attribute,)), language)


def cost_line(cost: Cost, config: LabelConfig) -> str:
    """Say what asking costs, before it is asked."""
    line = f"{cost.requests:,} requests to the judge"
    if cost.stored:
        line += f", {cost.stored:,} more are answered from earlier runs"
    if cost.requests:
        line += f": about {cost.prompt_tokens:,} tokens to read, at most {cost.max_completion_tokens:,} to write"
    if config.price_per_million is not None:
        least, most = cost.money(*config.price_per_million)
        line += f"; costs between {least:.2f} and {most:.2f}"
    return line


def level_of(attribute: Attribute, score: float) -> Value:
    """Return what a judge's score stands for: the nearest level, or the category of that number."""
    return attribute.round(score) if attribute.kind == "ordinal" else attribute.levels[int(score)]


def _labelled(
    path: Path,
    schema: AttributeSchema,
    labels: Mapping[tuple[Path, TurnPlace], Mapping[str, Value]],
    who: str,
    pairs: dict[str, list[tuple[Value, Value, str]]],
) -> Iterator[Conversation]:
    """Yield the records with the judge's labels where people say nothing, and note where both do."""
    for record in read_conversations(path, schema):
        for index in record.assistant_turns:
            message = record.messages[index]
            said = labels.get((path, TurnPlace(record.id, index)), {})
            for name, value in said.items():
                if name in message.human_labels:
                    pair = (message.human_labels[name], value, record.group or record.id)
                    pairs.setdefault(name, []).append(pair)
            fresh = {name: value for name, value in said.items() if name not in message.human_labels}
            if fresh:
                record = record.with_message(index, with_labels(message, fresh, who, schema))
        yield record


def with_labels(message: Message, labels: Mapping[str, Value], who: str, schema: AttributeSchema) -> Message:
    """Return a turn with further labels and who gave them."""
    old = message.attributes or {}
    values = {name: labels.get(name, old.get(name)) for name in schema.names if name in labels or name in old}
    tellers = {name: who if name in labels else message.teller(name) or "human" for name in values}
    attributes = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(message, attributes=attributes, labelled_by=one_for_all(tellers))


def _agreement(attribute: Attribute, pairs: Sequence[tuple[Value, Value, str]]) -> object:
    """Return how far a judge agrees with people on the turns that both rated."""
    people, judged, groups = zip(*pairs, strict=True)
    if attribute.kind == "categorical":
        return category_report([str(value) for value in people], [str(value) for value in judged], attribute, groups)
    truth, said = (np.array(values, dtype=np.float64) for values in (people, judged))
    return regression_report(truth, said, attribute, groups)


def only_said_by(schema: AttributeSchema, teller: str) -> AttributeSchema:
    """Return the schema in which only one kind of teller says something; the other attributes are left to people."""
    if not any(attribute.said_by == teller for attribute in schema):
        raise UserError(f"no attribute names a {teller}: add `{teller}:` to those that it says")
    return AttributeSchema(
        tuple(
            attribute
            if attribute.said_by == teller
            else dataclasses.replace(attribute, measure="", cuts=(), classifier=None, judge=None)
            for attribute in schema
        )
    )


def with_ratings(schema: AttributeSchema, number: int | None) -> AttributeSchema:
    """Return the schema in which a judge rates so many turns: of the attributes that name one, else of all it could."""
    judged = judged_attributes(schema) or [attribute for attribute in schema if attribute.learned]
    if not judged:
        raise UserError("no attribute is left to a judge: each has a measure or a classifier")

    def share(attribute: Attribute) -> JudgeShare | None:
        if attribute not in judged:
            return attribute.judge
        return attribute.judge if number is None and attribute.judge is not None else JudgeShare(number or sys.maxsize)

    return AttributeSchema(tuple(dataclasses.replace(attribute, judge=share(attribute)) for attribute in schema))


@contextlib.contextmanager
def projected(data: Path, schema: AttributeSchema, out: Path) -> Iterator[Path]:
    """Yield a copy of a file, for the time being, that holds labels and scores of the schema's attributes only."""
    out.mkdir(parents=True, exist_ok=True)
    copy = out / ".input" / lines_name(data)
    copy.parent.mkdir(exist_ok=True)
    try:
        write_conversations(copy, (_projected(record, schema) for record in read_conversations(data)), schema)
        yield copy
    finally:
        copy.unlink(missing_ok=True)
        copy.parent.rmdir()


def _projected(record: Conversation, schema: AttributeSchema) -> Conversation:
    def kept(labels: Mapping[str, Value] | None) -> dict[str, Value] | None:
        return {name: schema[name].check(value) for name, value in (labels or {}).items() if name in schema} or None

    messages = [
        dataclasses.replace(
            message,
            attributes=kept(message.attributes),
            human=kept(message.human),
            ratings={n: r for n, r in (message.ratings or {}).items() if n in schema} or None,
            scores={n: score for n, score in (message.scores or {}).items() if n in schema} or None,
        )
        for message in record.messages
    ]
    return dataclasses.replace(record, messages=tuple(messages))
