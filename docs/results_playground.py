"""Copy the numbers of a playground run into `docs/results/playground/`, and render them for README and docs.

    make results                                                (after `make quickstart`)
    python docs/results_playground.py RUN [RUN_EVALUATED_ON_MORE_PROMPTS]

Only numbers, settings and the model's own samples are copied; the pages are made from the copies alone.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from steerlm.reporting.report import number
from steerlm.runs import STAGES

FOLDER = Path(__file__).resolve().parent / "results" / "playground"


def copy(run: Path, wide: Path | None = None) -> None:
    """Copy what the pages need from a finished run, and from one of the same models evaluated on more prompts."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    stages = {stage: json.loads((run / stage / "done.json").read_text()) for stage in STAGES}
    costs = {
        name: {key: row[key] for key in ("seconds", "cpu_seconds", "peak_memory_mib", "resumed")}
        for name, row in stages.items()
    }
    _write("cost.json", costs)
    _write("evaluate.json", json.loads((run / "evaluate" / "results.json").read_text()))
    _write("attribute_model.json", json.loads((run / "train_attribute_model" / "report.json").read_text()))
    _write("bootstrap.json", json.loads((run / "bootstrap" / "report.json").read_text()))
    _write("environment.json", json.loads((run / "environment.json").read_text()))
    if wide is not None:
        results = json.loads((wide / "evaluate" / "results.json").read_text())
        _write("wide.json", {"comparisons": results["comparisons"]})


def _write(name: str, value: Any) -> None:
    (FOLDER / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def estimate(value: dict[str, Any], digits: int = 2) -> str:
    """One figure with its interval."""
    return f"{number(value['value'], digits)} [{number(value['low'], digits)}, {number(value['high'], digits)}]"


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def cpu_name(facts: dict[str, Any]) -> str:
    """Return the name of the CPU of an environment, and whether it has a matrix unit."""
    name, flags = facts["cpu"].rsplit(" (", 1)
    return f"{name}, AMX" if "amx" in flags else str(name)


def cost() -> str:
    """Time and memory of every stage."""
    costs, facts = _read("cost.json"), _read("environment.json")
    seconds = sum(row["seconds"] for row in costs.values())
    peak = max(row["peak_memory_mib"] for row in costs.values())
    rows = [[name, f"{row['seconds']:.0f} s", f"{row['peak_memory_mib']} MiB"] for name, row in costs.items()]
    intro = (
        f"Measured on {facts['cpus']} CPU cores ({cpu_name(facts)}) after installation: "
        f"**{seconds / 60:.1f} minutes** of computing, peak memory **{peak / 1024:.1f} GiB**.\n\n"
    )
    return intro + _table(["step", "time", "peak memory so far"], rows)


def _last(results: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name = list(results["models"])[-1]
    return name, results["models"][name]


def steering() -> str:
    """Requested against obtained for the last model."""
    results = _read("evaluate.json")
    name, model = _last(results)
    rows = []
    for attribute, scorer in results["headline_scorer"].items():
        report = model["scorers"][scorer]
        dial = report["dials"][attribute]
        curve = " ".join(number(point["value"], 1) for point in dial["curve"])
        leak = dial["largest_leak"]
        side_effect = f"{estimate(leak)} on {leak['attribute']}"
        rows.append([attribute, curve, *(estimate(dial[key]) for key in ("spearman", "mae", "slope")), side_effect])
    header = [
        "dial",
        "obtained for 0 1 2 3 4",
        "Spearman",
        "error, levels",
        "slope",
        "largest side effect, levels per level",
    ]
    used = results["prompts"]
    note = (
        f"\nModel `{name}`, {used['used']} held-out prompts, {results['asks']} answers per model, "
        f"temperature {results['settings']['temperature']}, seed {results['seed']}; the other dials "
        f"stand at: {', '.join(results['settings']['settings'])}.\n"
    )
    return _table(header, rows) + note


def labels() -> str:
    """Error of human and predicted labels against the truth."""
    quality = _read("evaluate.json")["label_quality"]
    file = next(iter(quality))
    rows = [
        [name, str(row["n"]), estimate(row["human"]), estimate(row["predicted"]), estimate(row["ratio"])]
        for name, row in quality[file].items()
    ]
    return _table(["attribute", "n", "error of people, levels", "error of the attribute model", "ratio"], rows)


def bootstrapping(evaluation: str = "evaluate") -> str:
    """What bootstrapping changed, by the exact measures."""
    results = _read(f"{evaluation}.json")
    rows, clusters = [], 0
    for comparison in results["comparisons"]:
        parts = {"mean over dials": comparison["mean"], **comparison["attributes"]}
        for name, row in parts.items():
            rows.append([name, estimate(row["mae"], 3), estimate(row["spearman"], 3), estimate(row["slope"], 3)])
            clusters = row["mae"]["clusters"]
    note = (
        f"\nAfter minus before, on the same {clusters} prompts, settings and seeds, with 95 % intervals; below zero is "
        "better for the error.\n"
    )
    return _table(["dial", "error, levels", "Spearman", "slope"], rows) + note


def samples(only: str | None = None) -> str:
    """The same question at different settings: the first sweep of every dial, or of one."""
    sweeps = _read("evaluate.json")["examples"]["sweeps"]
    out, seen = [], set()
    for sweep in sweeps:
        if sweep["dial"] in seen or len(sweep["messages"]) > 1 or only not in (None, sweep["dial"]):
            continue
        seen.add(sweep["dial"])
        out.append(f"> **{sweep['messages'][-1]['content']}**\n")
        rows = [
            [f"{sweep['dial']} {reply['requested']}", reply["text"].replace("|", "\\|").replace("\n", " ")]
            for reply in sweep["replies"]
        ]
        out.append(_table(["dial", "answer"], rows))
    return "\n".join(out)


def environment() -> str:
    """Where the run happened."""
    facts = _read("environment.json")
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return f"Python {facts['python']}, {facts['platform']}, {facts['cpus']} CPU cores; {packages}.\n"


if __name__ == "__main__":
    copy(*map(Path, sys.argv[1:]))
