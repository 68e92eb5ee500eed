"""Rows of files, folders and hub data sets, with their place."""

from __future__ import annotations

import builtins
import gzip
import json
import sys
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import STEERLM
from steerlm.config import SourceConfig, SourceFormat
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.sources import read_source
from steerlm.sources.rows import BadRecords, read_file_rows, read_rows

ROWS = [{"a": 1, "b": "é"}, {"a": 2, "b": "x\u2028y"}, {"a": None, "b": "z"}]
Write = Callable[[Path], None]


def write_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(ROWS), path)


def lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


WRITERS: dict[str, Write] = {
    "rows.jsonl": lambda path: (path.write_bytes(lines()), None)[1],
    "rows.jsonl.gz": lambda path: (path.write_bytes(gzip.compress(lines())), None)[1],
    "rows.json": lambda path: (path.write_text(json.dumps(ROWS, indent=2)), None)[1],
    "bom.json": lambda path: (path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROWS).encode()), None)[1],
    "bom.jsonl": lambda path: (path.write_bytes(b"\xef\xbb\xbf" + lines()), None)[1],
    "rows.json.gz": lambda path: (path.write_bytes(gzip.compress(json.dumps(ROWS).encode())), None)[1],
    "lines.json": lambda path: (path.write_bytes(b"\n" + lines()), None)[1],
    "rows.parquet": write_parquet,
}


@pytest.mark.parametrize("name", list(WRITERS))
def test_every_layout_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    rows = list(read_file_rows(path))
    assert [row.value for row in rows] == ROWS
    assert [row.number for row in rows] == [0, 1, 2]
    places = {
        "rows.json": ["2", "6", "10"],
        "bom.json": ["1", "1", "1"],
        "rows.json.gz": ["1", "1", "1"],
        "lines.json": ["2", "3", "4"],
        "rows.parquet": ["row 1", "row 2", "row 3"],
    }.get(name, ["1", "2", "3"])
    assert [row.place for row in rows] == [f"{path}:{place}" for place in places]


