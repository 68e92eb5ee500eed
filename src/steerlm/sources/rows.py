"""Rows of a data file or hub data set, with their place, in constant memory."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from steerlm.config import SourceConfig
from steerlm.errors import UserError, did_you_mean, needs_extra
from steerlm.sources.draft import missing
from steerlm.sources.json_array import read_array
from steerlm.storage.files import (
    DATA_SUFFIXES,
    damaged_gzip_is_user_error,
    data_files,
    data_suffix,
    not_utf8,
    open_text_bytes,
    parse_json_line,
    read_lines,
)

_COLUMNS = "say --columns "
_PARQUET_BATCH = 256
_MAX_CELL = 2**31 - 1
_PLACE = re.compile(r"^.*?:(?:row )?[0-9]+(?::[0-9]+)?(?: \([^)]*\))?: ")
_VARIABLE = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\b[0-9]+(?:\.[0-9]+)?\b")


class SourceRow(NamedTuple):
    """One row.

    Attributes:
        place: file and line (or row), for messages.
        number: position in the source from 0, blank lines not counted.
        value: the parsed row.
        written: whether its numbers are text, as in a CSV file.
    """

    place: str
    number: int
    value: object
    written: bool = False


@dataclass
class BadRecords:
    """Collects records that could not be read, when the user asked to skip them (`prepare.skip_bad_records`).

    Attributes:
        reasons: how many by what is wrong, names and numbers left out.
    """

    count: int = 0
    examples: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, message: str, keep: int = 100) -> None:
        """Count one bad record and keep its message while there are fewer than `keep`."""
        self.count += 1
        if len(self.examples) < keep:
            self.examples.append(message)
        reason = _VARIABLE.sub("…", _PLACE.sub("", message))
        if len(self.reasons) >= keep and reason not in self.reasons:
            reason = "other reasons"
        self.reasons[reason] += 1


def reject(message: str, bad: BadRecords | None) -> None:
    """Count a bad record, or raise if the user did not ask to skip them."""
    if bad is None:
        # what a column is called is wrong in every record
        more = "" if _COLUMNS in message else " (--skip-bad-records counts and lists such records instead)"
        raise UserError(f"{message}{more}") from None
    bad.add(message)


def read_rows(source: SourceConfig, bad: BadRecords | None = None) -> Iterator[SourceRow]:
    """Yield the rows of a source: a local file, a folder of files, or a hub data set."""
    if source.path is None:
        assert source.hub is not None
        yield from read_hub_rows(source.hub, source.hub_split)
        return
    if not source.path.exists():
        raise UserError(f"no such file: {source.path}")
    first = end = 0
    for file in _files(source.path) if source.path.is_dir() else [source.path]:
        for row in read_file_rows(file, bad):
            end = first + row.number + 1  # the position, whatever is skipped
            yield row._replace(number=end - 1)
        first = end


def _files(folder: Path) -> list[Path]:
    files = data_files(folder)
    if not files:
        raise UserError(f"{folder}: the folder holds no {', '.join(DATA_SUFFIXES)} file")
    return files


def check_alike(folder: Path) -> None:
    """Raise where two files of a folder have no column in common: one importer reads them all."""
    first, known = None, set[str]()
    for file in _files(folder):
        row = next((row.value for row in read_file_rows(file, BadRecords()) if isinstance(row.value, dict)), None)
        columns = list(map(str, row or ()))
        if first is None or not columns:
            first, known = (file, set(columns)) if columns else (first, known)
        elif not known & set(columns):
            raise UserError(
                f"{file} has {', '.join(columns)} but {first} has {', '.join(sorted(known))}: the files of a folder "
                "are read alike; name one of them, or put them into folders of their own"
            )


def read_file_rows(path: Path, bad: BadRecords | None = None) -> Iterator[SourceRow]:
    """Yield the rows of one file.

    `.jsonl`, `.json` (an array, or lines), `.csv` and `.tsv` (with a header), each also packed with gzip, or
    `.parquet`. Memory does not grow with the file. Malformed lines are counted in `bad` where it is given; a malformed
    array or table is always an error, since nothing after the fault can be read.

    Raises:
        UserError: missing file, unknown suffix, malformed content (file:line:column), damaged file.
    """
    suffix = data_suffix(path)
    if not path.exists():
        raise UserError(f"no such file: {path}")
    if suffix == ".parquet" and path.suffix != ".gz":
        yield from _parquet_rows(path)
    elif suffix in (".csv", ".tsv"):
        yield from _table_rows(path, bad)
    elif suffix == ".jsonl" or (suffix == ".json" and not _starts_array(path)):
        yield from _line_rows(path, bad)
    elif suffix == ".json":
        yield from _array_rows(path, bad)
    else:
        raise UserError(
            f"{path}: cannot tell its format; what is read is .jsonl, .json, .csv, .tsv (each also .gz) and .parquet: "
            "save or export it as one of these"
        )


def _line_rows(path: Path, bad: BadRecords | None) -> Iterator[SourceRow]:
    for number, (line_number, line) in enumerate(read_lines(path)):
        try:
            value = parse_json_line(line, path, line_number)
        except UserError as error:
            if number == 0 and data_suffix(path) == ".json":
                what = str(error).partition(";")[0]
                raise UserError(
                    f"{what}; a .json file is an array of rows or one object per line: a list that stands inside of "
                    "one object belongs into a file of its own"
                ) from None
            reject(str(error), bad)
        else:
            yield SourceRow(f"{path}:{line_number}", number, value)


def _starts_array(path: Path) -> bool:
    """Whether the first character is a bracket: many files named .json hold JSON lines."""
    with open_text_bytes(path) as stream, damaged_gzip_is_user_error(path):
        while chunk := stream.read(4096):
            text = chunk.removeprefix(b"\xef\xbb\xbf").lstrip()
            if text:
                return text.startswith(b"[")
    return False


def _array_rows(path: Path, bad: BadRecords | None) -> Iterator[SourceRow]:
    with open_text_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="\n") as stream:
        for number, item in enumerate(read_array(stream, path)):
            place = f"{path}:{item.line}"
            if item.problem is not None:
                reject(f"{place}: {item.problem}", bad)
            else:
                yield SourceRow(place, number, item.value)


def _table_rows(path: Path, bad: BadRecords | None) -> Iterator[SourceRow]:
    csv.field_size_limit(_MAX_CELL)
    with open_text_bytes(path) as raw, damaged_gzip_is_user_error(path):
        first = next(raw, b"").removeprefix(b"\xef\xbb\xbf")
        delimiter = b"\t" if data_suffix(path) == ".tsv" else max((b",", b";", b"\t", b"|"), key=first.count)
        lines = csv.reader(_decoded(itertools.chain([first], raw), path), delimiter=delimiter.decode(), strict=True)
        header: list[str] = []
        number, end = 0, 0
        try:
            for cells in lines:
                place, end = f"{path}:{end + 1}", lines.line_num
                if not any(cell.strip() for cell in cells):
                    continue
                if not header:
                    header = _header(cells, place)
                    continue
                if len(cells) != len(header):
                    cure = (
                        "; a cell that holds the separator stands in quotation marks"
                        if len(cells) > len(header)
                        else ""
                    )
                    reject(f"{place}: {len(cells)} cells in a table of {len(header)} columns{cure}", bad)
                elif any("\0" in cell for cell in cells):
                    reject(f"{place}: a NUL character in the text", bad)
                else:
                    row = {name: cell for name, cell in zip(header, cells, strict=True) if name}
                    yield SourceRow(place, number, row, written=True)
                number += 1
        except csv.Error as error:
            place = f"{path}:{lines.line_num}"
            if "new-line character" in str(error):  # it would advise on opening the file in Python
                cure = f"convert them: tr '\\r' '\\n' < {path}"
                raise UserError(f"{place}: lines end with a carriage return alone; {cure}") from None
            cure = "a cell that begins with a quotation mark ends with one, and those inside of it are doubled"
            raise UserError(f"{place}: malformed table: {error}; {cure}") from None


def _header(cells: list[str], place: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    if double := [name for name in header if name and header.count(name) > 1]:
        raise UserError(f"{place}: the column {double[0]!r} stands twice in the header")
    return header


def _decoded(lines: Iterable[bytes], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise not_utf8(f"{path}:{number}", error) from None


def _parquet_rows(path: Path) -> Iterator[SourceRow]:
    with needs_extra("data", f"{path}: reading parquet"):
        import pyarrow
        import pyarrow.parquet
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for value in batch.to_pylist():
                    yield SourceRow(f"{path}:row {number + 1}", number, _plain(value))
                    number += 1
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file: {error}") from None


def read_hub_rows(hub: str, split: str) -> Iterator[SourceRow]:
    """Stream the rows of a hub data set (or of a local folder in the hub's layout) through `datasets`."""
    with needs_extra("data", f"reading {hub} from the hub"):
        import datasets
    try:
        rows = datasets.load_dataset(hub, split=split, streaming=True)
        for number, value in enumerate(rows):
            yield SourceRow(f"{hub}[{split}]:row {number + 1}", number, _plain(value))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"cannot read the hub data set {hub!r}, split {split!r}: {error} "
            "(check the id, hub_split and the connection)"
        ) from None


