"""Chat turns under any of the names that other tools give their parts.

`{"role": "assistant", "content": "…"}`, `{"from": "gpt", "value": "…", "weight": 0}`, content in parts, a flag that
keeps a turn out of training. What a record cannot hold (a call of a tool, an image) makes the row a bad record; what
is left out is counted.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import orjson

from steerlm.attributes import AttributeSchema
from steerlm.conversation import MESSAGE_KEYS, Message, Role, message_from_dict
from steerlm.errors import UserError, did_you_mean
from steerlm.sources.draft import JsonObject, absent

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "ai": "assistant",
    "assistant": "assistant",
}
_TOOLS = ("tool", "tools", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
TURN_LISTS = ("messages", "conversations", "conversation")
ROLE_KEYS = ("role", "from", "speaker")
_TEXT_KEYS = ("content", "value", "text")
_CALLS = ("tool_calls", "function_call")
_LABELS = ("attributes", "human", "ratings", "scores")
_SLIP = 0.8
"""Likeness of two names from which one is taken for the other misspelt."""
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
TRAINED_KEYS = ("weight", "train", "training", "trainable", "train_on_turn", "loss", "loss_weight", "loss_mask")
ROW_FLAGS = ("weight", "train", "training", "trainable", "loss", "loss_mask")
"""The same beside the turns, for a whole row."""
_UNTRAINED_KEYS = ("masked", "ignore_loss")
_UNCLEAR = {
    "mask": "it does not say whether 1 means masked or trained; name it weight (1 = trained) or masked (1 = not)",
    "train_detail": "a turn is trained as a whole or not at all; give it a weight of 0 or 1",
}
_YES_NO: dict[object, Literal[0, 1]] = {
    0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "no": 0, "yes": 1,
}  # fmt: skip


def find_turns(row: JsonObject, wanted: str) -> list[object]:
    """Return the row's list of turns: under `wanted`, else under another usual name; a column of text may hold it."""
    for key in (wanted, *TURN_LISTS):
        turns = row.get(key)
        if isinstance(turns, str) and turns.lstrip().startswith("["):  # a cell of a table
            try:
                turns = orjson.loads(turns)
            except orjson.JSONDecodeError as error:
                raise UserError(f"{key!r} is no list of turns: {error}") from None
        if isinstance(turns, list) and (turns or key == wanted):
            return turns
    raise UserError(f"the row has no list of {wanted!r}; it has {', '.join(map(str, row)) or 'nothing'}")


def read_turns(
    turns: list[object], schema: AttributeSchema | None, left_out: Counter[str], system: str = ""
) -> list[Message]:
    """Return turns as messages, below the row's own system prompt.

    Args:
        schema: labels are validated against it.
        left_out: counts what a message has no place for.
    """
    messages = [Message("system", system)] if system else []
    for number, turn in enumerate(turns):
        try:
            messages.append(read_turn(turn, schema, left_out))
        except UserError as error:
            raise UserError(f"message {number}: {error}") from None
    return messages


def read_turn(turn: object, schema: AttributeSchema | None, left_out: Counter[str]) -> Message:
    """Return one turn as a message, its labels on the schema's scale."""
    if not isinstance(turn, dict):
        raise UserError(f"a message must be a JSON object with role and content, got {turn!r}")
    role_key, text_key = (
        next((key for key in keys if turn.get(key) is not None), keys[0]) for keys in (ROLE_KEYS, _TEXT_KEYS)
    )
    role = _role(turn, role_key)
    fields: dict[str, object] = {"role": role}
    unknown: set[str] = set()
    for key, value in turn.items():
        if key in (role_key, text_key) or absent(value):
            continue
        if key in _CALLS:
            raise UserError(f"this {role} message calls a tool, which a record cannot hold")
        if key in _UNCLEAR:
            raise UserError(f"{key}: {_UNCLEAR[key]}")
        if key in _LABELS and isinstance(value, dict):
            # parquet fills a missing label with null
            given = {str(name): label for name, label in value.items() if not absent(label)}
            unknown |= _not_in(schema, given)
            fields[key] = {name: label for name, label in given.items() if name not in unknown} or None
        elif key in TRAINED_KEYS or key in _UNTRAINED_KEYS:
            trained = trained_flag(key, value)
            if role != "assistant":
                if trained:
                    left_out[f"(training of a {role} turn)"] += 1
            elif fields.setdefault("weight", trained) != trained:
                raise UserError(f"{key} {value!r} contradicts another key that says whether the turn is trained")
        elif key in MESSAGE_KEYS:
            fields[key] = value
        else:
            left_out[f"(message key {key})"] += 1
    left_out.update(unknown)  # once a turn, however often the label stands in it
    fields["content"] = _text(turn.get(text_key), role, left_out)
    return message_from_dict(fields, schema)


def _not_in(schema: AttributeSchema | None, labels: Mapping[str, object]) -> set[str]:
    """Return the names of labels that the schema lacks; without a schema there are none.

    Raises:
        UserError: one is nearly called like an attribute that the turn lacks: a slip would lose the label.
    """
    if schema is None:
        return set()
    unknown = {name for name in labels if name not in schema}
    lacking = [name for name in schema.names if name not in labels]
    for name in sorted(unknown):
        if difflib.get_close_matches(name.lower(), lacking, n=1, cutoff=_SLIP):
            raise UserError(f"unknown attribute {name!r}: {did_you_mean(name.lower(), lacking)}")
    return unknown


def _role(turn: Mapping[object, object], key: str) -> Role:
    found = turn.get(key)
    name = found.strip().lower() if isinstance(found, str) else ""
    if name in ROLES:
        return ROLES[name]
    if name in _TOOLS or key == "role":
        why = "; a record cannot hold calls of tools and their results" if name in _TOOLS else ""
        raise UserError(f"role {found!r} is not one of system, user, assistant{why}")
    raise UserError(f"unknown speaker {found!r}: {did_you_mean(name, ROLES)}")


def _text(content: object, role: Role, left_out: Counter[str]) -> str:
    if isinstance(content, list) and content:
        texts = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            text = part.get("text") if isinstance(part, dict) else part
            if kind in _THOUGHTS:
                left_out[f"(content part {kind})"] += 1
            elif isinstance(text, str):
                texts.append(text)
            else:
                what = f"a part of type {kind!r}" if kind not in (None, "text") else f"{part!r}"
                raise UserError(f"content of {role} messages must be text, got {what}")
        return "\n".join(texts)
    if not isinstance(content, str):
        raise UserError(f"content of {role} messages must be text, got {content!r}")
    return content


def trained_flag(key: str, value: object) -> Literal[0, 1]:
    """Return 1 where a turn (or row) is to be trained, 0 where it is context only."""
    known = value.strip().lower() if isinstance(value, str) else value
    flag = _YES_NO.get(known) if isinstance(known, (str, int, float)) else None
    if flag is None:
        raise UserError(f"{key} must be 0 or 1, false or true, got {value!r}")
    return flag if key not in _UNTRAINED_KEYS else 1 if flag == 0 else 0
