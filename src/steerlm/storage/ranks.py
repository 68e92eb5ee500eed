"""One model in several processes that work in step, one device each: for what no single device holds.

Every process builds the same object, whose model holds its rank's part of the weights (`checkpoint.models`, argument
`spread`). A call goes to all of them, because none can compute without the others, and the first one's answer comes
back. The calling process is none of them: it keeps its own view of distributed computing, and its device stays empty.
"""

from __future__ import annotations

import os
import signal
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Generic, TypeVar

from steerlm.errors import UserError

T = TypeVar("T")
Pipe = connection.Connection


class Ranks(Generic[T]):
    """The same object in several processes; they end with this object, with `close`, or with the calling process."""

    def __init__(self, count: int, build: Callable[[], T]) -> None:
        """Start the processes and wait until each has built its object.

        Args:
            count: processes, and devices where this machine has any.
            build: makes the object; it and whatever `call` sends can be sent to another process.

        Raises:
            UserError: fewer devices than processes, or what `build` raises.
        """
        import torch

        devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        if 0 < devices < count:
            raise UserError(
                f"devices_per_model: {count} needs as many devices, and this machine shows {devices}; lower it"
            )
        context = get_context("spawn")
        folder = tempfile.TemporaryDirectory(prefix="steerlm-ranks-")
        threads = max(1, torch.get_num_threads() // (1 if devices else count))
        self._pipes: list[Pipe] = []
        self._processes: list[BaseProcess] = []
        for rank in range(count):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_rank, args=(rank, count, Path(folder.name), build, theirs, threads), daemon=True
            )
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)
        self.close = weakref.finalize(self, _end, os.getpid(), self._processes, self._pipes, folder)
        self._answers()

    def call(self, work: Callable[..., Any], *arguments: object) -> Any:
        """Let every process call `work(its object, *arguments)`; returns what the first one's call returned.

        Raises:
            UserError: what `work` raised.
            RuntimeError: a process failed or ended; its traceback is on standard error. None is left then.
        """
        for pipe in self._pipes:
            pipe.send((work, arguments))
        return self._answers()

    def _answers(self) -> Any:
        waiting = dict(enumerate(self._pipes))
        first: Any = None
        while waiting:
            for pipe in connection.wait(list(waiting.values())):
                rank = next(number for number, one in waiting.items() if one is pipe)
                try:
                    answer, mistake = waiting.pop(rank).recv()
                except EOFError:
                    self.close()
                    raise RuntimeError(f"the process of rank {rank}, which held a part of the model, ended") from None
                if mistake is not None:
                    self.close()  # the others may wait for this one for ever
                    raise UserError(mistake)
                first = answer if rank == 0 else first
        return first


def _end(owner: int, processes: list[BaseProcess], pipes: list[Pipe], folder: tempfile.TemporaryDirectory[str]) -> None:
    if os.getpid() != owner:  # a copy of the calling process, which reads ahead
        return
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.terminate()
    for process in processes:
        process.join()
    folder.cleanup()


def _rank(rank: int, count: int, folder: Path, build: Callable[[], Any], pipe: Pipe, threads: int) -> None:
    """Be one of the processes: build, then answer calls until the calling process has no more."""
    import torch
    from torch import distributed

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the calling process ends this one
    torch.set_num_threads(threads)
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # of a launcher around the calling process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    on_device = torch.accelerator.is_available()
    if on_device:
        torch.accelerator.set_device_index(rank)
    backend = distributed.get_default_backend_for_device(torch.accelerator.current_accelerator() or "cpu")
    distributed.init_process_group(backend, init_method=(folder / "meet").as_uri(), rank=rank, world_size=count)
    try:
        made = build()
        pipe.send((None, None))
        while True:
            work, arguments = pipe.recv()
            answer = work(made, *arguments)
            pipe.send((answer if rank == 0 else None, None))
    except UserError as error:
        pipe.send((None, str(error)))
    except EOFError:  # the calling process closed its end, or ended
        pass