def _plain(row: object) -> object:
    """Return a row as JSON has it: null for the NaN that tables fill holes with, numbers for decimal ones."""
    return {key: _plain_cell(value) for key, value in row.items()} if isinstance(row, dict) else row


def _plain_cell(value: object) -> object:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return None if missing(value) else value


class ColumnNames:
    """The recipe's `columns` of a source: every row also has its columns under the names that the importer reads.

    Args:
        source: name of the source, for messages.
    """

    def __init__(self, names: Mapping[str, str], source: str):
        self.names = names
        self.source = source
        self._unseen = set(names.values())
        self._seen: set[str] = set()

    def rename(self, row: SourceRow) -> SourceRow:
        """Return the row with the importer's names.

        Raises:
            UserError: a table has no such column (the nearest is named).
        """
        if not self.names or not isinstance(row.value, dict):
            return row
        self._unseen.difference_update(row.value)
        if len(self._seen) < 1000:
            self._seen.update(map(str, row.value))
        if row.written:  # every row of a table has all its columns
            self.check(row.place)
        taken = {wanted: row.value[column] for wanted, column in self.names.items() if column in row.value}
        renamed = {column for wanted, column in self.names.items() if wanted != column}
        kept = {key: value for key, value in row.value.items() if key not in renamed and key not in self.names}
        return row._replace(value={**kept, **taken})

    def check(self, place: str) -> None:
        """Raise where a column that was named has not been seen."""
        if self._unseen and self._seen:
            column = min(self._unseen)
            raise UserError(f"{place}: there is no column {column!r}: {did_you_mean(column, sorted(self._seen))}")
