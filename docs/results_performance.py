"""Render the results of `benchmarks/` for the docs: ratios against the targets, the work behind them, the machine.

    make benchmarks     (writes docs/results/performance/*.json)
    make docs

A ratio is our rate over the peer's in the same round; the median of the rounds counts, its range stands beside it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results_playground import cpu_name, totals

FOLDER = Path(__file__).resolve().parent / "results" / "performance"
PLAYGROUND = Path(__file__).resolve().parent / "results" / "playground"
CLAIMS = ("sft", "large_vocabulary", "annotate", "generative_labels", "sampling", "engines")
"""Result files with ratios, in the order of the tables; those of a GPU end in `_cuda`."""
QUICKSTART_S, BUSY = 180, 0.5
MEMORY_SHARES = {"before": 0.5, "trl": 0.6}
"""Most that fine-tuning of the real model may take of a peer's memory."""
MEMORY_GB = 12
"""Most that fine-tuning of all its weights may take."""
_MISSING = "Not measured yet.\n"


def _read(name: str) -> Any:
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _results() -> Iterator[dict[str, Any]]:
    for name in CLAIMS:
        for suffix in ("", "_cuda"):
            result = _read(name + suffix)
            if result is not None:
                yield result


def _cases(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for case in result.get("cases", {}).values():
        quick = " (quick check, no result)" if case["quick"] else ""
        yield f"{result['title']}: {case['description']}{quick}", case


def verdict(median: float, target: float | None) -> str:
    """Return whether a target is met."""
    if target is None:
        return "no target"
    return _verdict(median >= target)


def _verdict(holds: bool) -> str:
    return "holds" if holds else "**missed**"


def targets() -> str:
    """Every claim with its target and what was measured."""
    rows = []
    for result in _results():
        if "not_run" in result:
            rows.append([f"{result['title']}, {result['device']}", "", "", "", f"not run: {result['not_run']}", ""])
        for claim, case in _cases(result):
            if "not_run" in case:
                rows.append([claim, "", "", "", f"not run: {case['not_run']}", ""])
                continue
            found = [*(_peer(claim, peer) for peer in case["peers"].values()), *_further(claim, case["peers"])]
            rows += [[*row, cpu_name(case["environment"]["cpu"])] for row in [*found, *_memory_rows(claim, case)]]
    rows += [*_io_rows(), *_quickstart_rows()]
    if not rows:
        return _MISSING
    return _table(["claim", "against", "target", "measured: median [range]", "verdict", "CPU"], rows)


def _peer(claim: str, peer: dict[str, Any]) -> list[str]:
    target = "" if peer["target"] is None else f">= {peer['target']:g} x"
    variant = f": {peer['variant']}" if peer.get("variant") else ""
    if "not_run" in peer:
        return [claim, peer["description"], target, "", f"not run: {peer['not_run']}"]
    ratio = peer["ratio"]
    measured = f"{ratio['median']:.2f} x [{ratio['low']:.2f}, {ratio['high']:.2f}], {len(ratio['pairs'])} pairs"
    return [claim, peer["description"] + variant, target, measured, verdict(ratio["median"], peer["target"])]


def _further(claim: str, peers: dict[str, Any]) -> Iterator[list[str]]:
    """A second engine of ours, measured in the same rounds."""
    for peer in peers.values():
        if "further" in peer:
            held = peer["further"]
            rival = peers[held["peer"]]
            yield _peer(f"{claim}; {peer['description']}", {**rival, "target": held["target"], "ratio": held["ratio"]})


def _memory_rows(claim: str, case: dict[str, Any]) -> Iterator[list[str]]:
    """Peak memory, where it was measured: of ours over the peer's in the same round; by itself without a peer."""
    peaks = [facts["peak_gib"] for facts in case["ours"]["facts"] if "peak_gib" in facts]
    if not peaks:
        return
    if not case["peers"]:
        most = max(peaks) * 2**30 / 1e9
        yield [claim, "peak memory", f"<= {MEMORY_GB} GB", f"{most:.1f} GB", _verdict(most <= MEMORY_GB)]
    for name, peer in case["peers"].items():
        if "facts" not in peer:
            continue
        shares = sorted(mine / facts["peak_gib"] for mine, facts in zip(peaks, peer["facts"], strict=True))
        share, target = statistics.median(shares), MEMORY_SHARES[name]
        measured = f"{share:.2f} x [{shares[0]:.2f}, {shares[-1]:.2f}], {len(shares)} pairs"
        yield [claim, f"peak memory of: {peer['description']}", f"<= {target:g} x", measured, _verdict(share <= target)]


def _io_rows() -> Iterator[list[str]]:
    """Cost against the number of records (`benchmarks/io.py`)."""
    result = _read("io")
    if result is None:
        return
    quick = " (quick check, no result)" if result["quick"] else ""
    for step, found in result["steps"].items():
        largest = max(map(int, found["sizes"]))
        goals, cpu = found["targets"], cpu_name(found["environment"]["cpu"])
        claim = f"{step}, {largest:,} conversations{quick}"
        ratio = found["largest_against_reference"]
        if ratio is not None:
            against = f"its own time per record at {goals['reference']:,}"
            yield [claim, against, f"<= {goals['ratio']:g} x", f"{ratio:.2f} x", _verdict(ratio <= goals["ratio"]), cpu]
        peak = found["sizes"][str(largest)]["peak_mib"]
        yield [
            claim,
            "peak memory",
            f"< {goals['peak_bytes'] / 1e9:g} GB",
            f"{peak * 2**20 / 1e9:.2f} GB",
            _verdict(peak * 2**20 < goals["peak_bytes"]),
            cpu,
        ]


def plan() -> str:
    """What the planning model predicts of trainings, and what they took (`benchmarks/planning.py`)."""
    result = _read("planning")
    if result is None:
        return _MISSING
    quick = " (quick check, no result)" if result["quick"] else ""
    rows = [
        [f"{name}{quick}", what, *_predicted(case["summary"][key], len(case["rounds"]), form)]
        for name, case in result["plans"].items()
        for key, what, form in (
            ("memory_mib", "peak memory, MiB", ".0f"),
            ("seconds_per_step", "seconds per step", ".2f"),
        )
    ]
    return _table(["training", "of which", "predicted", "measured: median [range]", "error"], rows)


def _predicted(found: dict[str, Any], rounds: int, form: str) -> list[str]:
    predicted, measured, low, high = (format(found[key], form) for key in ("predicted", "measured", "low", "high"))
    return [predicted, f"{measured} [{low}, {high}], {rounds} rounds", f"{found['error_percent']:+.0f} %"]


def _playground() -> tuple[dict[str, Any], dict[str, Any]]:
    costs, facts = (json.loads((PLAYGROUND / f"{name}.json").read_text("utf-8")) for name in ("cost", "environment"))
    return costs, facts


def _quickstart_rows() -> Iterator[list[str]]:
    costs, facts = _playground()
    cpus, cpu = facts["cpus"], cpu_name(facts["cpu"])
    seconds = totals()
    middle = statistics.median(seconds)
    spread = f" [{min(seconds):.0f}, {max(seconds):.0f}], {len(seconds)} runs" if len(seconds) > 1 else ""
    claim = f"quickstart, {cpus} cores, after installation"
    yield [claim, "", f"<= {QUICKSTART_S} s", f"{middle:.0f} s{spread}", _verdict(middle <= QUICKSTART_S), cpu]
    name, busy = min(((name, _busy(row, cpus)) for name, row in _lasting(costs).items()), key=lambda pair: pair[1])
    yield [
        claim,
        "cores busy in the idlest step",
        f">= {BUSY:.0%}",
        f"{busy:.0%} in {name}",
        _verdict(busy >= BUSY),
        cpu,
    ]


def _lasting(costs: dict[str, Any]) -> dict[str, Any]:
    """Return the steps that take a second or more: of others the start is all there is."""
    return {name: row for name, row in costs.items() if row["seconds"] >= 1}


def _busy(row: dict[str, Any], cpus: int) -> float:
    return float(row["cpu_seconds"] / (row["seconds"] * cpus))


def quickstart() -> str:
    """Time of every step of the playground run, its share, and how busy the cores were."""
    costs, facts = _playground()
    cpus = facts["cpus"]
    total = sum(row["seconds"] for row in costs.values())
    rows = [
        [name, f"{row['seconds']:.0f} s", f"{row['seconds'] / total:.0%}", f"{_busy(row, cpus):.0%}"]
        for name, row in costs.items()
    ]
    rows.append(["all", f"{total:.0f} s", "100%", f"{_busy(_sum(costs), cpus):.0%}"])
    return _table(["step", "time", "share", f"of {cpus} cores busy"], rows)


def _sum(costs: dict[str, Any]) -> dict[str, float]:
    return {key: sum(row[key] for row in costs.values()) for key in ("seconds", "cpu_seconds")}


def work() -> str:
    """What each contestant did in the measured time, and how the outputs compare."""
    rows = []
    for result in _results():
        for claim, case in _cases(result):
            if "not_run" in case:
                continue
            for name, side in {"steerlm": case["ours"], **case["peers"]}.items():
                if "facts" in side:
                    rows.append([claim, name, _spread(side["facts"])])
            for key in case["checks"][0] if case["checks"] else ():
                values = "; ".join(json.dumps(check[key]) for check in case["checks"][:1])
                rows.append([claim, key.replace("_", " "), values])
    return _table(["claim", "who", "what, first round to last"], rows) if rows else _MISSING


def _spread(facts: list[dict[str, Any]]) -> str:
    """Return each fact with its range over the rounds."""
    parts = []
    for key in facts[0]:
        values = [row[key] for row in facts]
        numbers = all(isinstance(value, int | float) for value in values)
        same = all(value == values[0] for value in values)
        shown = f"{values[0]}" if same or not numbers else f"{min(values)} to {max(values)}"
        parts.append(f"{key.replace('_', ' ')} {shown}")
    return ", ".join(parts)


def environment() -> str:
    """The machines and versions, each with the claims measured there."""
    seen: dict[str, list[str]] = {}
    for result in _results():
        for name, case in result.get("cases", {}).items():
            seen.setdefault(_machine(case["environment"]), []).append(f"{result['claim']} {name}")
    for step, found in (_read("io") or {"steps": {}})["steps"].items():
        seen.setdefault(_machine(found["environment"]), []).append(f"io {step}")
    planning = _read("planning")
    if planning is not None:
        seen.setdefault(_machine(planning["environment"]), []).append("planning")
    if not seen:
        return _MISSING
    return "".join(f"- {', '.join(claims)}: {machine}\n" for machine, claims in seen.items())


def _machine(facts: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    tunables = f", GLIBC_TUNABLES {facts['glibc_tunables']}" if facts["glibc_tunables"] else ""
    return (
        f"{facts['cpu']}, {facts['cpus']} cores, threads {facts['threads']}{tunables}, {facts['platform']}, "
        f"Python {facts['python']}; {packages}; commit {facts['commit']}"
    )


BLOCKS = {
    "performance_targets": targets,
    "performance_quickstart": quickstart,
    "performance_work": work,
    "performance_plan": plan,
    "performance_environment": environment,
}
