"""Hold a file or folder against a second process: the one way to do so, on every system."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from steerlm.errors import UserError


@contextlib.contextmanager
def held(lock: Path, busy: str) -> Iterator[None]:
    """Hold the lock file until the end; the system lets go of it when the process ends, however it ends.

    Args:
        lock: the file, which stays there.
        busy: says what another process is doing, and what to do.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    hold = FileLock(lock, blocking=False)
    try:
        hold.acquire()
    except Timeout:
        raise UserError(busy) from None
    try:
        yield
    finally:
        hold.release()


@contextlib.contextmanager
def held_in_turn(lock: Path) -> Iterator[None]:
    """Hold the lock file until the end, after whoever holds it now."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield
