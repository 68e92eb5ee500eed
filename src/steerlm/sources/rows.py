"""Rows of a data file or hub data set, with their place, in constant memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from steerlm.config import SourceConfig
from steerlm.conversation import BadRecords
from steerlm.errors import UserError
from steerlm.sources.json_array import read_array
from steerlm.storage.files import open_text_bytes, parse_json_line, read_lines

_SUFFIXES = (".jsonl", ".json", ".parquet")
_PARQUET_BATCH = 256


class Row(NamedTuple):
    """One row.

    Attributes:
        place: file and line (or row), for messages.
        number: position in the source from 0, blank lines not counted.
        value: the parsed row.
    """

    place: str
    number: int
    value: Any


def reject(message: str, bad: BadRecords | None) -> None:
    """Count a bad record, or raise if the user did not ask to skip them."""
    if bad is None:
        raise UserError(f"{message} (--skip-bad-records counts and lists such records instead)")
    bad.add(message)


def read_rows(source: SourceConfig, bad: BadRecords | None = None) -> Iterator[Row]:
    """Yield the rows of a source: a local file, a folder of files, or a hub data set.

    Raises:
        UserError: see `read_file_rows` and `read_hub_rows`.
    """
    if source.path is None:
        assert source.hub is not None
        yield from read_hub_rows(source.hub, source.hub_split)
        return
    files = [source.path]
    if source.path.is_dir():
        files = sorted(file for file in source.path.iterdir() if _suffix(file) in _SUFFIXES)
        if not files:
            raise UserError(f"{source.path}: the folder holds no {', '.join(_SUFFIXES)} file")
    number = 0
    for file in files:
        for row in read_file_rows(file, bad):
            yield row._replace(number=number)
            number += 1


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def read_file_rows(path: Path, bad: BadRecords | None = None) -> Iterator[Row]:
    """Yield the rows of one file: `.jsonl` or `.json` (an array, or lines), each also `.gz`, or `.parquet`.

    Memory does not grow with the file. Malformed lines are counted in `bad` where it is given; a malformed `.json`
    array is always an error, since nothing after the fault can be read.

    Raises:
        UserError: missing file, unknown suffix, malformed JSON (file:line:column), damaged file.
    """
    suffix = _suffix(path)
    if not path.exists():
        raise UserError(f"no such file: {path}")
    if suffix == ".parquet" and path.suffix != ".gz":
        yield from _parquet_rows(path)
    elif suffix == ".jsonl" or (suffix == ".json" and not _starts_array(path)):
        yield from _line_rows(path, bad)
    elif suffix == ".json":
        yield from _array_rows(path, bad)
    else:
        raise UserError(f"{path}: cannot tell its format; name it .jsonl, .json (each also .gz) or .parquet")


def _line_rows(path: Path, bad: BadRecords | None) -> Iterator[Row]:
    for number, (line_number, line) in enumerate(read_lines(path)):
        try:
            value = parse_json_line(line.removeprefix(b"\xef\xbb\xbf") if line_number == 1 else line, path, line_number)
        except UserError as error:
            reject(str(error), bad)
        else:
            yield Row(f"{path}:{line_number}", number, value)


def _starts_array(path: Path) -> bool:
    """Whether the first character is a bracket: many files named .json hold JSON lines."""
    with open_text_bytes(path) as stream:
        try:
            while chunk := stream.read(4096):
                text = chunk.removeprefix(b"\xef\xbb\xbf").lstrip()
                if text:
                    return text.startswith(b"[")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged gzip file ({error}); fetch it again") from None
    return False


def _array_rows(path: Path, bad: BadRecords | None) -> Iterator[Row]:
    with open_text_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="\n") as stream:
        for number, item in enumerate(read_array(stream, path)):
            place = f"{path}:{item.line}"
            if item.constant is not None:
                reject(f"{place}: {item.constant} is not a finite number", bad)
                continue
            try:
                orjson.dumps(item.value)  # what we could not write: half a surrogate pair, an integer beyond 64 bits
            except TypeError as error:
                reject(f"{place}: {error}", bad)
                continue
            yield Row(place, number, item.value)


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: reading parquet needs pyarrow: pip install 'steerlm[data]'") from None
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for value in batch.to_pylist():
                    yield Row(f"{path}:row {number + 1}", number, value)
                    number += 1
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file: {error}") from None


def read_hub_rows(hub: str, split: str) -> Iterator[Row]:
    """Stream the rows of a hub data set (or of a local folder in the hub's layout) through `datasets`.

    Raises:
        UserError: `datasets` is not installed, no such data set, no such split, or the hub cannot be reached.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(f"reading {hub} from the hub needs datasets: pip install 'steerlm[data]'") from None
    try:
        rows = datasets.load_dataset(hub, split=split, streaming=True)
        for number, value in enumerate(rows):
            yield Row(f"{hub}[{split}]:row {number + 1}", number, value)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"cannot read the hub data set {hub!r}, split {split!r}: {error} "
            "(check the id, hub_split and the connection)"
        ) from None
