"""The same work in many processes, on one machine or many: an actor pool of Ray Data (extra `ray`).

A chunk of work is a number; whoever computes it reads its part of the input from the disk, so machines share a file
system and little but results travels. Each worker loads its own engine, once, and has a GPU to itself where the
cluster has any. Ray hands the chunks out, recomputes those of a worker that is lost, and returns results in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from steerlm.errors import UserError

_RAY_WARNINGS = ("ray", "ray.data")


@dataclass(frozen=True)
class Cluster:
    """Where chunks are computed.

    Attributes:
        address: of a Ray cluster, as Ray writes it (`auto`: the one this machine belongs to), or `local`: a cluster of
            this machine alone, which ends with the work.
        workers: engines at a time; None: one per GPU, or one per `threads` CPUs where the cluster has no GPU.
    """

    address: str = "local"
    workers: int | None = None


def map_in_order(cluster: Cluster, work: Callable[[int], bytes], numbers: Sequence[int]) -> Iterator[bytes]:
    """Yield `work` of every number, in order, computed by the workers of a cluster.

    Args:
        cluster: where.
        work: computes one chunk. Every worker gets a copy and keeps it, so what it loads on its first call stays.
            The packages and the files that it needs must be there on every machine.
        numbers: the chunks.

    Raises:
        UserError: the extra is missing, the address leads nowhere, or `work` raised one.
    """
    if not numbers:
        return
    ray = _import_ray()
    _connect(ray, cluster.address)
    try:
        yield from _results(ray, cluster, work, numbers)
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError("working on a cluster needs Ray: pip install 'steerlm[ray]'") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    for name in _RAY_WARNINGS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        raise UserError("this process is already connected to a Ray cluster; disconnect first (ray.shutdown())")
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except ConnectionError as error:
        raise UserError(f"--ray {address}: no Ray cluster there ({error}); start one with `ray start`") from None


def _results(ray: Any, cluster: Cluster, work: Callable[[int], bytes], numbers: Sequence[int]) -> Iterator[bytes]:
    import torch

    threads = torch.get_num_threads()
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    most = gpus or max(1, int(resources.get("CPU", 1)) // threads)
    workers = min(cluster.workers or most, len(numbers))

    class Worker:
        """Computes chunks in a process of its own."""

        def __init__(self) -> None:
            # as many as here, whatever Ray sets: sums in another order differ in the last bit
            torch.set_num_threads(threads)

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            try:
                return {"block": work(int(row["item"])), "mistake": ""}
            except UserError as error:
                return {"block": b"", "mistake": str(error)}

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    chunks = ray.data.from_items(list(numbers), override_num_blocks=len(numbers))
    done = chunks.map(
        Worker,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=1 if gpus else 0,
        num_cpus=1 if gpus else min(threads, int(resources.get("CPU", 1))),
    )
    for row in done.iter_rows():
        if row["mistake"]:
            raise UserError(row["mistake"])
        yield row["block"]
