"""Other processes that have imported everything already: a fresh interpreter would take seconds for it, each time.

They are copies of one process that has done nothing but import (`multiprocessing`'s fork server), so they share no
state with the tests. What is imported, or how a program starts, is tested with `subprocess`.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, reduction
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, TextIO

import pytest


@functools.cache
def context() -> BaseContext:
    """Return what starts the copies; elsewhere than on Linux, where a copy may not work, fresh processes."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["tests.preloaded"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(os.path.abspath(path) for path in sys.path if path))
        forkserver.ensure_running()
    return found


class _Passed:
    """A file descriptor on its way to another process."""

    def __init__(self, number: int):
        self.number = number

    def __getstate__(self) -> Any:
        return reduction.DupFd(self.number)

    def __setstate__(self, state: Any) -> None:
        self.number = state.detach()


def start(
    words: Sequence[str],
    *,
    stdin: int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    env: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start what `python` does with these words, `-m MODULE ...` or `-c CODE ...`, in a session of its own.

    Args:
        stdin: a file descriptor, as the other two; without one there is nothing to read and nowhere to write.
    """
    descriptors = [None if number is None else _Passed(number) for number in (stdin, stdout, stderr)]
    environment = dict(os.environ if env is None else env)
    process: BaseProcess = context().Process(  # type: ignore[attr-defined]
        target=_become, args=(list(words), descriptors, environment)
    )
    process.start()
    return process


def run(
    words: Sequence[str], text: str = "", env: Mapping[str, str] | None = None, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Start it with this text as its input and wait for its end."""
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(text)
        given.seek(0)
        process = start(words, stdin=given.fileno(), stdout=out.fileno(), stderr=err.fileno(), env=env)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(list(words), timeout)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(words), process.exitcode, out.read(), err.read())


def talk(words: Sequence[str]) -> tuple[BaseProcess, TextIO]:
    """Start it; returns what it prints line by line, too."""
    ours, theirs = os.pipe()
    process = start(words, stdout=theirs)
    os.close(theirs)
    return process, open(ours, encoding="utf-8")


def copied(patch: pytest.MonkeyPatch) -> None:
    """Let the package start such copies where it starts fresh processes; what it sends is pickled all the same."""
    found = context()
    for place in ("steerlm.generation.worker.multiprocessing.get_context", "steerlm.storage.ranks.get_context"):
        patch.setattr(place, lambda method: found)


def _become(words: list[str], descriptors: list[_Passed | None], environment: dict[str, str]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    for number, passed in enumerate(descriptors):
        found = passed.number if passed is not None else os.open(os.devnull, os.O_RDWR)
        os.dup2(found, number)
        os.close(found)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    kind, program, *arguments = words
    sys.argv = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
