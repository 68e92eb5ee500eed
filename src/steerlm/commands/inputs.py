"""What a user names as data: conversations in JSONL."""

from __future__ import annotations

import itertools
from pathlib import Path

from steerlm.commands import common
from steerlm.errors import UserError, shell_word

_TABLES = (".csv", ".tsv", ".parquet")
"""What `steerlm prepare` reads as tables."""


def lines_file(path: Path, option: str) -> Path:
    """Return a file of JSON objects, one per line, as far as its first line tells."""
    _first_line(path, option)
    return path


def conversations_file(path: Path, option: str) -> Path:
    """Return a file of JSONL conversations, as far as its first line tells.

    Raises:
        UserError: no such file, or data that `steerlm prepare` makes conversations of.
    """
    from steerlm.conversation import conversation_from_dict, parse_json_line

    number, line = _first_line(path, option)
    raw = parse_json_line(line, path, number) if line else None
    try:
        if raw is not None:
            conversation_from_dict(raw)
    except UserError as error:
        hint = "" if "steerlm prepare" in str(error) else f"; {_prepared(path)}"
        raise UserError(f"{path}:{number}: {error}{hint}") from None
    return path


def _first_line(path: Path, option: str) -> tuple[int, bytes]:
    """Return the first line of a file of JSON objects that is not blank, with its number; empty: there is none."""
    from steerlm.storage.files import read_lines

    if common.existing_file(path, option).suffix not in _TABLES:
        number, line = next(read_lines(path), (0, b""))
        if not line or line.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
            return number, line
    raise UserError(f"{option}: {path} is no JSONL, which has a JSON object per line; {_prepared(path)}")


def _prepared(path: Path) -> str:
    """Say how data of other forms become conversations that every command reads."""
    from steerlm.storage.files import read_lines

    source = f"{shell_word(f'table:{path}')} --columns prompt=COLUMN,response=COLUMN"
    if path.suffix not in _TABLES:
        head = b"".join(line for _, line in itertools.islice(read_lines(path), 20))
        if b'"messages"' in head or b'"conversations"' in head:
            source = shell_word(f"messages:{path}")
    return (
        f"`steerlm prepare --source {source} --attributes FILE --out FOLDER` makes conversations of it: give "
        "FOLDER/train.jsonl"
    )
