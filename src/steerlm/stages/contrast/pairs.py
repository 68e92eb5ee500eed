"""Pairs of annotated answers to one prompt, each under the goals of both (reward-augmented data, arXiv 2410.08067).

No new annotation: what an answer obtained is known, so it is a goal that this answer meets and the other one misses.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from steerlm.attributes import AttributeSchema, Value
from steerlm.config import ContrastConfig
from steerlm.conversation import Message, check_roles, message_from_dict, read_conversations
from steerlm.errors import UserError
from steerlm.storage.files import lines_writer, parse_json_line
from steerlm.storage.hash_set import HashSet, hash64
from steerlm.storage.resumable import LineItems


@dataclass(frozen=True)
class GoalPair:
    """Two answers to one conversation under one goal.

    Attributes:
        id: of the pair and the goal: `<prompt>/<pair>/0` and `/1` are the same answers with the goals of both.
        margin: how much nearer to the goal the chosen answer is: 0 (as near) to 1.
    """

    id: str
    messages: tuple[Message, ...]
    goal: Mapping[str, Value]
    chosen: str
    rejected: str
    margin: float


def distance(schema: AttributeSchema, goal: Mapping[str, Value], answer: Message) -> float:
    """Return how far an answer is from a goal: the mean over the attributes, of 0 to 1 each.

    By the attribute model's real-valued scores where there are some, else by the labels.
    """
    found = []
    for name, wanted in goal.items():
        attribute = schema[name]
        if attribute.kind == "categorical":
            found.append(float((answer.attributes or {}).get(name) != wanted))
            continue
        score = (answer.scores or {}).get(name)
        value = score.mean if score is not None else (answer.attributes or {}).get(name)
        if isinstance(value, (int, float)) and isinstance(wanted, int):
            found.append(min(1.0, abs(attribute.to_unit(value) - attribute.to_unit(wanted))))
    return sum(found) / len(found) if found else 0.0


def write_pairs(
    config: ContrastConfig, data: Path, path: Path, schema: AttributeSchema, seed: int
) -> Mapping[str, int]:
    """Write the pairs of a file of annotated conversations, a line per pair and goal, as TRL's DPO reads them.

    Returns:
        `prompts` with two answers or more, `pairs`, `goals` (lines), and what was left out: pairs `alike` (nearer than
        `minimum_distance`), goals that the other answer is `not_further` from, `unlabelled` answers, pairs `over` the
        most per prompt.
    """
    counts: Counter[str] = Counter()
    with lines_writer(path) as stream:
        for answers in _answers(data, schema, counts):
            history = answers[0][0]
            name = f"{hash64(str(seed), *_said(history)):016x}"
            pairs = list(itertools.combinations(answers, 2))
            pairs.sort(key=lambda pair: hash64(str(seed), name, pair[0][1].content, pair[1][1].content))
            counts["prompts"] += 1
            counts["over"] += max(0, len(pairs) - config.pairs_per_prompt)
            for number, ((_, first), (_, second)) in enumerate(pairs[: config.pairs_per_prompt]):
                if first.content == second.content or _apart(schema, first, second) < config.minimum_distance:
                    counts["alike"] += 1
                    continue
                counts["pairs"] += 1
                for goal, (near, far) in enumerate(((first, second), (second, first))):
                    wanted = dict(near.attributes or {})
                    margin = distance(schema, wanted, far) - distance(schema, wanted, near)
                    if margin <= 0:
                        counts["not_further"] += 1
                        continue
                    counts["goals"] += 1
                    pair = GoalPair(f"{name}/{number}/{goal}", history, wanted, near.content, far.content, margin)
                    stream.write(orjson.dumps(_row(pair, schema)) + b"\n")
    names = ("prompts", "pairs", "goals", "alike", "not_further", "unlabelled", "over")
    return {name: counts[name] for name in names}


def _apart(schema: AttributeSchema, first: Message, second: Message) -> float:
    return (distance(schema, first.attributes or {}, second) + distance(schema, second.attributes or {}, first)) / 2


def _said(messages: Sequence[Message]) -> list[str]:
    return [text for message in messages for text in (message.role, message.content)]


def _answers(
    data: Path, schema: AttributeSchema, counts: Counter[str]
) -> Iterator[list[tuple[tuple[Message, ...], Message]]]:
    """Yield the labelled answers to every history that has two or more of them; each with the history as it met it."""
    once, twice = HashSet(), HashSet()
    for record in read_conversations(data, schema):
        for turn in record.assistant_turns:
            key = hash64(*_said(record.messages[:turn]))
            if not once.add(key):
                twice.add(key)
    found: dict[int, list[tuple[tuple[Message, ...], Message]]] = {}
    for record in read_conversations(data, schema):
        for turn in record.assistant_turns:
            answer = record.messages[turn]
            if not answer.attributes or answer.weight == 0:
                counts["unlabelled"] += not answer.attributes
                continue
            key = hash64(*_said(record.messages[:turn]))
            if key in twice:
                found.setdefault(key, []).append((record.messages[:turn], answer))
    yield from (answers for answers in found.values() if len(answers) > 1)


def _row(pair: GoalPair, schema: AttributeSchema) -> Mapping[str, object]:
    return {
        "id": pair.id,
        "schema": schema.signature,
        "prompt": [_message(message) for message in pair.messages],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
        "chat_template_kwargs": {"attributes": dict(pair.goal)},
        "margin": round(pair.margin, 6),
    }


def _message(message: Message) -> Mapping[str, object]:
    labels = {"attributes": dict(message.attributes)} if message.attributes else {}
    return {"role": message.role, "content": message.content, **labels}


def pair_items(path: Path, schema: AttributeSchema) -> LineItems[GoalPair]:
    """Return the pairs of a file as items of a resumable one."""
    path = path.resolve()

    def parse(number: int, line: bytes) -> GoalPair:
        row: Any = parse_json_line(line, path, number)
        try:
            messages = tuple(message_from_dict(message, schema) for message in row["prompt"])
            check_roles(messages)
            goal = schema.validate(row["chat_template_kwargs"]["attributes"])
            chosen, rejected = (str(row[key][0]["content"]) for key in ("chosen", "rejected"))
            return GoalPair(str(row["id"]), messages, goal, chosen, rejected, float(row["margin"]))
        except (KeyError, IndexError, TypeError, ValueError, UserError) as error:
            raise UserError(f"{path}:{number}: not a pair as this step writes it ({error})") from None

    return LineItems(path, parse)
