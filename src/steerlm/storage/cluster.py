"""The same work in many processes, on one machine or many: an actor pool of Ray Data (extra `ray`).

A chunk of work is a number; whoever computes it reads its part of the input from the disk, so machines share a file
system and little but results travels. Each worker loads its own engine, once, and has a GPU to itself where the
cluster has any, or as many of one machine as a model needs. Ray hands the chunks out, recomputes those of a worker
that is lost, and returns results in order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerlm.errors import UserError, needs_extra


@dataclass(frozen=True)
class Cluster:
    """Where chunks are computed.

    Attributes:
        address: HOST:PORT of a Ray cluster, `auto` (the one this machine belongs to), or `local` (one of this machine
            alone, which ends with this process).
        workers: engines; None = one per GPU, or where there is none, one per as many CPUs as this process uses threads.
        devices: GPUs of one machine that an engine has.
    """

    address: str = "local"
    workers: int | None = None
    devices: int = 1


def chosen_cluster(address: str | None, workers: int | None) -> Cluster | None:
    """Return the cluster of the options `--ray` and `--workers`; None where neither is given."""
    if address is None:
        if workers is not None:
            raise UserError("--workers is the number of engines on a cluster: it needs --ray")
        return None
    if workers is not None and workers < 1:
        raise UserError(f"--workers {workers}: at least one engine has to work")
    return Cluster(address, workers)


def map_in_order(cluster: Cluster, work: Callable[[int], bytes], numbers: Sequence[int]) -> Iterator[bytes]:
    """Yield `work` of every number, in order, computed by the workers of a cluster.

    Args:
        work: computes one chunk. Every worker gets a copy and keeps it, so what it loads on its first call stays.
            The packages and the files that it needs must be there on every machine.
    """
    if not numbers:
        return
    ray = _connected(cluster.address)
    yield from _results(ray, cluster, work, numbers)


def _connected(address: str) -> Any:
    """Return Ray, connected until the process ends: a cluster of this machine takes long to start."""
    with needs_extra("ray", "working on a cluster"):
        import ray
        import ray.data
    if not ray.is_initialized():
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise UserError(f"--ray {address}: no Ray cluster there ({error}); `ray start` starts one") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _results(ray: Any, cluster: Cluster, work: Callable[[int], bytes], numbers: Sequence[int]) -> Iterator[bytes]:
    import torch

    threads = torch.get_num_threads()
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    if 0 < gpus < cluster.devices:
        raise UserError(f"--ray {cluster.address}: devices_per_model: {cluster.devices}, and the cluster has {gpus}")
    most = gpus // cluster.devices or max(1, int(resources.get("CPU", 1)) // threads)
    workers = min(cluster.workers or most, len(numbers))

    class Worker:
        """Computes chunks in a process of its own."""

        def __init__(self) -> None:
            # as many as here, whatever Ray sets: sums in another order differ in the last bit
            torch.set_num_threads(threads)

        def __call__(self, row: Mapping[str, Any]) -> dict[str, object]:
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
        num_gpus=cluster.devices if gpus else 0,
        num_cpus=1 if gpus else min(threads, int(resources.get("CPU", 1))),
    )
    for row in done.iter_rows():
        if row["mistake"]:
            raise UserError(row["mistake"])
        yield row["block"]
