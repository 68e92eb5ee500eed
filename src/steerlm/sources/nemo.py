"""NeMo-Aligner's attribute-conditioned SFT format, in and out.

    {"conversations": [{"from": "User", "value": "…", "label": null},
                       {"from": "Assistant", "value": "…", "label": "quality:4,toxicity:0"}],
     "system": "…", "mask": "User", "type": "VALUE_TO_TEXT"}

NVIDIA's nine attributes stand on the scale 0..4 there, whatever the schema's scale is; an attribute of another name
stands on the schema's. Multi-turn prompts are often flattened into one value with `<extra_id_1>` markers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from steerlm.attributes import STEERLM, AttributeSchema, Value, is_signature
from steerlm.conversation import Conversation, Message, Role
from steerlm.errors import UserError
from steerlm.sources.draft import (
    Draft,
    JsonObject,
    Labelled,
    Labels,
    absent,
    expect_object,
    expect_text,
    filled_text,
    optional_text,
    own_id,
)
from steerlm.sources.turns import TRAINED_KEYS, find_turns, trained_flag
from steerlm.storage.files import lines_writer

_LOW, _HIGH = 0, 4
_MARKER = re.compile(r"^<extra_id_[01]>(System|User|Assistant)(?:\n|\Z)(?:<extra_id_2>([^\n]*)\n)?", re.MULTILINE)
_ROLES: dict[str, Role] = {"System": "system", "User": "user", "Assistant": "assistant"}
_USER_LABEL = "(label of a user turn)"
_CONTROL = re.compile(r"<(extra_id_[0-9]+>)")


class FlatTurn(NamedTuple):
    """One turn of a flattened value; `label` is its label line, None where it has none."""

    role: Role
    text: str
    label: str | None


def unflatten(value: str) -> list[FlatTurn]:
    """Take a user value with `<extra_id_1>` markers apart; one without markers is one user turn.

    An assistant marker at the very end (the cue for the response) yields no turn.
    """
    first, *pieces = _MARKER.split(value)
    if not pieces:
        return [FlatTurn("user", first, None)]
    turns = [FlatTurn("user", first, None)] if first else []
    for role, label, text in zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True):
        turns.append(FlatTurn(_ROLES[role], text, label))
    # the newline before a marker belongs to the marker
    turns = [turn._replace(text=turn.text.removesuffix("\n")) for turn in turns[:-1]] + turns[-1:]
    if turns[-1].role == "assistant" and not turns[-1].text.strip():
        turns.pop()
    return turns


def prompt_messages(value: str, labels: Labels, own_scale: bool = False) -> list[Message]:
    """Return the turns of a (possibly flattened) user value as messages, with the labels of history turns.

    Raises:
        UserError: a label line that does not parse.
    """
    messages = []
    for turn in unflatten(value):
        messages.append(_message(turn.role, turn.text, turn.label, labels, own_scale))
    return messages


def convert(row: object, labels: Labels) -> Iterator[Draft]:
    """Yield the one conversation of a row.

    Raises:
        UserError: no list of turns, a label line that does not parse or is off the scale.
    """
    row = expect_object(row)
    turns = find_turns(row, "conversations")
    own_scale = is_signature(row.get("schema"))  # `read_source` has compared it with ours
    masked = optional_text(row, "mask") or "User"
    messages: list[Message] = []
    if system := filled_text(row, "system", labels):
        messages.append(Message("system", system))
    for turn in map(expect_object, turns):
        value, label = expect_text(turn, "value"), turn.get("label")
        if label is not None and not isinstance(label, str):
            raise UserError(f"the label must be text like quality:4,toxicity:0 or null, got {label!r}")
        flags = {key: trained_flag(key, turn[key]) for key in TRAINED_KEYS if not absent(turn.get(key))}
        for key in turn.keys() - {"from", "value", "label", *flags}:
            if not absent(turn[key]):
                labels.dropped[f"(message key {key})"] += 1
        # the mask names the speaker whose turns are not trained
        if expect_text(turn, "from").strip().lower() != masked.strip().lower():
            said = [_message("assistant", value, label, labels, own_scale)]
        else:
            said = prompt_messages(value, labels, own_scale)
            if label:
                labels.dropped[_USER_LABEL] += 1
        if 0 in flags.values():
            said = [replace(message, weight=0) if message.role == "assistant" else message for message in said]
        messages.extend(said)
    meta = {"dataset": row["dataset"]} if isinstance(row.get("dataset"), str) else {}
    yield Draft(tuple(messages), own_id(row, "id"), meta=meta)


def _message(role: Role, text: str, label: str | None, labels: Labels, own_scale: bool) -> Message:
    if role != "assistant":
        if label:
            labels.dropped[_USER_LABEL] += 1
        return Message(role, text)
    labelled = parse_label(label or "", labels, own_scale)
    return Message(role, text, attributes=labelled.attributes, ratings=labelled.ratings)


def parse_label(text: str, labels: Labels, own_scale: bool = False) -> Labelled:
    """Parse a label line `name:value,name:value` in any order.

    Args:
        text: the line; an empty one is no labels.
        labels: the schema, and where labels without an attribute in it are counted.
        own_scale: the nine attributes stand on the schema's scale too (a file exported from that schema).

    Raises:
        UserError: a piece that is not name:value, a double name, a value off the scale.
    """
    schema = labels.schema
    levels: dict[str, Value] = {}
    numbers: dict[str, object] = {}
    for piece in text.split(",") if text.strip() else ():
        name, colon, raw = (part.strip() for part in piece.partition(":"))
        if not colon or not name:
            raise UserError(f"{piece!r} in label {text!r} is not of the form name:value")
        if name in levels or name in numbers:
            raise UserError(f"{name!r} stands twice in label {text!r}")
        if name in schema and (own_scale or name not in STEERLM or schema[name].kind == "categorical"):
            levels[name] = schema[name].parse(raw)
        elif name in STEERLM:
            if not re.fullmatch(r"[0-9]{1,9}", raw):
                raise UserError(f"{name}: {raw!r} in label {text!r} is not an integer from {_LOW} to {_HIGH}")
            numbers[name] = int(raw)
        else:
            numbers[name] = raw
    rescaled = labels.convert(numbers, _LOW, _HIGH)
    attributes = schema.validate({**levels, **(rescaled.attributes or {})})
    return Labelled(attributes or None, rescaled.ratings)


def export_nemo(
    conversations: Iterable[Conversation],
    schema: AttributeSchema,
    path: str | Path,
    changed: Counter[str] | None = None,
) -> int:
    """Write conversations in NeMo-Aligner's format, atomically (gzip for .gz); returns their number.

    Labels stand on the schema's scale. Where that is not NeMo's 0..4 for every attribute, each line carries the
    schema's signature under a further key `schema`, which NeMo ignores and `convert` reads.

    NeMo trains every turn of the assistant. A response of weight 0 is therefore written into the user's next turn, with
    the format's own markers: the model reads the same text and does not learn it. A marker in somebody's text
    (`<extra_id_1>`) would be read as the start of a turn; it gets a space behind its bracket.

    Args:
        changed: counts what does not stand in the file as it was: neutralised markers, responses of weight 0 that
            nothing follows, what the format has no place for.

    Raises:
        UserError: a label that is not in the schema.
    """
    standard = all((a.minimum, a.maximum) == (_LOW, _HIGH) for a in schema.ordinal)
    count = 0
    changed = Counter() if changed is None else changed
    with lines_writer(path) as stream:
        for conversation in conversations:
            row = _export_row(conversation, schema, changed)
            if not row["conversations"]:
                continue
            if not standard:
                row["schema"] = schema.signature
            stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            count += 1
    return count


def _export_row(conversation: Conversation, schema: AttributeSchema, changed: Counter[str]) -> JsonObject:
    system, masked = "", ""
    turns: list[JsonObject] = []
    for message in conversation.messages:
        text, found = _CONTROL.subn(r"< \1", message.content)
        if found:
            changed["markers of the format in texts, written with a space"] += found
        label = schema.format(message.attributes) if message.attributes else None
        for name in ("human", "ratings", "scores"):
            if getattr(message, name):
                changed[f"{name} of responses, which the format has no place for"] += 1
        if message.role == "system":
            system = text
        elif message.weight == 0:
            header = f"<extra_id_2>{label}\n" if label else ""
            masked = f"{turns.pop()['value']}\n<extra_id_1>Assistant\n{header}{text}\n<extra_id_1>User\n"
        elif message.role == "user":
            turn: JsonObject = {"from": "User", "value": masked + text, "label": None}
            turns.append({**turn, "weight": 0} if masked else turn)
            masked = ""
        else:
            turns.append({"from": "Assistant", "value": text, "label": label})
    if masked:
        changed["responses of weight 0 that no other follows, left out with their prompts"] += 1
    return {"conversations": turns, "system": system, "mask": "User", "type": "VALUE_TO_TEXT"}
