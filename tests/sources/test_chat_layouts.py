"""ShareGPT, model self-identification, Alpaca and `messages` (made-up text)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import OASST, PAPER, STEERLM
from steerlm.config import SourceConfig, SourceFormat
from steerlm.conversation import Conversation, Message, Score, write_conversations
from steerlm.errors import UserError
from steerlm.sources import read_source
from steerlm.sources.rows import BadRecords
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


def test_alpaca_history_stands_before_the_instruction(read: Import) -> None:
    asked = {"instruction": "And its population?", "input": "", "output": "2 million."}
    earlier = [("user", "What is the capital of Fooland?"), ("assistant", "Bartown.")]
    histories: list[Any] = [
        [["What is the capital of Fooland?", "Bartown."]],
        [{"role": "user", "content": earlier[0][1]}, {"role": "assistant", "content": earlier[1][1]}],
        [{"from": "human", "value": earlier[0][1]}, {"from": "gpt", "value": earlier[1][1]}],
        [{"instruction": "What is the capital of Fooland?", "input": "<noinput>", "output": "Bartown."}],
        '[["What is the capital of Fooland?", "Bartown."]]',
    ]
    got = read("alpaca", *[{**asked, "history": history, "system": "Be kind"} for history in histories])
    assert got.bad == []
    for conversation in got.conversations:
        assert turns(conversation)[:3] == [("system", "Be kind"), *earlier]
        assert turns(conversation)[3:] == [("user", "And its population?"), ("assistant", "2 million.")]
    for nothing in (None, [], "", "  "):
        assert len(read("alpaca", {**asked, "history": nothing}).conversations[0].messages) == 2
    for wrong in ("x", [["one"]], [["a", "b", "c"]], [[1, 2]], [3], "[1"):
        got = read("alpaca", {**asked, "history": wrong})
        assert got.conversations == []
        assert "'history'" in got.bad[0]


@pytest.mark.parametrize("nothing", ["<noinput>", "noinput", "<No Input>", "nan", "NaN", "N/A", "n/a.", "None", "null"])
def test_placeholders_are_no_text(read: Import, nothing: str) -> None:
    row = {"instruction": "Tell a joke", "input": nothing, "output": "b", "system": nothing}
    got = read("alpaca", row, {"instruction": "", "input": "Translate: cat", "output": "chat"})
    assert turns(got.conversations[0]) == [("user", "Tell a joke"), ("assistant", "b")]
    assert turns(got.conversations[1]) == [("user", "Translate: cat"), ("assistant", "chat")]
    assert got.dropped == {"(placeholder in input)": 1, "(placeholder in system)": 1}
    assert turns(read("sharegpt", share(("human", "a"), ("gpt", nothing), system=nothing)).conversations[0]) == [
        ("user", "a"), ("assistant", nothing),
    ]  # fmt: skip


def test_a_placeholder_in_place_of_an_answer_is_a_bad_record(read: Import) -> None:
    got = read("alpaca", {"instruction": "a", "output": "<nooutput>"}, {"instruction": "a", "output": "None"})
    assert len(got.conversations) == 1
    assert got.bad == ["1: 'output' is a placeholder: '<nooutput>'"]


@pytest.mark.parametrize(
    ("source_format", "list_key", "role_key", "text_key", "roles"),
    [
        ("sharegpt", "conversations", "from", "value", ("human", "gpt")),
        ("sharegpt", "conversation", "role", "content", ("user", "assistant")),
        ("sharegpt", "messages", "role", "content", ("User", "Assistant")),
        ("self_identification", "conversations", "from", "value", ("human", "chatgpt")),
        ("messages", "messages", "role", "content", ("user", "assistant")),
        ("messages", "conversations", "from", "value", ("human", "bard")),
        ("messages", "conversation", "from", "text", ("HUMAN", "model")),
        ("hh_rlhf", "chosen", "role", "content", ("user", "assistant")),
    ],
)
@pytest.mark.parametrize("key", ["weight", "train", "training", "trainable", "loss", "loss_mask"])
def test_a_turn_that_says_it_is_not_trained_is_context_only(
    read: Import, source_format: SourceFormat, list_key: str, role_key: str, text_key: str, roles: tuple[str, str],
    key: str,
) -> None:  # fmt: skip
    for off, on in ((0, 1), (False, True), ("0", "1"), ("false", "True"), (0.0, 1.0), (0, None)):
        said = [
            {role_key: roles[i % 2], text_key: f"text {i}", **({key: (off, on)[i // 2]} if i % 2 else {})}
            for i in range(4)
        ]
        row: dict[str, Any] = {list_key: said}
        if source_format == "hh_rlhf":
            row["rejected"] = said
        got = read(source_format, row)
        assert got.bad == []
        assert [m.weight for m in got.conversations[0].messages] == [1, 0, 1, 1]
        assert turns(got.conversations[0])[1] == ("assistant", "text 1")
        assert got.dropped == {}


def test_flags_that_cannot_be_followed_are_told(read: Import) -> None:
    for fields, piece in [
        ({"weight": 0.5}, "message 1: weight must be 0 or 1"),
        ({"train": "maybe"}, "train must be 0 or 1, false or true, got 'maybe'"),
        ({"loss": [1]}, "loss must be 0 or 1"),
        ({"weight": 1, "train": False}, "contradicts"),
        ({"mask": 1}, "it does not say whether 1 means masked or trained"),
        ({"train_detail": [{"begin_offset": 0}]}, "a turn is trained as a whole or not at all"),
    ]:
        row = share(("human", "Hi"), ("gpt", "Hello"))
        row["conversations"][1] |= fields
        got = read("sharegpt", row)
        assert got.conversations == []
        assert piece in got.bad[0]
    row = share(("human", "Hi"), ("gpt", "Hello"))
    row["conversations"][0] |= {"train": True}
    row["conversations"][1] |= {"masked": True}
    got = read("sharegpt", row)
    assert [m.weight for m in got.conversations[0].messages] == [1, 0]
    assert got.dropped == {"(training of a user turn)": 1}


@pytest.mark.parametrize(
    ("source_format", "row"),
    [
        ("sharegpt", share(("human", "a"), ("gpt", "b"))),
        ("alpaca", {"instruction": "a", "output": "b"}),
        ("helpsteer", {"prompt": "a", "response": "b", "helpfulness": 1}),
        ("messages", {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}),
        ("table", {"prompt": "a", "response": "b"}),
        ("nemo", {"conversations": [{"from": "User", "value": "a"}, {"from": "Assistant", "value": "b"}]}),
    ],
)
def test_a_row_that_says_it_is_not_trained(read: Import, source_format: SourceFormat, row: dict[str, Any]) -> None:
    for fields, weight in (({}, 1), ({"weight": 1}, 1), ({"weight": 0}, 0), ({"train": "false"}, 0)):
        got = read(source_format, {**row, **fields})
        assert [m.weight for m in got.conversations[0].messages] == [1, weight]
        assert got.dropped == {}


def test_labels_of_sharegpt_turns_are_read(read: Import) -> None:
    row = share(("human", "Hi"), ("gpt", "Hello"))
    row["conversations"][1] |= {"attributes": {"quality": 3}, "markdown": "x", "text": None}
    got = read("sharegpt", row)
    assert got.conversations[0].messages[1].attributes == {"quality": 3}
    assert got.dropped == {"(message key markdown)": 1}


def test_content_in_parts(read: Import) -> None:
    row = chat("x", "y")
    row["messages"][0]["content"] = [{"type": "text", "text": "What"}, {"type": "text", "text": "is tea?"}]
    row["messages"][1]["content"] = [{"type": "thinking", "thinking": "Hm"}, {"type": "output_text", "text": "A leaf."}]
    got = read("messages", row)
    assert turns(got.conversations[0]) == [("user", "What\nis tea?"), ("assistant", "A leaf.")]
    assert got.dropped == {"(content part thinking)": 1}
    row["messages"][0]["content"] = [{"type": "image_url", "image_url": {"url": "x"}}]
    assert "got a part of type 'image_url'" in read("messages", row).bad[0]
    row["messages"][0]["content"] = None
    assert "content of user messages must be text, got None" in read("messages", row).bad[0]


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": "Wait.", "tool_calls": [{"id": "1"}]},
        {"role": "assistant", "content": "", "function_call": {"name": "f"}},
        {"role": "tool", "content": "3"},
        {"role": "function", "content": "3"},
        {"from": "observation", "value": "3"},
        {"from": "function_call", "value": "3"},
    ],
)
def test_calls_of_tools_are_bad_records_that_say_so(read: Import, turn: dict[str, Any]) -> None:
    for source_format, key in (("messages", "messages"), ("sharegpt", "conversations")):
        got = read(source_format, {key: [{"role": "user", "content": "2+1?"}, turn]})
        assert got.conversations == []
        assert "tool" in got.bad[0]
        assert "a record cannot hold" in got.bad[0]


def test_columns_that_no_importer_reads_are_counted(read: Import) -> None:
    row = share(("human", "a"), ("gpt", "b"), id="1", tools="[]", score=0.3, source="web", empty=None)
    assert read("sharegpt", row).dropped == {"(column tools)": 1, "(column score)": 1, "(column source)": 1}
    assert read("alpaca", {"instruction": "a", "output": "b", "text": "x", "weight": 0.3}).dropped == {
        "(column weight)": 1
    }


def test_a_schema_column_of_other_data_is_no_signature(read: Import) -> None:
    for foreign in ("v1.0", 2, {"type": "object"}, "chatml", "a:b"):
        got = read("messages", chat("Hi", "Hello", schema=foreign))
        assert (len(got.conversations), got.bad) == (1, [])
        assert "schema" not in got.conversations[0].meta
        assert got.dropped == {"(column schema)": 1}
        assert len(read("nemo", {**share(("User", "a"), ("Assistant", "b")), "schema": foreign}).conversations) == 1


@pytest.mark.parametrize(("own", "told"), [(7, "7"), ("x", "x"), (7.0, "7"), (1.5, "1.5"), ("", "0"), (None, "0")])
def test_ids_of_any_type(read: Import, own: Any, told: str) -> None:
    assert read("sharegpt", share(("human", "a"), ("gpt", "b"), id=own)).conversations[0].id == f"s/{told}"


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
        ({"humour": 1}, "unknown attribute 'humour': did you mean 'humor'"),
        ({"quality": 2.5}, "quality: 2.5"),
    ]:
        row["messages"][1]["attributes"] = attributes
        (error,) = read("messages", row, schema=OASST).bad
        assert error.startswith("1: message 1: ")
        assert piece in error
    row["messages"][1]["attributes"] = {"quality": 3, "humor": None}  # as parquet fills it
    assert read("messages", row, schema=OASST).conversations[0].messages[1].attributes == {"quality": 3}


def test_labels_that_the_schema_lacks_are_left_out_and_counted_once_a_turn(read: Import) -> None:
    row = chat("Hi", "Hello")
    row["messages"][1] |= {"attributes": {"quality": 3, "mood": "calm"}, "ratings": {"mood": [1.0], "qualities": [2.0]}}
    got = read("messages", row, schema=OASST)
    assert got.bad == []
    assert got.conversations[0].messages[1].attributes == {"quality": 3}
    assert got.dropped == {"mood": 1, "qualities": 1}


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
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content of user messages must be text"),
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
