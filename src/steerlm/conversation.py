"""The record every stage reads and writes: one conversation per JSONL line.

A record is a superset of the `messages` format that other trainers read:

    {"id": "…", "source": "oasst", "messages": [
        {"role": "user", "content": "…"},
        {"role": "assistant", "content": "…", "attributes": {"quality": 4, "toxicity": 0}}]}

Reading is streaming and strict (errors name file and line); writing is atomic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from steerlm.attributes import AttributeSchema, Value, is_signature
from steerlm.errors import UserError, did_you_mean
from steerlm.storage.files import atomic_writer as atomic_writer
from steerlm.storage.files import lines_writer
from steerlm.storage.files import open_text_bytes as open_text_bytes
from steerlm.storage.files import parse_json_line as parse_json_line
from steerlm.storage.files import read_lines as read_lines
from steerlm.storage.files import write_json as write_json

Role = Literal["system", "user", "assistant"]
_ROLES = ("system", "user", "assistant")
_SCORE_DECIMALS = 4
_MACHINES = ("model:", "measure:", "classifier:", "judge:")
MESSAGE_KEYS = ("role", "content", "attributes", "human", "ratings", "scores", "labelled_by", "weight")
RECORD_KEYS = ("id", "source", "group", "schema", "messages", "meta")


class Score(NamedTuple):
    """An attribute model's output for one attribute, on the schema's scale.

    Attributes:
        mean: expected value (ordinal); NaN-free. For a categorical attribute 0.0.
        std: spread in levels (ordinal): the model's own uncertainty or its validation error.
        probabilities: probability of every level or category where the model gives it, keyed by its text.
    """

    mean: float
    std: float
    probabilities: dict[str, float] | None = None

    def to_dict(self) -> dict[str, object]:
        out: dict[str, object] = {"mean": self.mean, "std": self.std}
        if self.probabilities is not None:
            out["probabilities"] = self.probabilities
        return out

    def rounded(self) -> Score:
        """Return the score as files keep it: short, and without a negative zero."""

        def cut(x: float) -> float:
            return round(x, _SCORE_DECIMALS) + 0.0

        levels = self.probabilities
        return Score(cut(self.mean), cut(self.std), levels and {level: cut(p) for level, p in levels.items()})


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: `system`, `user` or `assistant`.
        content: the text, without any markup of a template.
        attributes: values on the schema's scale that training conditions on (assistant only; may be partial).
        human: human labels kept beside predicted `attributes` after annotation.
        ratings: per attribute the individual annotators' ratings, real-valued, on the schema's scale.
        scores: per attribute the attribute model's real-valued output with its spread.
        labelled_by: who set `attributes`: `human`, `model:<fingerprint>`, `measure:<name>`, `classifier:…` or
            `judge:…`; by attribute where it was not the same for all.
        weight: 0 for a response that is context only and not trained (the key of OpenAI's fine-tuning format).
    """

    role: Role
    content: str
    attributes: Mapping[str, Value] | None = None
    human: Mapping[str, Value] | None = None
    ratings: Mapping[str, tuple[float, ...]] | None = None
    scores: Mapping[str, Score] | None = None
    labelled_by: str | Mapping[str, str] | None = None
    weight: Literal[0, 1] = 1

    def to_dict(self) -> dict[str, object]:
        """Return the JSON form; absent fields are left out."""
        out: dict[str, object] = {"role": self.role, "content": self.content}
        if self.attributes is not None:
            out["attributes"] = dict(self.attributes)
        if self.human is not None:
            out["human"] = dict(self.human)
        if self.ratings is not None:
            out["ratings"] = {name: list(values) for name, values in self.ratings.items()}
        if self.scores is not None:
            out["scores"] = {name: score.to_dict() for name, score in self.scores.items()}
        if self.labelled_by is not None:
            out["labelled_by"] = self.labelled_by if isinstance(self.labelled_by, str) else dict(self.labelled_by)
        if self.weight != 1:
            out["weight"] = self.weight
        return out

    def teller(self, name: str) -> str:
        """Return who set an attribute, as `labelled_by` says; empty where nobody says."""
        if isinstance(self.labelled_by, Mapping):
            return self.labelled_by.get(name, "")
        return self.labelled_by or ""

    @property
    def tellers(self) -> frozenset[str]:
        """Everybody who set one of `attributes`, as far as that is said."""
        named = self.labelled_by.values() if isinstance(self.labelled_by, Mapping) else (self.labelled_by,)
        return frozenset(who for who in named if who) if self.attributes else frozenset()

    @property
    def stated_labels(self) -> Mapping[str, Value]:
        """The labels of people: `human` after annotation, else of `attributes` those that no machine set."""
        if self.human is not None:
            return self.human
        labels = self.attributes or {}
        if isinstance(self.labelled_by, Mapping):
            return {name: value for name, value in labels.items() if not self.teller(name).startswith(_MACHINES)}
        return {} if (self.labelled_by or "").startswith(_MACHINES) else labels

    @property
    def human_labels(self) -> Mapping[str, Value]:
        """`stated_labels`, and for an attribute with ratings only the level nearest to their mean (half up)."""
        rated = {name: math.floor(sum(r) / len(r) + 0.5) for name, r in (self.ratings or {}).items() if r}
        return {**rated, **self.stated_labels} if rated else self.stated_labels

    def target(self, name: str) -> float | None:
        """Return the human label of an ordinal attribute, real-valued: the mean of the ratings where there
        are several, else the human label; None where there is none (a model's label is none)."""
        if self.ratings and self.ratings.get(name):
            return sum(self.ratings[name]) / len(self.ratings[name])
        value = self.human_labels.get(name)
        return float(value) if isinstance(value, int) else None

    @property
    def judged(self) -> Mapping[str, Value]:
        """The labels of an LLM judge: what an attribute model learns where people say nothing."""
        return {n: value for n, value in (self.attributes or {}).items() if self.teller(n).startswith("judge:")}


