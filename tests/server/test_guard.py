"""What a server has started ends with it, also when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from steerlm.server.guard import Guard
from tests.server.running import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has process descriptors")

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
SERVER = f"""
import subprocess, sys, time
from steerlm.server.guard import Guard
child = subprocess.Popen({SLEEP!r})
guard = Guard([child.pid])
print(child.pid, guard._process.pid, flush=True)
time.sleep(60)
"""


def ended(pid: int) -> bool:
    """Whether a process that is not ours to wait for has ended; nobody may have asked for its status."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_killed_server_leaves_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        child, guard = map(int, server.stdout.readline().split())
        time.sleep(0.3)  # the guard looks at its process first
        assert not ended(child)
        server.send_signal(signal.SIGKILL)
    eventually(lambda: ended(child) and ended(guard))


def test_close_ends_what_is_left() -> None:
    with subprocess.Popen(SLEEP) as child:
        guard = Guard([child.pid, gone()])
        time.sleep(0.3)
        assert child.poll() is None
        guard.close()
        assert child.wait(20) == -signal.SIGKILL


def gone() -> int:
    """Return the number of a process that was there."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    return process.pid
