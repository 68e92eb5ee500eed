"""Every reader of every command reads one text in the same way, or says the same of it (made-up text)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import OASST
from steerlm.config import SourceConfig
from steerlm.conversation import read_conversations
from steerlm.errors import UserError
from steerlm.sources import read_source
from steerlm.sources.prompts import read_prompts
from steerlm.sources.rows import BadRecords
from steerlm.stages.evaluate.sweeping import read_prompts as evaluation_prompts
from steerlm.stages.prepare.leaks import load_evaluation_prompts
from steerlm.stages.train_attribute_model.examples import labelled_turns
from steerlm.storage.resumable import row_items
from steerlm.studies.compare.systems import read_prompts as compared_prompts
from steerlm.studies.judge.formats import read_answers, read_questions
from steerlm.studies.rate.items import rated_turns

RECORD: dict[str, Any] = {
    "id": "x",
    "messages": [
        {"role": "user", "content": "café"},
        {"role": "assistant", "content": "yes", "attributes": {"quality": 1}},
    ],
}


def source(path: Path) -> SourceConfig:
    return SourceConfig(name="s", format="messages", path=path)


LINES: dict[str, Callable[[Path], object]] = {
    "records": lambda path: [c.messages[0].content for c in read_conversations(path)],
    "labelled": lambda path: [turn.messages[0].content for turn in labelled_turns(path, OASST)],
    "rated": lambda path: [
        item.conversation.messages[0].content
        for item in rated_turns(path, "last", None, 0).items  # type: ignore[union-attr]
    ],
    "items": lambda path: [row["messages"][0]["content"] for row in row_items(path)[:]],
    "answers": lambda path: [("café", *turns)[0] for turns in read_answers(path, "a").answers.values()],
}
ANY: dict[str, Callable[[Path], object]] = {
    "prepare": lambda path: [c.messages[0].content for c in read_source(source(path), OASST)],
    "leaks": lambda path: [turn for prompt in load_evaluation_prompts([path]).exact for turn in prompt],
    "prompts": lambda path: [prompt.messages[0].content for prompt in read_prompts(path)],
    "evaluate": lambda path: [prompt.messages[0].content for prompt in evaluation_prompts(path, OASST, None, 0)],
    "compare": lambda path: [prompt.messages[0].content for prompt in compared_prompts(path, None, 0)],
    "judge": lambda path: [question.turns[0] for question in read_questions(path)],
}
READERS = {**LINES, **ANY}


def line(record: dict[str, Any] = RECORD) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "content",
    [
        line().encode(),
        b"\xef\xbb\xbf" + line().encode(),
        line().replace("\n", "\r\n").encode(),
        line().rstrip().encode(),
        b"\n\n" + line().encode(),
        gzip.compress(line().encode()),
        gzip.compress(b"\xef\xbb\xbf" + line().encode()),
    ],
    ids=["plain", "mark", "crlf", "no end", "blank", "gzip", "gzip and mark"],
)
def test_one_text_is_read_by_all(tmp_path: Path, reader: str, content: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert READERS[reader](path) == ["café"]


def wrong(change: dict[str, Any]) -> str:
    return json.dumps({**RECORD, **change})


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("content", "piece"),
    [
        (line().encode("utf-16"), "a.jsonl: not UTF-8 text but UTF-16"),
        (line().encode("utf-16-le"), "a.jsonl: not UTF-8 text but UTF-16"),
        (line().encode("utf-32"), "not UTF-8 text but UTF-"),
        (line().encode("latin-1"), "a.jsonl:1: not UTF-8 text"),
        (line().encode() + line().encode("cp1252"), "a.jsonl:2: not UTF-8 text"),
        (b"PK\x03\x04xxxx", "a.jsonl: a zip archive"),
        (b"\x28\xb5\x2f\xfdxxxx", "a.jsonl: compressed with zstd"),
        (b"PAR1xxxx", "a.jsonl: a parquet file"),
        (line().encode()[:-4] + b"\0\n", "a.jsonl:1:"),
        (gzip.compress(line().encode())[:-12], "a.jsonl: damaged gzip file"),
        (wrong({"doc": 2**100}).encode(), "a.jsonl:1: the integer 1267650600228229401496703205376 is beyond 64 bit"),
        (wrong({"doc": -(2**64)}).encode(), "beyond 64 bit"),
        (wrong({"doc": float("nan")}).encode(), "a.jsonl:1: NaN is not a finite number"),
        (b'{"id": "\\ud800"}', "a.jsonl:1:"),
        (f"[\n{line()}]".encode(), "a.jsonl:1:"),
    ],
)
def test_what_is_no_text_is_told_by_all(tmp_path: Path, reader: str, content: bytes, piece: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        READERS[reader](path)
    assert piece in str(error.value)


@pytest.mark.parametrize("number", [2**63, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 10**30])
def test_integers_are_kept_exactly_or_refused_in_every_layout(tmp_path: Path, number: int) -> None:
    told = []
    for name, text in (("a.jsonl", wrong({"doc": number})), ("a.json", f"[{wrong({'doc': number})}]")):
        (tmp_path / name).write_text(text)
        bad = BadRecords()
        told.append([c.meta["doc"] for c in read_source(source(tmp_path / name), OASST, bad)] or bad.count)
    assert told == ([[number]] * 2 if -(2**63) <= number < 2**64 else [1, 1])


def test_longer_integers_in_texts_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(wrong({"doc": str(2**100), "share": 0.12345678901234567890}))
    assert next(read_conversations(path)).meta == {"doc": str(2**100), "share": 0.12345678901234567890}


@pytest.mark.parametrize("reader", ["records", "labelled", "prepare", "evaluate"])
def test_a_schema_column_of_other_data_is_not_compared(tmp_path: Path, reader: str) -> None:
    path = tmp_path / "a.jsonl"
    for foreign in ("v1.0", 3, {"type": "object"}, None, "public"):
        path.write_text(wrong({"schema": foreign}))
        assert READERS[reader](path) == ["café"]
    if reader != "records":
        path.write_text(wrong({"schema": "quality:0-9"}))
        with pytest.raises(UserError, match="schema mismatch"):
            READERS[reader](path)


@pytest.mark.parametrize("reader", ANY)
@pytest.mark.parametrize("suffix", ["json", "parquet", "csv"])
def test_prompts_are_read_from_every_type_of_file(tmp_path: Path, reader: str, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps([RECORD], indent=1))
    elif suffix == "csv":
        cell = json.dumps(RECORD["messages"]).replace('"', '""')
        path.write_text(f'id,messages\nx,"{cell}"\n')
    else:
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist([RECORD]), path)
    assert READERS[reader](path) == ["café"]


@pytest.mark.parametrize("reader", [name for name in ANY if name != "prepare"])
@pytest.mark.parametrize(
    "row",
    [
        {"question_id": 3, "turns": ["café", "And?"]},
        {"question_id": 3, "text": "café"},
        {"id": "q", "prompt": "café"},
        {"id": "q", "instruction": "café", "input": "<noinput>"},
        {"id": "q", "conversations": [{"from": "human", "value": "café"}, {"from": "gpt", "value": "x"}]},
    ],
)
def test_prompts_of_every_layout_are_asked_by_all(tmp_path: Path, reader: str, row: dict[str, Any]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    asked = READERS[reader](path)
    assert isinstance(asked, list)
    assert "café" in asked