@dataclass(frozen=True)
class Conversation:
    """A conversation and where it comes from.

    Attributes:
        id: unique within a file; resumable stages key on it.
        messages: an optional system message, then user and assistant in turn, starting with user.
        source: name of the data set.
        group: what must stay on one side of a train/validation split: a tree id or a hash of the first prompt.
        meta: anything else of the record (top-level keys we do not know), passed through unchanged.
    """

    id: str
    messages: tuple[Message, ...]
    source: str = ""
    group: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_roles(self.messages)

    @property
    def assistant_turns(self) -> tuple[int, ...]:
        """Indices into `messages` of the assistant's turns."""
        return tuple(i for i, message in enumerate(self.messages) if message.role == "assistant")

    def with_message(self, index: int, message: Message) -> Conversation:
        """Return a copy with message `index` replaced."""
        return replace(self, messages=(*self.messages[:index], message, *self.messages[index + 1 :]))

    def to_dict(self, schema: AttributeSchema | None) -> dict[str, object]:
        """Return the JSON form with the schema's signature."""
        assert not any(key in self.meta for key in RECORD_KEYS if key != "meta"), "meta would hide a field"
        out: dict[str, object] = {"id": self.id, "source": self.source}
        if self.group is not None:
            out["group"] = self.group
        if schema is not None:
            out["schema"] = schema.signature
        out["messages"] = [message.to_dict() for message in self.messages]
        return {**out, **self.meta}


def check_roles(messages: Iterable[Message]) -> None:
    """Raise unless the turns are well-formed: optional system, then user/assistant alternating from user.

    Raises:
        UserError: naming the turn.
    """
    turns = list(messages)
    if not turns:
        raise UserError("the conversation has no messages")
    start = 1 if turns[0].role == "system" else 0
    if len(turns) == start:
        raise UserError("the conversation has no user message")
    for i, message in enumerate(turns):
        if message.role != "system" and not message.content.strip():
            raise UserError(f"message {i} ({message.role}) is empty")
        if i < start:
            continue
        wanted = "user" if (i - start) % 2 == 0 else "assistant"
        if message.role != wanted:
            raise UserError(
                f"message {i} has role {message.role!r} where {wanted!r} is due (turns alternate, user first)"
            )


