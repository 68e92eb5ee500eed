"""ShareGPT, model self-identification, Alpaca and `messages` (made-up text)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import OASST, PAPER, STEERLM
from steerlm.config import SourceConfig, SourceFormat
from steerlm.conversation import BadRecords, Conversation, Message, Score, write_conversations
from steerlm.errors import UserError
from steerlm.sources import read_source
from tests.sources.conftest import Import, turns


def share(*said: tuple[str, str], **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in said], **fields}


@pytest.mark.parametrize("source_format", ["sharegpt", "self_identification"])
def test_sharegpt(read: Import, source_format: SourceFormat) -> None:
    rows = [
        share(("human", "Who are you?"), ("gpt", "An assistant."), ("human", "Thanks"), id="identity_3"),
        share(("system", "Be kind"), ("user", "Hi"), ("assistant", "Hello")),
        share(("human", "Hi"), ("chatgpt", "Hello"), system="Be brief"),
    ]
    first, second, third = read(source_format, *rows).conversations
    assert turns(first) == [("user", "Who are you?"), ("assistant", "An assistant."), ("user", "Thanks")]
    assert (first.id, second.id) == ("s/identity_3", "s/1")
    assert turns(second)[0] == ("system", "Be kind")
    assert turns(third)[0] == ("system", "Be brief")


@pytest.mark.parametrize(
    ("row", "piece"),
    [
        (share(("gpt", "Hello"), ("human", "Hi")), "message 0 has role 'assistant' where 'user' is due"),
        (share(("human", "Hi"), ("gtp", "Hello")), "unknown speaker 'gtp': did you mean 'gpt'"),
        (share(("human", "Hi"), ("gpt", "")), "message 1 (assistant) is empty"),
        (share(), "no messages"),
        ({"messages": []}, "no list of 'conversations'; it has messages"),
        ({"conversations": ["x"]}, "must be a JSON object"),
        (share(("human", "Hi"), id=[1]), "'id' must be text or an integer"),
    ],
)
def test_bad_sharegpt_rows(read: Import, row: dict[str, Any], piece: str) -> None:
    got = read("sharegpt", row)
    assert got.conversations == []
    assert piece in got.bad[0]


def test_alpaca_puts_the_input_below_the_instruction(read: Import) -> None:
    rows = [
        {"instruction": "Translate.", "input": "Tee", "output": "Tea"},
        {"instruction": "Say hi.", "input": "", "output": "Hi", "text": "ignored"},
        {"instruction": "Say hi.", "output": "Hi!", "system": "Be kind"},
    ]
    first, second, third = read("alpaca", *rows).conversations
    assert turns(first) == [("user", "Translate.\n\nTee"), ("assistant", "Tea")]
    assert turns(second) == [("user", "Say hi."), ("assistant", "Hi")]
    assert turns(third)[0] == ("system", "Be kind")
    assert read("alpaca", {"instruction": "x", "output": ""}).bad == ["1: message 1 (assistant) is empty"]
    assert "no 'output'; it has instruction" in read("alpaca", {"instruction": "x"}).bad[0]


def chat(*said: str, **fields: Any) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(said)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, said, strict=False)], **fields}


def test_plain_messages_get_an_id_and_a_group(read: Import) -> None:
    rows = [chat("Hi", "Hello"), chat("hi!", "Hey"), chat("Bye", "Bye", id=7, topic="tea")]
    first, second, third = read("messages", *rows).conversations
    assert [c.id for c in (first, second, third)] == ["s/0", "s/1", "7"]
    assert first.group == second.group != third.group
    assert third.meta == {"topic": "tea"}
    assert {c.source for c in (first, second, third)} == {"s"}


def test_our_own_records_pass_unchanged(tmp_path: Path) -> None:
    reply = Message(
        "assistant",
        "Hello",
        attributes={"quality": 4},
        human={"quality": 3},
        ratings={"quality": (3.0, 2.5)},
        scores={"quality": Score(3.6, 0.4, {"4": 1.0})},
        labelled_by="model:abc",
    )
    written = Conversation("mine/3", (Message("user", "Hi"), reply), "s", "topic-1", {"topic": "tea"})
    write_conversations(tmp_path / "a.jsonl", [written], STEERLM)
    source = SourceConfig(name="s", format="messages", path=tmp_path / "a.jsonl")
    assert list(read_source(source, STEERLM)) == [written]
    renamed = SourceConfig(name="other", format="messages", path=tmp_path / "a.jsonl")
    (conversation,) = read_source(renamed, STEERLM)
    assert (conversation.source, conversation.meta["origin"]) == ("other", "s")  # the mixture weights go by source
    with pytest.raises(UserError, match="schema mismatch") as error:
        list(read_source(source, PAPER, BadRecords()))
    assert STEERLM.signature in str(error.value)
    assert PAPER.signature in str(error.value)


def test_labels_of_messages_are_strict(read: Import) -> None:
    row = chat("Hi", "Hello")
    for attributes, piece in [
        ({"quality": 5}, "quality: 5 is not an integer from 0 to 4"),
        ({"verbosity": 1}, "unknown attribute 'verbosity'"),
        ({"quality": 2.5}, "quality: 2.5"),
    ]:
        row["messages"][1]["attributes"] = attributes
        (error,) = read("messages", row, schema=OASST).bad
        assert error.startswith("1: message 1: ")
        assert piece in error
    row["messages"][1]["attributes"] = {"quality": 3, "humor": None}  # as parquet fills it
    assert read("messages", row, schema=OASST).conversations[0].messages[1].attributes == {"quality": 3}


def test_message_keys_of_other_tools_are_left_out_and_counted(read: Import) -> None:
    row = chat("Hi", "Hello")
    row["messages"][0] |= {"name": "Ann", "tool_calls": None}
    row["messages"][1] |= {"refusal": "no", "weight": 0}
    got = read("messages", row)
    assert turns(got.conversations[0]) == [("user", "Hi"), ("assistant", "Hello")]
    assert got.dropped == {"(message key name)": 1, "(message key refusal)": 1}
    assert [message.weight for message in got.conversations[0].messages] == [1, 0]


@pytest.mark.parametrize(
    ("row", "piece"),
    [
        ({"text": "x"}, "no list of 'messages'; it has text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool' is not one of system, user, assistant"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content of a user message must be text"),
        (chat("Hi", " "), "message 1 (assistant) is empty"),
        (chat(), "no messages"),
        (chat("Hi", id={"x": 1}), "'id' must be text or an integer"),
        ("x", "must be a JSON object"),
    ],
)
def test_bad_messages_rows(read: Import, row: Any, piece: str) -> None:
    got = read("messages", chat("ok", "ok"), row)
    assert len(got.conversations) == 1
    assert got.bad[0].startswith("2: ")
    assert piece in got.bad[0]
