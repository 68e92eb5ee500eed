"""What people are asked: pairs of stored answers to the same prompt, or single answers to rate.

Nothing here knows who is asked. The order of the items and the side on which an answer stands follow from the study's
seed, the annotator's name and the item alone, so that a reload, a restart or a second server shows the same.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from steerlm.attributes import AttributeSchema, Value
from steerlm.conversation import Conversation, Message, conversation_from_dict, read_conversations
from steerlm.errors import UserError
from steerlm.scorers.choosing import Candidate, candidate_of, choose
from steerlm.studies.judge.formats import read_answers, read_questions

Turns = Literal["last", "all"]
Select = Literal["random", "uncertain"]


@dataclass(frozen=True)
class Comparison:
    """Two systems' answers to one prompt.

    Attributes:
        context: the messages that both conversations begin with, shown once.
        answers: what follows in either conversation: the answer, and from a second turn on also the turns before it
            where the systems' own earlier answers differ.
    """

    prompt: str
    systems: tuple[str, str]
    context: tuple[Message, ...]
    answers: tuple[tuple[Message, ...], tuple[Message, ...]]

    def to_dict(self) -> dict[str, object]:
        return {
            "prompt": self.prompt,
            "systems": list(self.systems),
            "context": texts(self.context),
            "answers": [texts(answer) for answer in self.answers],
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Comparison:
        (a, b), (first, second) = raw["systems"], raw["answers"]
        return cls(raw["prompt"], (a, b), _messages(raw["context"]), (_messages(first), _messages(second)))


@dataclass(frozen=True)
class RatedTurn:
    """One assistant turn of a conversation, to be rated on every attribute of the schema.

    Attributes:
        conversation: the whole record, without anybody's labels.
        turn: index of the message to rate; what follows it is not shown.
        prefill: values that are shown as chosen, to be confirmed or corrected; empty: none.
    """

    conversation: Conversation
    turn: int
    prefill: Mapping[str, Value] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """What the turn is not independent of: its tree or prompt."""
        return self.conversation.group if self.conversation.group is not None else self.conversation.id

    def to_dict(self) -> dict[str, object]:
        prefill = {"prefill": dict(self.prefill)} if self.prefill else {}
        return {"turn": self.turn, "conversation": self.conversation.to_dict(None), **prefill}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> RatedTurn:
        return cls(conversation_from_dict(raw["conversation"]), raw["turn"], raw.get("prefill", {}))


Item = Comparison | RatedTurn


@dataclass(frozen=True)
class StudyItems:
    """The items of a study and what was left out of it.

    Attributes:
        items: in the order of the files.
    """

    items: tuple[Item, ...]
    left_out: Mapping[str, int]


def comparisons(answers: Mapping[str, Path], questions: Path | None, num_prompts: int | None, seed: int) -> StudyItems:
    """Pair the stored answers of two or more systems, prompt by prompt, every system against every other.

    Args:
        answers: per system its file of conversations; equal ids mean the same prompt, the last message is the answer.
        questions: what was asked, where the files hold answers alone, as FastChat's and QLoRA's do.

    Raises:
        UserError: fewer than two systems, a file without answers, no common prompt, or user turns that differ.
    """
    if len(answers) < 2:
        raise UserError("a comparison needs the answers of two systems: give --answers NAME=FILE twice")
    if questions is None:
        by_system = {name: _conversations(path) for name, path in answers.items()}
    else:
        by_system = _answered(questions, answers)
    first, *others = by_system.values()
    common = [prompt for prompt in first if all(prompt in other for other in others)]
    if not common:
        raise UserError(f"{' and '.join(str(path) for path in answers.values())} have no prompt id in common")
    missing = len(set().union(*by_system.values())) - len(common)
    chosen = _draw(common, num_prompts, seed)
    items: list[Item] = []
    identical = 0
    for prompt in chosen:
        for a, b in itertools.combinations(by_system, 2):
            item = _compare(prompt, (a, b), by_system[a][prompt], by_system[b][prompt])
            if item.answers[0] == item.answers[1]:
                identical += 1
            else:
                items.append(item)
    if not items:
        raise UserError("the systems' answers are identical on every prompt: there is nothing to compare")
    left_out = {"prompts not answered by every system": missing, "pairs of identical answers": identical}
    return StudyItems(tuple(items), {reason: count for reason, count in left_out.items() if count})


def _answered(questions: Path, answers: Mapping[str, Path]) -> dict[str, dict[str, tuple[Message, ...]]]:
    """Put questions and every system's answers together, turn by turn."""
    asked = {question.id: question.turns for question in read_questions(questions)}
    by_system: dict[str, dict[str, tuple[Message, ...]]] = {}
    for name, path in answers.items():
        found = by_system.setdefault(name, {})
        for key, texts in read_answers(path, name).answers.items():
            turns = asked.get(key, ())
            if len(turns) < len(texts):
                raise UserError(f"{path}: {key!r} has {len(texts)} answers and {len(turns)} questions in {questions}")
            exchanges = ((Message("user", q), Message("assistant", a)) for q, a in zip(turns, texts, strict=False))
            found[key] = tuple(message for exchange in exchanges for message in exchange)
    return by_system


