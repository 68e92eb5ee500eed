"""Round trips of every form a record or label is written in, and importers that never fail but with a UserError."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections import Counter
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlm.attributes import STEERLM, AttributeSchema
from steerlm.conversation import conversation_from_dict, read_conversations, to_json_line, write_conversations
from steerlm.errors import UserError
from steerlm.sources import IMPORTERS
from steerlm.sources.draft import Labels, normalise
from steerlm.sources.json_array import read_array
from steerlm.sources.nemo import convert, export_nemo, unflatten
from steerlm.storage.hash_set import HashSet
from tests.property.schemas import JSON, TEXT, conversations, schemas
from tests.property.schemas import settings as label_settings

EXAMPLES = settings(max_examples=60)


@given(st.data())
def test_text_form_parses_back(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    values = data.draw(label_settings(schema))
    shuffled = dict(data.draw(st.permutations(list(values.items()))))
    assert schema.parse(schema.format(shuffled)) == values
    assert list(schema.parse(schema.format(shuffled))) == list(values)
    assert AttributeSchema.from_dict(schema.to_dict()) == schema


@EXAMPLES
@given(schemas(), st.text(max_size=30))
def test_any_text_parses_or_is_a_user_error(schema: AttributeSchema, text: str) -> None:
    with contextlib.suppress(UserError):
        values = schema.parse(text)
        assert schema.format(values) == text  # whatever is accepted is canonical


@EXAMPLES
@given(st.data())
def test_record_parses_back(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    conversation = data.draw(conversations(schema))
    line = to_json_line(conversation, schema)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert conversation_from_dict(orjson.loads(line), schema) == conversation
    assert to_json_line(conversation_from_dict(orjson.loads(line), schema), schema) == line


@settings(max_examples=20)
@given(st.data())
def test_file_of_records_reads_back(data: st.DataObject) -> None:
    schema = data.draw(schemas())
    written = data.draw(st.lists(conversations(schema), max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        for name in ("a.jsonl", "a.jsonl.gz"):
            path = Path(folder) / name
            assert write_conversations(path, written, schema) == len(written)
            assert list(read_conversations(path, schema)) == written


@EXAMPLES
@given(st.data())
def test_any_json_is_a_record_or_a_user_error(data: st.DataObject) -> None:
    keys = st.sampled_from(["role", "content", "attributes", "human", "ratings", "scores", "labelled_by"])
    message = st.dictionaries(keys, JSON | st.sampled_from(["user", "assistant", {"quality": 3}]), max_size=5)
    raw = data.draw(st.fixed_dictionaries({"id": JSON, "messages": JSON | st.lists(message, max_size=3)}))
    for schema in (None, STEERLM):
        with contextlib.suppress(UserError):
            conversation_from_dict(raw, schema)


WORDS = [
    "conversations", "from", "value", "label", "mask", "system", "prompt", "response", "helpfulness", "chosen",
    "rejected", "instruction", "input", "output", "text", "role", "replies", "labels", "name", "messages", "content",
    "attributes", "ratings", "schema", "id", "message_tree_id", "deleted", "source", "group", "meta",
]  # fmt: skip
PHRASES = [
    "user", "assistant", "prompter", "human", "gpt", "User", "Assistant", "quality:3", "quality:9", "lang:en", "x",
    "\n\nHuman: a\n\nAssistant: b", "a\n<extra_id_1>Assistant\nb\n<extra_id_1>User\nc", "<extra_id_1>User",
]  # fmt: skip
ROWS = st.recursive(
    JSON | st.sampled_from(PHRASES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=16,
)


@pytest.mark.parametrize("name", list(IMPORTERS))
@settings(max_examples=80)
@given(row=ROWS)
def test_importers_take_any_json_or_raise_a_user_error(name: str, row: object) -> None:
    with contextlib.suppress(UserError):
        for draft in IMPORTERS[name](row, Labels(STEERLM)):  # type: ignore[index]
            assert isinstance(draft.messages, tuple)


@settings(max_examples=40)
@given(st.data())
def test_nemo_export_imports_back(data: st.DataObject) -> None:
    schema = data.draw(st.just(STEERLM) | schemas())
    written = data.draw(st.lists(conversations(schema, plain=True), min_size=1, max_size=3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nemo.jsonl"
        assert export_nemo(written, schema, path) == len(written)
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    labels = Labels(schema)
    read = [draft.messages for row in rows for draft in convert(row, labels)]
    assert read == [conversation.messages for conversation in written]
    assert labels.dropped == Counter()


@EXAMPLES
@given(st.lists(TEXT.filter(lambda text: "<extra_id" not in text), min_size=1, max_size=5))
def test_flattened_prompts_are_taken_apart(turns: list[str]) -> None:
    roles = ["User" if i % 2 == 0 else "Assistant" for i in range(len(turns))]
    flat = turns[0] + "".join(f"\n<extra_id_1>{r}\n{t}" for r, t in zip(roles[1:], turns[1:], strict=True))
    parts = unflatten(flat)
    assert [part.text for part in parts] == turns
    assert [part.role for part in parts] == [role.lower() for role in roles]


@EXAMPLES
@given(st.lists(JSON.filter(lambda v: "NaN" not in json.dumps(v) and "Infinity" not in json.dumps(v)), max_size=6),
       st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())  # fmt: skip
def test_array_is_read_item_by_item_whatever_the_window(
    items: list[object], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    text = f" {json.dumps(items, indent=indent, ensure_ascii=ascii_only)}\n"
    assert [item.value for item in read_array(io.StringIO(text), Path("a.json"), chunk)] == items


@EXAMPLES
@given(st.text(max_size=30), st.integers(1, 8))
def test_array_reader_agrees_with_json_on_what_is_malformed(text: str, chunk: int) -> None:
    text = "[" + text
    try:
        expected = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        with pytest.raises(UserError, match=r"a\.json:\d+:\d+: malformed JSON"):
            list(read_array(io.StringIO(text, newline="\n"), Path("a.json"), chunk))
    else:
        assert [i.value for i in read_array(io.StringIO(text, newline="\n"), Path("a.json"), chunk)] == expected


@EXAMPLES
@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 50), max_size=200))
def test_hash_set_is_a_set(values: list[int]) -> None:
    ours, reference = HashSet(), set[int]()
    for value in values:
        kept = value or 1  # 0 counts as 1
        assert (value in ours) == (kept in reference)
        assert ours.add(value) == (kept not in reference)
        reference.add(kept)
    assert len(ours) == len(reference)
    assert all(value in ours for value in reference)


@EXAMPLES
@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)
    assert normalise(f"  {text}\n") == normalise(text)
