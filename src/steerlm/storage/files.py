"""Files: reading lines with their place, and writing so that a file appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import orjson
import yaml

from steerlm.errors import UserError


def open_text_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, through gzip where its name ends in .gz.

    Raises:
        UserError: the file does not exist.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def read_text(path: Path) -> str:
    """Return the text of a small file that a person wrote, without the byte order mark that some editors begin with.

    Raises:
        UserError: the file does not exist, or is not UTF-8.
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); convert it to UTF-8") from None


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file that a person wrote.

    Raises:
        UserError: the file does not exist, is not UTF-8, or is malformed.
    """
    try:
        return yaml.safe_load(read_text(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise UserError(f"{place}: malformed YAML: {error.problem}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise UserError(f"{path}: malformed YAML: {error}") from None


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the non-blank lines of a file with their numbers (from 1), through gzip where its name ends in .gz.

    Raises:
        UserError: missing file, or a gzip file that is damaged or cut short (with the last good line).
    """
    number = 0
    with open_text_bytes(path) as stream:
        try:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield number, line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: damaged gzip file after line {number} ({error}); fetch it again") from None


def parse_json_line(line: bytes, path: Path, number: int) -> Any:
    """Parse one JSONL line.

    Raises:
        UserError: with file, line and column; names NaN and Infinity as such.
    """
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        try:
            json.loads(line, parse_constant=_refuse_constant)
        except UserError as constant:
            raise UserError(f"{path}:{number}: {constant}") from None
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
            pass  # only asked whether the cause is a NaN
        # the end of the text is before its newline
        column = min(error.pos, len(error.doc.rstrip())) + 1
        raise UserError(f"{path}:{number}:{column}: malformed JSON: {error.msg}") from None


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


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of ours.

    Raises:
        UserError: not JSON.
    """
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path}: malformed JSON ({error}); run the stage that writes it again") from None