def _conversations(path: Path) -> dict[str, tuple[Message, ...]]:
    found: dict[str, tuple[Message, ...]] = {}
    for conversation in read_conversations(path):
        if conversation.messages[-1].role != "assistant":
            raise UserError(f"{path}: conversation {conversation.id!r} does not end with an answer")
        if conversation.id in found:
            raise UserError(f"{path}: conversation id {conversation.id!r} stands twice")
        found[conversation.id] = _plain(conversation.messages)
    if not found:
        raise UserError(f"{path} holds no conversation")
    return found


def _compare(prompt: str, systems: tuple[str, str], a: tuple[Message, ...], b: tuple[Message, ...]) -> Comparison:
    asked_a, asked_b = ([m.content for m in messages if m.role == "user"] for messages in (a, b))
    if asked_a != asked_b:
        raise UserError(
            f"prompt {prompt!r}: {systems[0]!r} and {systems[1]!r} answer different questions "
            "(their user turns differ); a comparison needs answers to the same prompts"
        )
    shared = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    shared = min(shared, len(a) - 1, len(b) - 1)  # the answer itself stands on its side, equal or not
    return Comparison(prompt, systems, a[:shared], (a[shared:], b[shared:]))


def rated_turns(
    data: Path,
    turns: Turns,
    number: int | None,
    seed: int,
    select: Select = "random",
    prefill: AttributeSchema | None = None,
) -> StudyItems:
    """Take the assistant turns of a file of conversations for rating.

    Args:
        data: conversations; labels they carry are not kept, and shown only to prefill.
        turns: rate the `last` answer of each conversation, or `all`.
        number: of conversations, drawn at random, or of turns that are chosen; None: all.
        select: `random`, or `uncertain`: the turns that tell most about the others, by what they say and, where the
            conversations carry a model's scores, by these.
        prefill: of these attributes the labels are shown as chosen.
    """
    conversations: dict[str, Conversation] = {}
    labelled: dict[str, Conversation] = {}
    without = 0
    for conversation in read_conversations(data):
        if conversation.id in conversations:
            raise UserError(f"{data}: conversation id {conversation.id!r} stands twice")
        if not conversation.assistant_turns:
            without += 1
            continue
        conversations[conversation.id] = _unlabelled(conversation)
        labelled[conversation.id] = conversation
    if not conversations:
        raise UserError(f"{data} has no conversation with an assistant turn to rate")
    drawn = _draw(list(conversations), number if select == "random" else None, seed)
    places = [(k, turn) for k in drawn for turn in conversations[k].assistant_turns[-1 if turns == "last" else 0 :]]
    if select == "uncertain" and number is not None:
        places = [places[i] for i in sorted(choose(_candidates(labelled, places), number))]
    items = [RatedTurn(conversations[k], turn, _shown(labelled[k].messages[turn], prefill)) for k, turn in places]
    return StudyItems(tuple(items), {"conversations without an assistant turn": without} if without else {})


def _candidates(labelled: Mapping[str, Conversation], places: Sequence[tuple[str, int]]) -> list[Candidate]:
    return [candidate_of(labelled[k].messages[turn], labelled[k].source) for k, turn in places]


def _shown(message: Message, schema: AttributeSchema | None) -> Mapping[str, Value]:
    """Return the labels that are shown as chosen, of those that the scale knows."""
    labels = message.attributes or {}
    return {a.name: labels[a.name] for a in schema or () if labels.get(a.name) in a.levels}


def show(item: Item, swapped: bool, schema: AttributeSchema | None) -> dict[str, object]:
    """Return what the page may know of an item: texts, and labels to confirm where there are some; no system, no id."""
    if isinstance(item, Comparison):
        left, right = reversed(item.answers) if swapped else item.answers
        return {"context": texts(item.context), "answers": [texts(left), texts(right)]}
    assert schema is not None
    shown = item.conversation.messages[: item.turn + 1]
    prefill = {"prefill": dict(item.prefill)} if item.prefill else {}
    return {"context": texts(shown[:-1]), "answers": [texts(shown[-1:])], **prefill}


def order(seed: int, annotator: str, num_items: int) -> list[int]:
    """Return the indices of the items in the order in which this annotator sees them."""
    return sorted(range(num_items), key=lambda item: _digest(seed, annotator, "order", item))


def swapped(seed: int, annotator: str, item: int) -> bool:
    """Return whether this annotator sees the second system's answer first."""
    return _digest(seed, annotator, "side", item)[0] % 2 == 1


def _digest(seed: int, annotator: str, what: str, item: int) -> bytes:
    # A hash, not a generator's shuffle: the order must not depend on the Python version.
    return hashlib.sha256(f"{seed}/{what}/{item}/{annotator}".encode()).digest()


def _draw(keys: list[str], number: int | None, seed: int) -> list[str]:
    if number is None or number >= len(keys):
        return keys
    if number < 1:
        raise UserError(f"--num-prompts {number} must be at least 1")
    chosen = set(random.Random(seed).sample(range(len(keys)), number))
    return [key for i, key in enumerate(keys) if i in chosen]


def texts(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Return role and content of every message, nothing else."""
    return [{"role": message.role, "content": message.content} for message in messages]


def _unlabelled(conversation: Conversation) -> Conversation:
    return replace(
        conversation,
        messages=tuple(
            replace(message, attributes=None, human=None, ratings=None, scores=None, labelled_by=None)
            for message in conversation.messages
        ),
    )


def _plain(messages: Sequence[Message]) -> tuple[Message, ...]:
    return tuple(Message(message.role, message.content) for message in messages)


def _messages(raw: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    return tuple(Message(message["role"], message["content"]) for message in raw)