def _labels(raw: object, key: str, schema: AttributeSchema | None) -> dict[str, Value]:
    if not isinstance(raw, dict):
        raise UserError(f"{key} must be an object of name: value, got {raw!r}")
    if schema is not None:
        return schema.validate(raw)
    for name, value in raw.items():
        if isinstance(value, bool) or not isinstance(value, (int, str)):
            raise UserError(f"{key}: {name}: {value!r} is neither an integer nor the name of a category")
    return raw


def _ratings(raw: object, schema: AttributeSchema | None) -> dict[str, tuple[float, ...]]:
    if not isinstance(raw, dict):
        raise UserError(f"ratings must be an object of name: [numbers], got {raw!r}")
    ratings = {}
    for name, values in raw.items():
        if not isinstance(values, list):
            raise UserError(f"ratings of {name!r} must be a list of numbers, got {values!r}")
        if schema is not None:
            ratings[name] = tuple(schema[name].check_rating(value) for value in values)
        else:
            ratings[name] = tuple(_number(value, f"rating of {name!r}") for value in values)
    return ratings


def _scores(raw: object, schema: AttributeSchema | None) -> dict[str, Score]:
    if not isinstance(raw, dict):
        raise UserError(f"scores must be an object of name: {{mean, std}}, got {raw!r}")
    scores = {}
    for name, score in raw.items():
        if schema is not None:
            schema[name]
        if not isinstance(score, dict) or "mean" not in score or "std" not in score:
            raise UserError(f"score of {name!r} must be {{mean, std}}, got {score!r}")
        probabilities = score.get("probabilities")
        if probabilities is not None:
            if not isinstance(probabilities, dict):
                raise UserError(f"probabilities of {name!r} must be an object of level: number, got {probabilities!r}")
            probabilities = {k: _number(v, f"probability of {name}:{k}") for k, v in probabilities.items()}
        scores[name] = Score(
            _number(score["mean"], f"mean score of {name!r}"), _number(score["std"], f"std of {name!r}"), probabilities
        )
    return scores


