"""What a piece of work took, time and peak memory, and how many CPUs it may use."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS, _REFERENCES = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MEMORY = Path("/proc/meminfo")


def usable_cpus() -> int:
    """Return how many CPUs this process may run on."""
    if sys.platform == "linux":  # a container or `taskset` may allow it fewer than there are
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_mib() -> int | None:
    """Return the peak resident memory of this process so far, in MiB; None where the system does not tell."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024))


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that this process can still get of a device's memory; None where the system does not tell."""
    import torch

    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + idle
    if device.type != "cpu" or not _MEMORY.is_file():
        return None
    found = re.search(r"MemAvailable:\s+(\d+) kB", _MEMORY.read_text())
    return None if found is None else 1024 * int(found.group(1))


@dataclass
class Spending:
    """What work took: seconds, and the peak memory of the process during it (None where unknown)."""

    seconds: float = 0.0
    peak_memory_mib: int | None = None


@contextlib.contextmanager
def spending() -> Iterator[Spending]:
    """Give a cost that is filled at the end of the work.

    On a GPU the memory is the GPU's. On the CPU it is the process's, so it includes what the process held before.
    """
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    elif _REFERENCES.exists():
        with contextlib.suppress(OSError):  # not every container may
            _REFERENCES.write_text("5")  # resets the peak (proc(5))
    started = time.monotonic()
    cost = Spending()
    yield cost
    cost.seconds = round(time.monotonic() - started, 2)
    cost.peak_memory_mib = round(torch.cuda.max_memory_allocated() / 2**20) if gpu else _peak_resident_mib()


def _peak_resident_mib() -> int | None:
    if not _STATUS.is_file():
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    return None if found is None else round(int(found.group(1)) / 1024)
