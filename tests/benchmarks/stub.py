"""A benchmark that takes no time: its rates are given, one contestant is missing and one has variants."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Benchmark, Case, Contestant, Job, Measurement, NotRun

RATES = {"ours": (8.0, 12.0, 9.0), "slow": (4.0, 4.0, 3.0)}


def prepare(folder: Path, cases: Sequence[str], quick: bool, device: str) -> None:
    """Leave a file that every measurement needs."""
    (folder / "data").write_text(f"{','.join(cases)} {quick} {device}", encoding="utf-8")


def measure(job: Job) -> Measurement:
    """Return the rate of the round, and write down that it was asked."""
    assert (job.folder / "data").is_file()
    with (job.folder / "order").open("a", encoding="utf-8") as stream:
        stream.write(f"{job.contestant}{job.variant}{job.round} ")
    if job.contestant == "absent":
        raise NotRun("it is not installed")
    if job.variant:
        return Measurement(float(job.variant), {"order": ""}, job.variant)
    order = (job.folder / "order").read_text(encoding="utf-8")
    return Measurement(RATES[job.contestant][job.round], {"order": order, "process": os.getpid()}, job.contestant)


def compare(case: str, found: Mapping[str, Measurement]) -> dict[str, Any]:
    """Return what was seen."""
    return {"case": case, "seen": {who: row.output for who, row in found.items()}}


CONTESTANTS = {
    "ours": Contestant("us"),
    "slow": Contestant("a slow peer", target=2.0),
    "tuned": Contestant("a peer with variants", target=2.0, variants=("2", "6", "4")),
    "absent": Contestant("a peer that is not here", target=1.0),
}
BENCHMARK = Benchmark(
    "stub", "A stub", "steps",
    {
        "one": Case("a case", CONTESTANTS, further=("tuned", "slow", 1.25)),
        "two": Case("another", {"ours": Contestant("us")}),
    },
    prepare, measure, compare,
)  # fmt: skip

if __name__ == "__main__":
    from benchmarks.harness import main

    main(BENCHMARK)
