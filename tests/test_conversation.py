"""Records: roles, labels, streaming, and errors with their place."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import OASST, PAPER
from steerlm.conversation import (
    Conversation,
    Message,
    Score,
    conversation_from_dict,
    read_conversations,
    to_json_line,
    write_conversations,
)
from steerlm.errors import UserError

USER, REPLY = Message("user", "Hi"), Message("assistant", "Hello")


def record(**fields: Any) -> dict[str, Any]:
    plain = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    return {"id": "a", "messages": plain, **fields}


def labelled(**fields: Any) -> dict[str, Any]:
    return record(messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello", **fields}])


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "messages",
    [
        (USER,),
        (USER, REPLY),
        (Message("system", "Be kind"), USER, REPLY, USER),
        (Message("system", ""), USER),
    ],
)
def test_well_formed_conversations(messages: tuple[Message, ...]) -> None:
    assert Conversation("a", messages).messages == messages


@pytest.mark.parametrize(
    ("messages", "piece"),
    [
        ((), "no messages"),
        ((Message("system", "x"),), "no user message"),
        ((REPLY,), "message 0 has role 'assistant' where 'user' is due"),
        ((USER, USER), "message 1 has role 'user' where 'assistant' is due"),
        ((USER, REPLY, REPLY), "message 2 has role 'assistant' where 'user' is due"),
        ((USER, Message("system", "x")), "message 1 has role 'system'"),
        ((USER, Message("assistant", " \n")), "message 1 (assistant) is empty"),
        ((Message("user", ""), REPLY), "message 0 (user) is empty"),
    ],
)
def test_wrong_turns_are_refused(messages: tuple[Message, ...], piece: str) -> None:
    with pytest.raises(UserError) as error:
        Conversation("a", messages)
    assert piece in str(error.value)


def test_assistant_turns_and_replacing_one() -> None:
    conversation = Conversation("a", (Message("system", "s"), USER, REPLY, USER, REPLY))
    assert conversation.assistant_turns == (2, 4)
    changed = conversation.with_message(2, Message("assistant", "Bye"))
    assert [m.content for m in changed.messages] == ["s", "Hi", "Bye", "Hi", "Hello"]
    assert conversation.messages[2] == REPLY


@pytest.mark.parametrize(
    ("message", "target"),
    [
        (Message("assistant", "x"), None),
        (Message("assistant", "x", attributes={"quality": 3}), 3.0),
        (Message("assistant", "x", attributes={"quality": 3}, labelled_by="human"), 3.0),
        (Message("assistant", "x", attributes={"quality": 3}, labelled_by="model:abc"), None),
        (Message("assistant", "x", attributes={"quality": 3}, human={"quality": 1}, labelled_by="model:abc"), 1.0),
        (Message("assistant", "x", attributes={"quality": 3}, human={"humor": 1}, labelled_by="model:abc"), None),
        (Message("assistant", "x", attributes={"quality": 3}, ratings={"quality": (1.0, 2.0)}), 1.5),
        (Message("assistant", "x", attributes={"quality": 3}, ratings={"humor": (1.0,)}), 3.0),
        (Message("assistant", "x", attributes={"quality": "high"}), None),
    ],
)
def test_the_target_is_what_people_said_never_what_a_model_said(message: Message, target: float | None) -> None:
    assert message.target("quality") == target


@pytest.mark.parametrize(
    ("message", "labels"),
    [
        (Message("assistant", "x", ratings={"quality": (3.0, 4.0, 4.0), "humor": (2.5,)}), {"quality": 4, "humor": 3}),
        (Message("assistant", "x", {"quality": 1}, ratings={"quality": (3.0,)}), {"quality": 1}),
        (Message("assistant", "x", {"quality": 1}, ratings={"humor": (1.0,)}, labelled_by="model:a"), {"humor": 1}),
        (Message("assistant", "x", {"quality": 1}, {"quality": 2}, {"quality": (3.0,)}), {"quality": 2}),
        (Message("assistant", "x", ratings={"quality": ()}), {}),
        (Message("assistant", "x"), {}),
    ],
)  # fmt: skip
def test_levels_come_from_ratings_where_nothing_else_says_them(message: Message, labels: dict[str, int]) -> None:
    assert message.human_labels == labels


def test_a_full_record_reads_back() -> None:
    message = Message(
        "assistant",
        "Hello",
        attributes={"quality": 4},
        human={"quality": 3},
        ratings={"quality": (3.0, 2.5)},
        scores={"quality": Score(3.6, 0.4, {"3": 0.4, "4": 0.6})},
        labelled_by="model:abc",
    )
    conversation = Conversation("a", (USER, message), "s", "g", {"topic": "tea", "meta": {"x": 1}})
    raw = json.loads(to_json_line(conversation, OASST))
    assert raw == {
        "id": "a", "source": "s", "group": "g", "schema": OASST.signature,
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello", "attributes": {"quality": 4}, "human": {"quality": 3},
             "ratings": {"quality": [3.0, 2.5]},
             "scores": {"quality": {"mean": 3.6, "std": 0.4, "probabilities": {"3": 0.4, "4": 0.6}}},
             "labelled_by": "model:abc"},
        ],
        "topic": "tea", "meta": {"x": 1},
    }  # fmt: skip
    assert conversation_from_dict(raw, OASST) == conversation


def test_a_plain_messages_record_needs_an_id_only() -> None:
    conversation = conversation_from_dict(record())
    assert conversation == Conversation("a", (USER, REPLY))
    assert to_json_line(conversation, None) == (
        b'{"id":"a","source":"","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]}\n'
    )


@pytest.mark.parametrize(
    ("raw", "piece"),
    [
        ([], "must be a JSON object"),
        ({"id": "a"}, "no list of messages"),
        (record(messages="x"), "no list of messages"),
        (record(id=None), "no id"),
        (record(id=[1]), "id must be text or an integer, got [1]"),
        (record(messages=["x"]), "message 0: a message must be an object"),
        (record(messages=[{"role": "human", "content": "x"}]), "message 0: role 'human' is not one of system, user"),
        (record(messages=[{"role": ["user"], "content": "x"}]), "role ['user']"),
        (record(messages=[{"role": "user"}]), "content of user messages must be text, got None"),
        (record(messages=[{"role": "user", "content": [{"type": "text"}]}]), "must be text"),
        (record(messages=[{"role": "user", "content": "x", "attributes": {"quality": 1}}]), "carries labels"),
        (labelled(atributes={}), "unknown key 'atributes' of a message: did you mean 'attributes'"),
        (labelled(attributes={"quality": 5}), "message 1: quality: 5 is not an integer from 0 to 4"),
        (labelled(attributes={"quality": 2.5}), "quality: 2.5"),
        (labelled(attributes={"qualty": 1}), "unknown attribute 'qualty': did you mean 'quality'"),
        (labelled(attributes=[1]), "attributes must be an object"),
        (labelled(human={"quality": -1}), "quality: -1"),
        (labelled(ratings={"quality": 3}), "ratings of 'quality' must be a list"),
        (labelled(ratings={"quality": [9]}), "rating 9 is outside 0..4"),
        (labelled(ratings={"quality": ["3"]}), "rating '3' is not a number"),
        (labelled(ratings=[3]), "ratings must be an object"),
        (labelled(scores={"quality": 3}), "score of 'quality' must be {mean, std}"),
        (labelled(scores={"quality": {"mean": "x", "std": 1}}), "'x' is not a finite number"),
        (labelled(scores={"quality": {"mean": 1, "std": 1, "probabilities": [1]}}), "probabilities of 'quality'"),
        (labelled(scores={"verve": {"mean": 1, "std": 1}}), "unknown attribute 'verve'"),
        (labelled(labelled_by=3), "labelled_by must be text"),
        (labelled(weight=2), "weight must be 0 or 1"),
        (labelled(weight=True), "weight must be 0 or 1"),
        (record(messages=[{"role": "user", "content": "x", "weight": 0}]), "belongs to an assistant message"),
    ],
)
def test_a_wrong_record_is_refused_with_the_reason(raw: Any, piece: str) -> None:
    with pytest.raises(UserError) as error:
        conversation_from_dict(raw, OASST)
    assert piece in str(error.value)


@pytest.mark.parametrize(
    ("fields", "piece"),
    [
        ({"attributes": {"quality": [3]}}, "[3]"),
        ({"attributes": {"quality": True}}, "True"),
        ({"ratings": {"quality": ["a"]}}, "'a' is not a finite number"),
        ({"ratings": {"quality": [float("nan")]}}, "nan is not a finite number"),
    ],
)
def test_without_a_schema_labels_still_have_a_type(fields: dict[str, Any], piece: str) -> None:
    with pytest.raises(UserError) as error:
        conversation_from_dict(labelled(**fields))
    assert piece in str(error.value)


def test_errors_name_file_line_and_column(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", record(), "", '{"id": "b", "messages": [}')
    with pytest.raises(UserError) as error:
        list(read_conversations(path))
    assert str(error.value).startswith(f"{path}:3:26: malformed JSON: ")
    write_lines(path, record(), labelled(attributes={"quality": 7}))
    with pytest.raises(UserError) as error:
        list(read_conversations(path, OASST))
    assert str(error.value) == f"{path}:2: message 1: quality: 7 is not an integer from 0 to 4"
    with pytest.raises(UserError, match="no such file"):
        list(read_conversations(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_non_finite_labels_are_named(tmp_path: Path, constant: str) -> None:
    line = json.dumps(labelled(ratings={"quality": [0]})).replace("[0]", f"[{constant}]")
    path = write_lines(tmp_path / "a.jsonl", line)
    with pytest.raises(UserError, match=f"a.jsonl:1: {constant} is not a finite number"):
        list(read_conversations(path, OASST))


def test_malformed_records_are_named_by_their_place(tmp_path: Path) -> None:
    for number, (line, place) in enumerate([("{", ":2:2:"), (record(messages=[]), ":2:"), ("[" * 2000, ":2:1026:")]):
        path = write_lines(tmp_path / f"{number}.jsonl", record(), line)
        with pytest.raises(UserError, match=f"^{re.escape(str(path))}{place} "):
            list(read_conversations(path, OASST))


def test_a_schema_mismatch_names_both(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_conversations(path, [Conversation("a", (USER, REPLY))], OASST)
    assert len(list(read_conversations(path, OASST))) == 1
    with pytest.raises(UserError) as error:
        list(read_conversations(path, PAPER))
    for piece in (f"{path}:1", OASST.signature, PAPER.signature):
        assert piece in str(error.value)


def test_gzip_is_read_and_written_and_its_bytes_depend_on_the_records_only(tmp_path: Path) -> None:
    conversation = Conversation("a", (USER, REPLY))
    write_conversations(tmp_path / "a.jsonl.gz", [conversation], OASST)
    write_conversations(tmp_path / "b.jsonl.gz", [conversation], OASST)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == to_json_line(conversation, OASST)
    assert list(read_conversations(tmp_path / "a.jsonl.gz", OASST)) == [conversation]


def test_reading_takes_constant_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    line = json.dumps(labelled(attributes={"quality": 3}, content="word " * 1600)).encode() + b"\n"
    with path.open("wb") as stream:
        for _ in range(4000):
            stream.write(line)
    assert path.stat().st_size > 32e6
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_conversations(path, OASST))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4000
    assert peak < 1e6
