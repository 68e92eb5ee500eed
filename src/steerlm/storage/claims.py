"""Are these outputs mine? A record beside them says what they were made from; other inputs are refused or replace them.

Refused where hours would be lost (trainings), replaced where minutes are (answers, scores, labels).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import orjson

from steerlm.errors import UserError
from steerlm.storage.files import read_json, write_json


def digest_of(*parts: Any) -> str:
    """Return a digest of JSON-able values; the order of the keys of a mapping counts."""
    return hashlib.sha256(orjson.dumps(parts)).hexdigest()


def digest_of_file(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def changed_inputs(record: Path, inputs: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the inputs that differ from the recorded ones; None where nothing is recorded."""
    if not record.is_file():
        return None
    stored = read_json(record)
    return [name for name, value in inputs.items() if stored.get(name) != value]


def claim(
    record: Path,
    inputs: Mapping[str, Any],
    *,
    otherwise: Literal["refuse", "replace"],
    outputs: Mapping[str, Path] | None = None,
    holds: str = "results",
) -> None:
    """Make the outputs beside `record` those of `inputs`.

    Args:
        record: JSON file that keeps what the outputs were made from; inputs that it names and `inputs` does not stay.
        otherwise: what happens where other inputs are recorded: an error, or the outputs of those that differ are
            deleted (and their `.partial` files).
        outputs: by the name of the input that they depend on; for `replace`.
    """
    changed = changed_inputs(record, inputs)
    if changed and otherwise == "refuse":
        raise UserError(
            f"{record.parent} holds {holds} with other inputs (different: {', '.join(changed)}); "
            "choose another folder, or delete this one to start anew"
        )
    if changed == []:
        return
    for name, path in (outputs or {}).items():
        if changed is None or name in changed:
            path.unlink(missing_ok=True)
            partial_of(path).unlink(missing_ok=True)
    stored = {} if changed is None else read_json(record)
    write_json(record, {**stored, **inputs})


def claim_file(path: Path, made_from: str) -> None:
    """Delete the file unless it was made from `made_from` (a digest), and record that beside it."""
    claim(path.with_suffix(".inputs.json"), {path.name: made_from}, otherwise="replace", outputs={path.name: path})


def partial_of(path: Path) -> Path:
    """Return where a file of lines grows until it is whole."""
    return path.with_name(f"{path.name}.partial")
