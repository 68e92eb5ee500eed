"""Rows of tokens, four bytes each, end to end in memory or in a memory-mapped file."""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from steerlm.batching.shared_prompts import Ids, IntArray
from steerlm.storage.files import full_disk_is_user_error


class FlatArray:
    """Rows of different length, stored end to end with their offsets.

    Args:
        rows: one-dimensional arrays or lists.
        folder: where given, the elements go to an unnamed file there and are memory-mapped, so that data larger
            than memory works; the file vanishes with the process.
    """

    def __init__(self, rows: Iterable[Sequence[int] | Ids], folder: Path | None = None):
        offsets = array("q", [0])
        self._flat: Ids
        if folder is None:
            buffer = bytearray()
            for row in rows:
                buffer += np.asarray(row, dtype=np.int32).tobytes()
                offsets.append(len(buffer) // 4)
            self._flat = np.frombuffer(buffer, dtype=np.int32)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with full_disk_is_user_error(folder), tempfile.TemporaryFile(dir=folder) as stream:
                for row in rows:
                    stream.write(np.asarray(row, dtype=np.int32).tobytes())
                    offsets.append(offsets[-1] + len(row))
                stream.flush()
                # an empty file cannot be mapped
                mapped = np.memmap(stream, dtype=np.int32, mode="r") if offsets[-1] else np.empty(0, np.int32)
                self._flat = np.asarray(mapped)
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Ids:
        return self._flat[self._offsets[index] : self._offsets[index + 1]]

    def digest(self) -> bytes:
        """Return what identifies the content."""
        digest = hashlib.blake2b(self._flat.tobytes() if len(self._flat) == 0 else self._flat.data, digest_size=16)
        digest.update(self._offsets)
        return digest.digest()

    @property
    def lengths(self) -> IntArray:
        offsets = np.asarray(self._offsets, dtype=np.int64)
        return offsets[1:] - offsets[:-1]