def _number(value: object, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{what}: {value!r} is not a finite number")
    return float(value)


def message_from_dict(raw: object, schema: AttributeSchema | None = None) -> Message:
    """Build a message from its JSON form and validate its labels against `schema`.

    Raises:
        UserError: wrong role, missing content, unknown key, unknown attribute, value off the scale.
    """
    if not isinstance(raw, dict):
        raise UserError(f"a message must be an object with role and content, got {raw!r}")
    role, content = raw.get("role"), raw.get("content")
    if role not in _ROLES:
        raise UserError(f"role {role!r} is not one of {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise UserError(f"content of {role} messages must be text, got {content!r}")
    for key in raw:
        if key not in MESSAGE_KEYS:
            raise UserError(
                f"unknown key {key!r} of a message: {did_you_mean(str(key), MESSAGE_KEYS)}; "
                "a file of another tool goes through `steerlm prepare` with format: messages"
            )
    attributes = human = ratings = scores = None
    if raw.get("attributes") is not None:
        attributes = _labels(raw["attributes"], "attributes", schema)
    if raw.get("human") is not None:
        human = _labels(raw["human"], "human", schema)
    if raw.get("ratings") is not None:
        ratings = _ratings(raw["ratings"], schema)
    if raw.get("scores") is not None:
        scores = _scores(raw["scores"], schema)
    labelled_by = raw.get("labelled_by")
    if isinstance(labelled_by, dict):
        if not all(isinstance(who, str) for who in labelled_by.values()):
            raise UserError(f"labelled_by must be text, or text by attribute, got {labelled_by!r}")
    elif labelled_by is not None and not isinstance(labelled_by, str):
        raise UserError(f"labelled_by must be text, or text by attribute, got {labelled_by!r}")
    weight = raw.get("weight")
    if weight is not None and (role != "assistant" or isinstance(weight, bool) or weight not in (0, 1)):
        raise UserError(f"weight must be 0 or 1 and belongs to an assistant message, got {weight!r} ({role})")
    if role != "assistant" and (attributes or human or ratings or scores):
        raise UserError(f"a {role} message carries labels; only assistant messages are labelled")
    return Message(role, content, attributes, human, ratings, scores, labelled_by, 0 if weight == 0 else 1)


def conversation_from_dict(raw: object, schema: AttributeSchema | None = None, place: str = "record") -> Conversation:
    """Build a conversation from its JSON form.

    Args:
        raw: the parsed JSON object.
        schema: validates labels and, where the record carries a signature, requires it to be equal.
        place: file and line, for messages.

    Raises:
        UserError: naming what is wrong (the caller adds the place for everything but a schema mismatch).
    """
    if not isinstance(raw, dict):
        raise UserError(f"a record must be a JSON object, got {type(raw).__name__}")
    if not isinstance(raw.get("messages"), list):
        raise UserError("the record has no list of messages")
    if schema is not None and is_signature(raw.get("schema")):
        schema.require_same(raw["schema"], "the recipe or checkpoint", place)
    messages = []
    for i, item in enumerate(raw["messages"]):
        try:
            messages.append(message_from_dict(item, schema))
        except UserError as error:
            raise UserError(f"message {i}: {error}") from None
    record_id = raw.get("id")
    if record_id is None:
        raise UserError("the record has no id")
    if isinstance(record_id, bool) or not isinstance(record_id, (str, int)):
        raise UserError(f"the record's id must be text or an integer, got {record_id!r}")
    meta = {key: value for key, value in raw.items() if key not in RECORD_KEYS or key == "meta"}
    group = raw.get("group")
    return Conversation(
        str(record_id), tuple(messages), str(raw.get("source", "")), None if group is None else str(group), meta
    )


def read_conversations(path: str | Path, schema: AttributeSchema | None = None) -> Iterator[Conversation]:
    """Stream the conversations of a JSONL file (plain or gzip), one per non-blank line, in constant memory.

    Args:
        schema: where given, labels are validated and the records' signatures must be equal to it.

    Raises:
        UserError: `file:line: what is wrong`.
    """
    path = Path(path)
    for number, line in read_lines(path):
        yield parse_conversation(line, path, number, schema)


def parse_conversation(
    line: bytes, path: Path, number: int, schema: AttributeSchema | None, schema_of: str = "the schema in use"
) -> Conversation:
    """Parse one line of a file as `read_conversations` does.

    Args:
        schema_of: where `schema` comes from, for the message of a mismatch (for example a checkpoint's path).
    """
    place = f"{path}:{number}"
    raw = parse_json_line(line, path, number)
    if schema is not None and isinstance(raw, dict) and is_signature(raw.get("schema")):
        schema.require_same(raw["schema"], schema_of, place)
    try:
        return conversation_from_dict(raw, schema, place)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def to_json_line(conversation: Conversation, schema: AttributeSchema | None) -> bytes:
    """Return the record as one line of JSON with its newline; a pure function of its input."""
    return orjson.dumps(conversation.to_dict(schema)) + b"\n"


def write_conversations(
    path: str | Path, conversations: Iterable[Conversation], schema: AttributeSchema | None = None
) -> int:
    """Write a JSONL file atomically (gzip where the name ends in .gz); returns the number of records."""
    count = 0
    with lines_writer(path) as stream:
        for conversation in conversations:
            stream.write(to_json_line(conversation, schema))
            count += 1
    return count
