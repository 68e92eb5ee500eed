"""NeMo-Aligner's SteerLM 2.0 format, in and out: several responses to one prompt and request, with their likelihoods.

    {"system": "…", "prompt_turns": [{"from": "User", "value": "…"}], "label": "quality:4,toxicity:0",
     "responses": [{"from": "Assistant", "value": "…",
                    "log(P(a|x,y))": -0.8, "log(P(y|x))": -26.8, "log(Q(y|a,x))": -12.3}]}

Ours carry three more keys, which NeMo ignores: `id`, `schema` (the signature), and the `label` of earlier answers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from steerlm.attributes import AttributeSchema, Value, is_signature
from steerlm.conversation import Message, check_roles
from steerlm.errors import UserError
from steerlm.storage.files import lines_writer, read_objects

_ATTRIBUTES, _RESPONSE, _STEERED = "log(P(a|x,y))", "log(P(y|x))", "log(Q(y|a,x))"


@dataclass(frozen=True)
class WeighedResponse:
    """A response and what makes its weight.

    Attributes:
        text: what was said.
        attributes: log P(a|x,y), of the request given the response.
        response: log P(y|x), of the response without a request.
        steered: log Q'(y|a,x), of the response under the model that said it.
    """

    text: str
    attributes: float
    response: float
    steered: float


@dataclass(frozen=True)
class ResponseGroup:
    """Responses to one conversation (ends with the user) at one request."""

    id: str
    messages: tuple[Message, ...]
    requested: Mapping[str, Value]
    responses: tuple[WeighedResponse, ...]


def write_groups(path: Path, groups: Iterable[ResponseGroup], schema: AttributeSchema) -> int:
    """Write groups, atomically (gzip for .gz); returns how many."""
    count = 0
    with lines_writer(path) as stream:
        for group in groups:
            system = group.messages[0].content if group.messages[0].role == "system" else ""
            row = {
                "id": group.id,
                "schema": schema.signature,
                "system": system,
                "prompt_turns": [_turn(m, schema) for m in group.messages if m.role != "system"],
                "label": schema.format(group.requested),
                "responses": [
                    {
                        "from": "Assistant",
                        "value": response.text,
                        _ATTRIBUTES: response.attributes,
                        _RESPONSE: response.response,
                        _STEERED: response.steered,
                    }
                    for response in group.responses
                ],
            }
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


def _turn(message: Message, schema: AttributeSchema) -> dict[str, object]:
    turn: dict[str, object] = {"from": "User" if message.role == "user" else "Assistant", "value": message.content}
    if message.attributes:
        turn["label"] = schema.format(message.attributes)
    return turn


def read_groups(path: Path, schema: AttributeSchema) -> Iterator[ResponseGroup]:
    """Yield the groups of a file."""
    for number, (row, place) in enumerate(read_objects(path), 1):
        if is_signature(row.get("schema")):
            schema.require_same(row["schema"], "the schema in use", place)
        try:
            yield _group(row, schema, f"{path.stem}/{number}")
        except UserError as error:
            raise UserError(f"{place}: {error}") from None


def _group(row: Mapping[str, object], schema: AttributeSchema, name: str) -> ResponseGroup:
    turns, responses = (_rows(row, key) for key in ("prompt_turns", "responses"))
    system = row.get("system") or ""
    messages = [Message("system", _text(row, "system"))] if system else []
    for i, turn in enumerate(turns):
        label = _label(turn, schema)
        messages.append(
            Message("user", _text(turn, "value"))
            if i % 2 == 0
            else Message("assistant", _text(turn, "value"), label or None)
        )
    check_roles(messages)
    if messages[-1].role != "user":
        raise UserError(f"prompt_turns must be odd in number and end with the user's, got {len(turns)}")
    requested = _label(row, schema)
    if not requested:
        raise UserError("the label is empty: there is nothing that the responses were asked for")
    weighed = tuple(
        WeighedResponse(_text(r, "value"), *(_number(r, key) for key in (_ATTRIBUTES, _RESPONSE, _STEERED)))
        for r in responses
    )
    own = row.get("id")
    return ResponseGroup(str(own) if isinstance(own, (str, int)) else name, tuple(messages), requested, weighed)


def _rows(row: Mapping[str, object], key: str) -> list[Mapping[str, object]]:
    found = row.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(item, dict) for item in found):
        raise UserError(f"{key} must be a list of one or more objects, got {str(found)[:80]}")
    return found


def _text(row: Mapping[str, object], key: str) -> str:
    found = row.get(key)
    if not isinstance(found, str) or not found.strip():
        raise UserError(f"{key} must be text, got {found!r}")
    return found


def _label(row: Mapping[str, object], schema: AttributeSchema) -> dict[str, Value]:
    label = row.get("label")
    if label is not None and not isinstance(label, str):
        raise UserError(f"label must be text like quality:4,toxicity:0, got {label!r}")
    return schema.parse(label or "")


def _number(row: Mapping[str, object], key: str) -> float:
    found = row.get(key)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise UserError(f"{key} of a response must be a finite number, got {found!r}")
    return float(found)
