"""A file of JSON lines that costs much to compute: one line per item, written chunk by chunk, resumed behind the last.

Chunks begin at fixed places and each is computed as a whole, so a run that was interrupted anywhere ends with the same
bytes as one that was not, even where the items of a chunk influence each other in the last bit. For the same reason it
makes no difference which process computes a chunk: here, one after another, or the workers of a Ray cluster.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import orjson

from steerlm.storage.claims import partial_of
from steerlm.storage.cluster import Cluster, map_in_order
from steerlm.storage.files import full_disk_is_user_error, open_text_bytes, parse_json_line, read_lines
from steerlm.storage.progress import progress

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_MARK = 64
"""Lines between two remembered places of a file."""


class Items(Protocol[T_co]):
    """What can be cut into chunks: a list, a range, a file of lines (`LineItems`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, where: slice, /) -> Sequence[T_co]: ...


class LineItems(Generic[T]):
    """The items of a file of JSON lines, read from wherever one asks; memory holds a place per 64 lines.

    Args:
        path: the file; blank lines are no items.
        parse: makes an item of a line's number (from 1) and its bytes.
    """

    def __init__(self, path: Path, parse: Callable[[int, bytes], T]):
        self.path = path
        self.parse = parse
        self._numbers, self._offsets = array("Q"), array("Q")
        self._length = 0
        offset = 0
        with open_text_bytes(path) as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    if self._length % _MARK == 0:
                        self._numbers.append(number)
                        self._offsets.append(offset)
                    self._length += 1
                offset += len(line)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, where: slice, /) -> list[T]:
        start, stop, _ = where.indices(self._length)
        return [self.parse(number, line) for number, line in self._lines(start, stop)]

    def __iter__(self) -> Iterator[T]:
        return (self.parse(number, line) for number, line in self._lines(0, self._length))

    def _lines(self, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
        if start >= stop:
            return
        with open_text_bytes(self.path) as stream:
            stream.seek(self._offsets[start // _MARK])
            lines = ((n, line) for n, line in enumerate(stream, self._numbers[start // _MARK]) if line.strip())
            skipped = start // _MARK * _MARK
            yield from islice(lines, start - skipped, stop - skipped)


class Pairs(Generic[T]):
    """The items of two files that belong together, line by line."""

    def __init__(self, first: Items[T], second: Items[Any]):
        assert len(first) == len(second)
        self.first = first
        self.second = second

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, where: slice, /) -> list[tuple[T, Any]]:
        return list(zip(self.first[where], self.second[where], strict=True))


def map_lines(
    path: Path,
    items: Items[T],
    work: Callable[[list[T]], list[Any]],
    *,
    chunk: int,
    description: str,
    cluster: Cluster | None = None,
) -> None:
    """Write `work` of every chunk of items, one JSON line per item; the file appears when all are there.

    Args:
        path: the file; left as it is where it exists. Beside it `<name>.partial` grows until then.
        items: the same items in the same order on every call.
        work: returns one JSON-able row per item of the chunk, a function of the chunk alone.
        cluster: where the work is done; None = in this process. Its workers get `items` and `work` with all that these
            hold, so `work` loads its model when it is first called.
    """
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    done, size = whole_chunks(path, chunk)

    def block(number: int) -> bytes:
        group = list(items[number * chunk : (number + 1) * chunk])
        rows = work(group)
        assert len(rows) == len(group)
        return b"".join(orjson.dumps(row) + b"\n" for row in rows)

    numbers = range(done // chunk, -(-len(items) // chunk))
    blocks = map(block, numbers) if cluster is None else map_in_order(cluster, block, numbers)
    with growing_file(path, size) as write:
        for written in progress(blocks, len(numbers), description):
            write(written)


def read_rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a file that `map_lines` wrote."""
    for number, line in read_lines(path):
        yield parse_json_line(line, path, number)


def row_items(path: Path) -> LineItems[Any]:
    """Return the rows of a file that `map_lines` wrote, as items of another one."""
    return LineItems(path, lambda number, line: parse_json_line(line, path, number))


class WholeChunks(NamedTuple):
    """What an interruption left of a file: the items of its whole chunks, and their size in bytes."""

    done: int
    size: int


def whole_chunks(path: Path, chunk: int) -> WholeChunks:
    """Return what `<name>.partial` beside a file holds of it, in chunks of so many lines."""
    partial = partial_of(path)
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
    return WholeChunks(done, size)


@contextmanager
def growing_file(path: Path, size: int) -> Iterator[Callable[[bytes], None]]:
    """Yield what appends a block to `<name>.partial`, behind its first bytes; the file appears when the body ends.

    Args:
        size: how many bytes are kept of what is there.

    Raises:
        UserError: the disk is full.
    """
    partial = partial_of(path)
    with full_disk_is_user_error(path), partial.open("ab") as stream:
        stream.truncate(size)

        def write(block: bytes) -> None:
            stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())

        yield write
    os.replace(partial, path)
