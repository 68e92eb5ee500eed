"""Weight files of a checkpoint: written whole or not at all, checked before they are read, and identified."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from steerlm.checkpoint.info import INFO_FILE
from steerlm.errors import UserError
from steerlm.storage.files import full_disk_is_user_error


def check_weights(folder: Path) -> None:
    """Raise unless the folder's safetensors files are all there and as long as their headers say."""
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (json.JSONDecodeError, KeyError):
            raise UserError(f"{index} is damaged or cut short; fetch the checkpoint again") from None
        files = [folder / name for name in names]
    if not files:
        raise UserError(f"{folder} has no *.safetensors weights (pickled .bin weights are refused: they can run code)")
    for file in files:
        if not file.is_file():
            raise UserError(f"{folder} is incomplete: {file.name} is missing")
        size = file.stat().st_size
        with file.open("rb") as stream:
            head = stream.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or 8 + length > size:
                raise UserError(f"{file} is cut short ({size} bytes); fetch or train it again")
            try:
                header = json.loads(stream.read(length))
                ends = [row["data_offsets"][1] for name, row in header.items() if name != "__metadata__"]
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                raise UserError(f"{file} is damaged: its header cannot be read; fetch or train it again") from None
        wanted = 8 + length + max(ends, default=0)
        if size != wanted:
            raise UserError(f"{file} is cut short: {size} of {wanted} bytes; fetch or train it again")


def fingerprint(folder: str | Path) -> str:
    """Return 16 hex digits that identify a checkpoint's weights and `steerlm.json`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no such checkpoint folder: {folder}")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} has no *.safetensors weights")
    digest = hashlib.blake2b(digest_size=8)
    for file in [*files, folder / INFO_FILE]:
        if file.is_file():
            digest.update(file.name.encode() + b"\0")
            with file.open("rb") as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
    return digest.hexdigest()


def fingerprint_or_name(model: str) -> str:
    """Return what identifies a model that may be one of the hub's: a folder's fingerprint, else its name."""
    return fingerprint(model) if Path(model).is_dir() else model


def let_others_read(folder: Path) -> None:
    """Give the files of a folder the mode of any new file: safetensors writes some that only their owner can read."""
    probe = folder / ".mode"
    probe.touch()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for path in folder.rglob("*.safetensors"):
        path.chmod(mode)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write to that takes the place of `folder` at the end, whole or not at all."""
    folder = folder.resolve()  # behind a link to another disk the folder is replaced, not the link
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with full_disk_is_user_error(folder):
        try:
            yield partial
        except SafetensorError as error:
            # safetensors wraps what the operating system said
            raise OSError(errno.ENOSPC if "os error 28" in str(error) else errno.EIO, str(error)) from error
        let_others_read(partial)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(partial, folder)
