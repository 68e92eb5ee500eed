"""Files: reading lines with their place, and writing so that a file appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import orjson
import yaml

from steerlm.errors import UserError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_TEXT = {
    b"\xff\xfe": "not UTF-8 text but UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "not UTF-8 text but UTF-16; convert it: iconv -f UTF-16 -t UTF-8",
    b"\0\0\xfe\xff": "not UTF-8 text but UTF-32; convert it: iconv -f UTF-32 -t UTF-8",
    b"PAR1": "a parquet file, where lines of text are read; `steerlm prepare` reads it if its name ends in .parquet",
    b"PK\3\4": "a zip archive; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it: zstd -d",
    b"BZh": "compressed with bzip2; unpack it: bzip2 -d",
    b"\xfd7zXZ": "compressed with xz; unpack it: xz -d",
}
"""What a file begins with that is no UTF-8 text, and what to do with it."""


DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""How names of files of rows end, packed with gzip or not."""


def data_suffix(path: Path) -> str:
    """Return what the name says of a file of rows, in small letters; that it is packed is passed over."""
    return (Path(path.stem).suffix if path.suffix == ".gz" else path.suffix).lower()


def data_files(folder: Path) -> list[Path]:
    """Return the files of rows in a folder, by name."""
    return sorted(file for file in folder.iterdir() if data_suffix(file) in DATA_SUFFIXES)


def open_text_bytes(path: Path) -> IO[bytes]:
    """Open a file of UTF-8 text for reading, through gzip where its content is gzip's."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    with path.open("rb") as probe:
        magic = probe.read(2)
        packed = magic == b"\x1f\x8b"
    if magic and path.suffix == ".gz" and not packed:
        raise UserError(f"{path}: damaged gzip file (not gzip at all); fetch it again, or take .gz off its name")
    with gzip.open(path) if packed else path.open("rb") as probe, damaged_gzip_is_user_error(path):
        start = probe.read(512)
    for beginning, what in _NO_TEXT.items():
        if start.startswith(beginning):
            raise UserError(f"{path}: {what}")
    if 4 * start.count(0) > len(start):
        raise UserError(f"{path}: not UTF-8 text but UTF-16 or binary (it holds NUL bytes); convert it to UTF-8")
    return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]


@contextlib.contextmanager
def damaged_gzip_is_user_error(path: Path) -> Iterator[None]:
    """Turn what a damaged gzip file raises while it is read into a `UserError`."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged gzip file ({error}); fetch it again") from None


def not_utf8(place: object, error: UnicodeDecodeError) -> UserError:
    """Return the error of text in another encoding."""
    return UserError(
        f"{place}: not UTF-8 text ({error.reason}); convert it to UTF-8, for example: iconv -f WINDOWS-1252 -t UTF-8"
    )


def read_text(path: Path) -> str:
    """Return the text of a small file that a person wrote, without the byte order mark that some editors begin with."""
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None


