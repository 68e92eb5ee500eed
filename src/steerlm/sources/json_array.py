"""The items of one JSON array, one at a time, holding no more text than the longest item needs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

import orjson

from steerlm.errors import UserError
from steerlm.storage.files import checked_integer, damaged_gzip_is_user_error, not_utf8

_CHUNK = 1 << 20


class Item(NamedTuple):
    """One item.

    Attributes:
        line: line of the file it starts on, from 1.
        problem: why it cannot be kept: a `NaN`, an integer beyond 64 bit, half a surrogate pair; None where it can.
    """

    value: Any
    line: int
    problem: str | None


def read_array(stream: IO[str], path: Path, chunk: int = _CHUNK) -> Iterator[Item]:
    """Yield the items of the JSON array that the stream holds.

    Args:
        stream: text, opened with `newline="\\n"`.
        chunk: characters read at a time.

    Raises:
        UserError: malformed JSON, with file, line and column; text that is not UTF-8; a damaged gzip file.
    """
    array = _Array(stream, path, chunk)
    if array.peek() != "[":
        array.fail("expected '['")
    array.skip()
    if array.peek() == "]":
        array.skip()
    else:
        while True:
            array.peek()
            yield array.item()
            separator = array.peek()
            if separator not in (",", "]"):
                array.fail("expected ',' or ']' after an item" if separator else "the array is not closed")
            array.skip()
            if separator == "]":
                break
    if array.peek():
        array.fail("text after the end of the array")


class _Array:
    """A window on the text: what lies before `position` is done with."""

    def __init__(self, stream: IO[str], path: Path, chunk: int) -> None:
        self.stream = stream
        self.path = path
        self.chunk = chunk
        self.buffer = ""
        self.position = 0
        self.counted = 0  # lines and columns are counted up to here
        self.line = 1
        self.column = 1
        self.problem: str | None = None
        self.decoder = json.JSONDecoder(parse_constant=self._constant, parse_int=self._integer, parse_float=self._float)

    def _constant(self, name: str) -> None:
        self.problem = f"{name} is not a finite number"

    def _integer(self, text: str) -> int:
        try:
            return checked_integer(text)
        except UserError as error:
            self.problem = str(error)
            return 0

    def _float(self, text: str) -> float:
        if math.isinf(value := float(text)):
            self._constant(text)
        return value

    def peek(self) -> str:
        """Skip whitespace; return the next character, or nothing at the end of the file."""
        while True:
            while self.position < len(self.buffer) and self.buffer[self.position] in " \t\r\n":
                self.position += 1
            if self.position < len(self.buffer):
                return self.buffer[self.position]
            if not self._read(self.chunk):
                return ""

    def skip(self) -> None:
        self.position += 1

    def item(self) -> Item:
        """Parse the item at the position."""
        self._count()
        line = self.line
        chunk = self.chunk
        while True:
            self.problem = None
            try:
                value, end = self.decoder.raw_decode(self.buffer, self.position)
            except json.JSONDecodeError as error:
                # wrong, or only cut off at the end of the window?
                cut = error.pos >= len(self.buffer) - 10 or error.msg.startswith("Unterminated string")
                if not (cut and self._read(chunk)):
                    self.position = error.pos
                    self.fail(error.msg)
            except RecursionError:
                self.fail("nested too deeply")
            else:
                # a number at the end of the window may go on: the cut leaves at most two characters of `1.`, `1e+`
                if end + 2 < len(self.buffer) or not self._read(chunk):
                    self.position = end
                    return Item(value, line, self.problem or _unwritable(value))
            # an item longer than the window is parsed again from its start each time: doubling keeps that linear
            chunk *= 2

    def fail(self, reason: str) -> NoReturn:
        self._count()
        raise UserError(f"{self.path}:{self.line}:{self.column}: malformed JSON: {reason}")

    def _count(self) -> None:
        gone = self.buffer[self.counted : self.position]
        lines = gone.count("\n")
        self.line += lines
        self.column = len(gone) - gone.rfind("\n") if lines else self.column + len(gone)
        self.counted = self.position

    def _read(self, chunk: int) -> bool:
        try:
            with damaged_gzip_is_user_error(self.path):
                text = self.stream.read(chunk)
        except UnicodeDecodeError as error:
            raise not_utf8(self.path, error) from None
        if not text:
            return False
        self._count()
        self.buffer = self.buffer[self.position :] + text
        self.position = self.counted = 0
        return True


def _unwritable(value: object) -> str | None:
    """Return why orjson could not write the value: half a surrogate pair, which Python's reader lets pass."""
    try:
        orjson.dumps(value)
    except TypeError as error:
        return f"malformed JSON: {error}"
    return None
