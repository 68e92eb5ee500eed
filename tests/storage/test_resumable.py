"""Resumable files of JSON lines: the same bytes wherever a run was cut off."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerlm.errors import UserError
from steerlm.storage.resumable import LineItems, Pairs, map_lines, read_rows, row_items

ITEMS = [f"item {i} {'é' * (i % 3)}" for i in range(11)]


class Worker:
    """Answers chunk by chunk; raises when it is asked for chunk number `fail_at`."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.chunks: list[list[str]] = []
        self.fail_at = fail_at

    def __call__(self, chunk: list[str]) -> list[dict[str, object]]:
        if self.fail_at == len(self.chunks):
            raise KeyboardInterrupt
        self.chunks.append(chunk)
        # depends on the whole chunk, as batched floating-point numbers do
        return [{"text": item, "of": len(chunk)} for item in chunk]


def run(path: Path, worker: Worker) -> None:
    map_lines(path, ITEMS, worker, chunk=4, description="test")


def test_one_row_per_item(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "rows.jsonl"
    worker = Worker()
    run(path, worker)
    assert [row["text"] for row in read_rows(path)] == ITEMS
    assert [len(chunk) for chunk in worker.chunks] == [4, 4, 3]
    assert list(path.parent.iterdir()) == [path]
    run(path, Worker(fail_at=0))  # finished: nothing is computed


@pytest.mark.parametrize("fail_at", [0, 1, 2])
def test_an_interrupted_run_goes_on_behind_the_last_whole_chunk(tmp_path: Path, fail_at: int) -> None:
    run(tmp_path / "whole.jsonl", Worker())
    path = tmp_path / "rows.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(path, Worker(fail_at))
    assert not path.exists()
    worker = Worker()
    run(path, worker)
    assert [item for chunk in worker.chunks for item in chunk] == ITEMS[4 * fail_at :]
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_run_killed_at_any_byte_ends_with_the_same_bytes(tmp_path: Path) -> None:
    run(tmp_path / "whole.jsonl", Worker())
    whole = (tmp_path / "whole.jsonl").read_bytes()
    path = tmp_path / "rows.jsonl"
    for size in range(0, len(whole) + 1, 3):
        for hole in (b"", b"\0\0\0\n", b'{"text": "half'):
            (tmp_path / "rows.jsonl.partial").write_bytes(whole[:size] + hole)
            run(path, Worker())
            assert path.read_bytes() == whole
            path.unlink()


@pytest.mark.parametrize("end", [b"\n", b""])
def test_lines_are_read_from_any_place(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    lines = [b"{}" + b"\n" * (1 + i % 3) for i in range(300)]  # blank lines are no items, but they count
    path.write_bytes(b"\n" + b"".join(lines)[:-1] + end)
    expected = [(n, line) for n, line in enumerate(path.read_bytes().splitlines(keepends=True), 1) if line.strip()]
    items = LineItems(path, lambda number, line: (number, line))
    assert len(items) == 300
    for start, stop in ((0, 0), (0, 5), (60, 70), (64, 65), (191, 300), (290, 999), (400, 500)):
        assert items[start:stop] == expected[start:stop]
    assert items[:] == expected


def test_rows_and_pairs_of_rows(tmp_path: Path) -> None:
    run(tmp_path / "rows.jsonl", Worker())
    rows = row_items(tmp_path / "rows.jsonl")
    assert rows[:] == list(read_rows(tmp_path / "rows.jsonl"))
    assert Pairs(ITEMS, rows)[3:5] == [(ITEMS[3], rows[3:4][0]), (ITEMS[4], rows[4:5][0])]
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match=r"rows\.jsonl:2:\d+: malformed JSON"):
        row_items(tmp_path / "rows.jsonl")[:]
