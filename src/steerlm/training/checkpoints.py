"""Checkpoints of a training: which of them are whole, and which training they belong to.

The Trainer writes a checkpoint file by file; a record of all files and their sizes, written last, is what
makes it count. A run that was killed while saving goes on from the checkpoint before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError

from steerlm.batching.batches import Examples
from steerlm.config import TrainingSection
from steerlm.errors import UserError
from steerlm.storage.files import atomic_writer, write_json

COMPLETE = "complete.json"
"""Record in a checkpoint: its files and their sizes, written after all of them."""

TRAINER_STATE = "trainer_state.json"

log = logging.getLogger(__name__)


def mark_complete(folder: Path) -> None:
    """Record a checkpoint's files and sizes; a checkpoint without this record, or unlike it, is not used."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(folder / COMPLETE, {path.relative_to(folder).as_posix(): path.stat().st_size for path in files})


def is_complete(folder: Path) -> bool:
    """Return whether every file of a checkpoint is there in full length."""
    try:
        sizes = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def _checkpoints(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the usable checkpoints in a folder, oldest first."""
    return [path for path in _checkpoints(folder) if is_complete(path)]


def last_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint whose best predecessor is complete too; delete what was cut short."""
    for path in _checkpoints(folder):
        if not is_complete(path):
            log.warning("%s is incomplete (interrupted while it was written): using an earlier checkpoint", path)
            shutil.rmtree(path)
    for path in reversed(complete_checkpoints(folder)):
        state = json.loads((path / TRAINER_STATE).read_text(encoding="utf-8"))
        if is_complete(folder / f"checkpoint-{state['best_global_step']}"):
            return path
    return None


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Save a checkpoint: on a full disk, remove what was written of it and raise a `UserError`."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors wrap what the operating system said; only its text is left
        reasons = ("No space left", "os error 28", "Disk quota", "os error 122", "File too large", "os error 27")
        text = str(error)
        torn = "PytorchStreamWriter failed" in text or "unexpected pos" in text
        if not torn and not any(reason in text for reason in reasons):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            f"no space left on the disk while writing {folder}; the earlier checkpoints are intact: free some space "
            "(or lower max_checkpoints) and run the same command again"
        ) from error


def identity(config: TrainingSection, examples: Sequence[Examples], objective: str, seed: int) -> str:
    """Return a digest of the settings and the data of a training."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([config.model_dump(mode="json"), objective, seed], sort_keys=True).encode())
    for data in examples:
        digest.update(data.digest())
    return digest.hexdigest()


def truncate_metrics(metrics: Path, step: int) -> None:
    """Drop what was logged after `step`, which a resumed run logs again."""
    rows = metrics.read_bytes().splitlines(keepends=True) if metrics.is_file() else []
    kept = [row for row in rows if row.endswith(b"\n") and json.loads(row)["step"] <= step]
    with atomic_writer(metrics) as stream:
        stream.writelines(kept)
