"""Ends processes once this one is gone, however it ended: a server that was killed must not leave vLLM on the GPU.

The guard is a process of its own that runs this file, with nothing but the standard library. It waits for the end of
its input, which only the server's end brings, and then ends whatever it watches. Linux only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable


class Guard:
    """Watches over processes until `close`."""

    def __init__(self, pids: Iterable[int]) -> None:
        """Start to watch."""
        self._process = subprocess.Popen(
            [sys.executable, "-I", __file__, *map(str, pids)],
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is the server's business
        )

    def close(self) -> None:
        """End the guard, and what still runs of what it watches."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _watch(pids: Iterable[int]) -> None:
    watched = []
    for pid in pids:
        try:
            watched.append(os.pidfd_open(pid))  # a number alone may be another process later
        except ProcessLookupError:
            continue
    sys.stdin.read()
    for process in watched:
        try:
            signal.pidfd_send_signal(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    _watch(map(int, sys.argv[1:]))