class _DistinctKeys(yaml.SafeLoader):
    """Loads YAML safely, and refuses a mapping in which a key stands twice: of the two, one would silently count."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        # while it is composed, a mapping does not hold yet what `<<` merges into it, which it may say otherwise
        node = super().compose_mapping_node(anchor)
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (first := seen.setdefault(key.value, key)) is not key:
                lines = f"lines {first.start_mark.line + 1} and {key.start_mark.line + 1}"
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} stands twice, in {lines}; take one out", problem_mark=key.start_mark
                )
        return node


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file that a person wrote.

    Raises:
        UserError: no such file, or what is no YAML, with line and column; a key that stands twice in a mapping.
    """
    try:
        return yaml.load(read_text(path), Loader=_DistinctKeys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(f"{place}: malformed YAML: {error.problem}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise UserError(f"{path}: malformed YAML: {error}") from None


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-blank lines of a file with their numbers (from 1), as `open_text_bytes` opens it."""
    number = 0
    with open_text_bytes(path) as stream:
        try:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged gzip file after line {number} ({error}); fetch it again") from None


_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_INTEGER = b"0" * 19
_INTEGERS = range(-(2**63), 2**64)
"""What orjson writes; it reads a longer one as a float."""


def parse_json_line(line: bytes, path: Path, number: int) -> Any:
    """Parse one JSONL line."""
    if number == 1:
        line = line.removeprefix(_BYTE_ORDER_MARK)
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UserError(_malformed(line, path, number, error)) from None
    if _LONG_INTEGER in line.translate(_DIGITS):  # a regular expression takes ten times as long
        try:
            json.loads(line, parse_int=checked_integer)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from None
    return value


def read_objects(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the JSON objects of a file of lines, each with its place, `file:line`."""
    for number, line in read_lines(path):
        row = parse_json_line(line, path, number)
        if not isinstance(row, dict):
            raise UserError(f"{path}:{number}: a record must be a JSON object, got {type(row).__name__}")
        yield row, f"{path}:{number}"


def checked_integer(text: str) -> int:
    """Return the integer that a JSON number says."""
    if len(text) > 20 or int(text) not in _INTEGERS:
        raise UserError(f"the integer {text[:40]} is beyond 64 bit; write it as text (in quotation marks)")
    return int(text)


def _malformed(line: bytes, path: Path, number: int, error: orjson.JSONDecodeError) -> str:
    try:
        json.loads(line.decode(), parse_constant=_refuse_constant)
    except UserError as constant:
        return f"{path}:{number}: {constant}"
    except UnicodeDecodeError as undecodable:
        return str(not_utf8(f"{path}:{number}", undecodable))
    except (ValueError, RecursionError):
        pass  # only asked whether the cause is another one
    # the end of the text is before its newline
    column = min(error.pos, len(error.doc.rstrip())) + 1
    hint = ""
    if line.strip() in (b"[", b"{"):
        hint = "; one record per line is read here: `steerlm prepare` reads JSON that spans lines (a .json file)"
    return f"{path}:{number}:{column}: malformed JSON: {error.msg}{hint}"


def _refuse_constant(name: str) -> float:
    raise UserError(f"{name} is not a finite number")


@contextlib.contextmanager
def atomic_writer(path: str | Path) -> Iterator[IO[bytes]]:
    """Write a file so that it appears whole or not at all (same-folder temporary file, fsync, rename).

    Raises:
        UserError: the disk is full; what stood at `path` before is untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with full_disk_is_user_error(path):
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lines_writer(path: str | Path) -> Iterator[IO[bytes]]:
    """Write a file of lines as `atomic_writer` does, gzip where the name ends in .gz."""
    with atomic_writer(path) as raw, contextlib.ExitStack() as stack:
        stream: IO[bytes] = raw
        if Path(path).suffix == ".gz":
            # no name and mtime 0 keep the bytes a function of the lines alone
            zipped = gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)
            stream = cast("IO[bytes]", stack.enter_context(zipped))
        yield stream


@contextlib.contextmanager
def full_disk_is_user_error(path: Path) -> Iterator[None]:
    """Turn the error of a full disk, while `path` is written, into a `UserError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left on the disk while writing {path}; nothing that was there before is lost: "
                "free some space and run the same command again"
            ) from error
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file atomically, indented, keys in the order given."""
    with atomic_writer(path) as stream:
        stream.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS) + b"\n")


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_writer(path) as stream:
        stream.write(text.encode())


def write_rows(path: str | Path, rows: Iterable[Any]) -> None:
    """Write a file of JSON lines atomically."""
    with atomic_writer(path) as stream:
        stream.writelines(orjson.dumps(row) + b"\n" for row in rows)


def count_lines(path: Path) -> int:
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def lines_name(path: Path) -> str:
    """Return the name of a file of lines that is not packed."""
    return path.name.removesuffix(".gz").removesuffix(".jsonl") + ".jsonl"


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of ours."""
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path}: malformed JSON ({error}); run the stage that writes it again") from None
