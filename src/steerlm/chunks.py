"""A file of JSON lines that costs much to compute: one line per item, written chunk by chunk, resumed behind the last.

Chunks begin at fixed places and each is computed as a whole, so a run that was interrupted anywhere ends with the same
bytes as one that was not, even where the items of a chunk influence each other in the last bit.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson

from steerlm.files import full_disk_is_user_error, parse_json_line, read_lines
from steerlm.progress import progress

T = TypeVar("T")


def map_lines(
    path: Path,
    items: Iterable[T],
    work: Callable[[list[T]], list[Any]],
    *,
    chunk: int,
    total: int,
    description: str,
) -> None:
    """Write `work` of every chunk of items, one JSON line per item; the file appears when all are there.

    Args:
        path: the file; left as it is where it exists. Beside it `<name>.partial` grows until then.
        items: the same items in the same order on every call.
        work: returns one JSON-able row per item of the chunk, a function of the chunk alone.
        chunk: items per chunk.
        total: number of items.
        description: of the progress bar.

    Raises:
        UserError: the disk is full; what was written stays.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    done, size = _whole_chunks(partial, chunk)
    remaining = itertools.islice(items, done, None)
    with full_disk_is_user_error(path), partial.open("ab") as stream:
        stream.truncate(size)
        for group in progress(_groups(remaining, chunk), -(-(total - done) // chunk), description):
            rows = work(group)
            assert len(rows) == len(group)
            stream.write(b"".join(orjson.dumps(row) + b"\n" for row in rows))
            stream.flush()
            os.fsync(stream.fileno())
    os.replace(partial, path)


def read_rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a file that `map_lines` wrote.

    Raises:
        UserError: a missing file or a damaged line.
    """
    for number, line in read_lines(path):
        yield parse_json_line(line, path, number)


def _whole_chunks(partial: Path, chunk: int) -> tuple[int, int]:
    """Return how many items the whole chunks of a partial file hold, and their size in bytes."""
    done = size = 0
    if partial.is_file():
        with partial.open("rb") as stream:
            end = 0
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n") or b"\0" in line:  # a machine that lost power may leave a hole
                    break
                end += len(line)
                if number % chunk == 0:
                    done, size = number, end
    return done, size


def _groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(itertools.islice(items, size)):
        yield group