def test_a_folder_is_its_files_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.json", "notes.txt", "c.JSONL"):
        (tmp_path / name).write_text(json.dumps([name]) if name.endswith("json") else f'"{name}"\n')
    rows = list(read_rows(SourceConfig(name="s", format="messages", path=tmp_path)))
    assert [(row.number, row.value) for row in rows] == [(0, "a.json"), (1, "b.jsonl"), (2, "c.JSONL")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jsonl, \.json, \.csv, \.tsv, \.parquet file"):
        list(read_rows(SourceConfig(name="s", format="messages", path=tmp_path / "empty")))


@pytest.mark.parametrize("name", ["rows.txt", "rows", "rows.parquet.gz"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match="cannot tell its format"):
        list(read_file_rows(tmp_path / name))
    with pytest.raises(UserError, match="no such file"):
        list(read_file_rows(tmp_path / "none.jsonl"))


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        ('[{"a": 1},\n {"a": }]', "2:8", "Expecting value"),
        ('[{"a": 1}\n {"a": 2}]', "2:2", "expected ',' or ']'"),
        ('[{"a": 1},', "1:11", "Expecting value"),
        ('[{"a": 1}', "1:10", "the array is not closed"),
        ('[{"a": "x', "1:8", "Unterminated string"),
        ('[{"a": 1}]\n\n]', "3:1", "text after the end"),
        ('[{"a": 1},]', "1:11", "Expecting value"),
        ("[" * 5000, "1:2", "nested too deeply"),
        ('{"a": 1}\n{"a": }\n', "2:7", "expected a JSON value"),
    ],
)
def test_malformed_json_has_file_line_and_column(tmp_path: Path, text: str, place: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        list(read_file_rows(path))
    assert str(error.value).startswith(f"{path}:{place}: malformed JSON: ")
    assert reason in str(error.value)


def test_malformed_lines_can_be_skipped_but_a_malformed_array_cannot(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('1\n{\n\n{"a": NaN}\n2\n')
    bad = BadRecords()
    assert [(row.value, row.number) for row in read_file_rows(path, bad)] == [(1, 0), (2, 3)]
    assert [example.split(" ")[0] for example in bad.examples] == [f"{path}:2:2:", f"{path}:4:"]
    for _ in range(200):
        bad.add("x")
    assert (bad.count, len(bad.examples)) == (202, 100)
    with pytest.raises(UserError, match="--skip-bad-records counts"):
        list(read_file_rows(path))
    path = tmp_path / "a.json"
    path.write_text("[1, {, 2]")
    with pytest.raises(UserError, match=r"a\.json:1:6: malformed"):
        list(read_file_rows(path, BadRecords()))


def test_what_json_allows_but_we_could_not_write_is_a_bad_record(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[1,\n{"a": -Infinity},\n{"a": "\\ud800"},\n{"a": 99999999999999999999},\n2]')
    bad = BadRecords()
    assert [row.value for row in read_file_rows(path, bad)] == [1, 2]
    assert [example.removeprefix(f"{path}:")[0] for example in bad.examples] == ["2", "3", "4"]
    assert "-Infinity is not a finite number" in bad.examples[0]


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'["\xff"]')
    with pytest.raises(UserError, match="not UTF-8"):
        list(read_file_rows(tmp_path / "a.json"))
    (tmp_path / "a.jsonl").write_bytes(b'"\xff"\n')
    with pytest.raises(UserError, match=r"a\.jsonl:1: not UTF-8"):
        list(read_file_rows(tmp_path / "a.jsonl"))


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz"])
def test_a_gzip_file_cut_short(tmp_path: Path, name: str) -> None:
    whole = gzip.compress(json.dumps([{"a": i} for i in range(5000)]).encode())
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged gzip file"):
        list(read_file_rows(tmp_path / name))


def test_a_broken_parquet_file(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="not a readable parquet file"):
        list(read_file_rows(tmp_path / "a.parquet"))


def test_a_parquet_file_that_is_damaged_inside(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path)
    content = bytearray(path.read_bytes())
    content[4:24] = bytes(20)  # the header of the first page; the footer is whole
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.parquet: not a readable parquet file"):
        list(read_file_rows(path))


@pytest.mark.parametrize("name", ["large.jsonl", "large.json", "large.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    row = json.dumps({"text": "word " * 1000}).encode()
    if name.endswith("parquet"):
        pyarrow = pytest.importorskip("pyarrow")
        table = pyarrow.table({"text": ["word " * 1000] * 4000})
        pytest.importorskip("pyarrow.parquet").write_table(table, path, row_group_size=500)
    else:
        array = name.endswith("json")
        path.write_bytes((b"[" if array else b"") + (b",\n" if array else b"\n").join([row] * 4000))
        with path.open("ab") as stream:
            stream.write(b"]" if array else b"\n")
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_file_rows(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 4000  # 20 MB of text
    assert peak < 7e6


def hub_folder(folder: Path) -> Path:
    """A data set as it lies on the hub: a card and one file per split."""
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: data/train-*\n  - split: validation\n    path: data/validation-*\n---\n"
    )
    pyarrow = pytest.importorskip("pyarrow")
    for split, count in (("train", 3), ("validation", 1)):
        rows = [{"instruction": f"{split} {i}", "input": None, "output": "x"} for i in range(count)]
        table = pyarrow.Table.from_pylist(rows)
        pytest.importorskip("pyarrow.parquet").write_table(table, folder / "data" / f"{split}-00000.parquet")
    return folder


def test_a_hub_data_set_is_streamed(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    folder = hub_folder(tmp_path / "tea")
    source = SourceConfig(name="s", format="alpaca", hub=str(folder))
    assert [c.messages[0].content for c in read_source(source, STEERLM)] == ["train 0", "train 1", "train 2"]
    assert [row.place for row in read_rows(source)][1] == f"{folder}[train]:row 2"
    held_out = SourceConfig(name="s", format="alpaca", hub=str(folder), hub_split="validation")
    assert [c.messages[0].content for c in read_source(held_out, STEERLM)] == ["validation 0"]
    for wrong in ({"hub": str(folder), "hub_split": "tset"}, {"hub": str(tmp_path / "none")}):
        with pytest.raises(UserError, match="cannot read the hub data set"):
            list(read_source(SourceConfig(name="s", format="alpaca", **wrong), STEERLM))  # type: ignore[arg-type]


def test_without_the_extra_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(b"x")
    genuine = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in ("pyarrow", "datasets"):
            raise ModuleNotFoundError(name=name)
        return genuine(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    for source in ({"path": tmp_path / "a.parquet"}, {"hub": "who/what"}):
        with pytest.raises(UserError, match=r"pip install 'steerlm\[data\]'"):
            list(read_rows(SourceConfig(name="s", format="messages", **source)))  # type: ignore[arg-type]


def test_our_records_survive_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    said = (Message("user", "Hi"), Message("assistant", "Hello", attributes={"quality": 4}, labelled_by="human"))
    other = (
        Message("user", "Bye"),
        Message("assistant", "Bye", attributes={"humor": 1}, ratings={"humor": (1.0, 2.0)}),
    )
    written = [Conversation("a", said, "s", "g", {"topic": "tea"}), Conversation("b", other, "s", "h")]
    write_conversations(tmp_path / "a.jsonl", written, STEERLM)
    rows = [row.value for row in read_file_rows(tmp_path / "a.jsonl")]
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    source = SourceConfig(name="s", format="messages", path=tmp_path / "a.parquet")
    assert list(read_source(source, STEERLM)) == written


def test_columns_that_json_cannot_hold_are_a_bad_record(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    row = {"messages": [{"role": "user", "content": "Hi"}], "image": b"\x00"}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    bad = BadRecords()
    assert list(read_source(SourceConfig(name="s", format="messages", path=tmp_path / "a.parquet"), STEERLM, bad)) == []
    assert "row 1: the further column 'image' cannot be written as JSON" in bad.examples[0]
    assert bad.examples[0].endswith("leave it out of the file")


@pytest.mark.parametrize("source_format", ["messages", "table"])
def test_decimal_columns_are_numbers(source_format: SourceFormat, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    said = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "x"}]}
    row = said if source_format == "messages" else {"prompt": "Hi", "response": "x"}
    row |= {"price": Decimal("4.50"), "rated": Decimal("2.5"), "id": Decimal(7)}
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    source = SourceConfig(
        name="s", format=source_format, path=tmp_path / "a.parquet", columns={"rating.quality": "rated"}
    )
    [read] = read_source(source, STEERLM)
    assert read.messages[1].ratings == {"quality": (2.5,)}
    if source_format == "messages":
        assert (read.id, read.meta["price"]) == ("7", 4.5)


def test_importing_sources_loads_neither_torch_nor_the_extra() -> None:
    import subprocess

    code = (
        "import sys, steerlm.sources, steerlm.stages.prepare.stage\n"
        "print([m for m in ('torch', 'transformers', 'datasets', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
