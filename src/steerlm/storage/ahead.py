"""Read ahead: what the next chunks need is prepared in other processes while this one works on the present chunk.

Reading and encoding text is Python that holds the interpreter's lock, so a thread would make the model wait for it all
the same. The processes are those of PyTorch's DataLoader: they end when this one does, however it ends.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from steerlm.errors import UserError
from steerlm.storage.spending import usable_cpus

T = TypeVar("T")

_MOST_PROCESSES = 4
_CHUNKS_EACH = 1
"""Chunks that a process is ahead: it makes one while the one before is worked on; more would only take memory."""


_running: set[object] = set()
"""Iterators that nobody has closed yet. One that the collector found together with its queues would tell the processes
to end through a queue that is closed already, and then wait seconds for them."""


class _Mistake(NamedTuple):
    """A user's mistake that another process met."""

    message: str


class _Chunks(Dataset[T | _Mistake], Generic[T]):
    """What the processes compute."""

    def __init__(self, load: Callable[[int], T], numbers: Sequence[int]):
        self.load = load
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> T | _Mistake:
        try:
            return self.load(self.numbers[index])
        except UserError as error:
            return _Mistake(str(error))


def read_ahead(load: Callable[[int], T], numbers: Sequence[int]) -> Iterator[T]:
    """Yield `load` of every number, in order, computed in other processes a few numbers ahead.

    Args:
        load: uses neither GPU nor torch; what it returns can be sent to another process, but is not made of tensors.
    """
    if sys.platform != "linux" or len(numbers) < 2:  # elsewhere a process cannot be copied once it has threads
        yield from map(load, numbers)
        return
    loader = DataLoader(
        _Chunks(load, numbers),
        batch_size=None,
        num_workers=min(len(numbers), _num_processes()),
        prefetch_factor=_CHUNKS_EACH,
        collate_fn=_as_it_is,
        multiprocessing_context="fork",
        generator=torch.Generator(),  # the loader draws a number: from here, so that no one else's draw changes
    )
    with _forking():
        chunks = iter(loader)
    _running.add(chunks)
    try:
        for chunk in chunks:
            if isinstance(chunk, _Mistake):
                raise UserError(chunk.message)
            yield chunk
    finally:
        _running.remove(chunks)
        del chunks  # a traceback may keep this frame: the processes end now, not with it


def _num_processes() -> int:
    return max(1, min(_MOST_PROCESSES, usable_cpus() // 4))


def _as_it_is(chunk: T) -> T:
    return chunk


@contextmanager
def _forking() -> Iterator[None]:
    """Let the copies share the memory of what is there, as long as nobody writes to it: a collector would.

    And silence two warnings about copies of a process that has threads: these copies use none of what threads hold.
    """
    frozen = gc.get_freeze_count() > 0  # by the process that uses the package: so it stays
    if not frozen:
        gc.collect()
        gc.freeze()
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            yield
    finally:
        if not frozen:
            gc.unfreeze()
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
