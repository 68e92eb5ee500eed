"""Copy the numbers of a playground run into `docs/results/playground/`, and render them for README and docs.

    make results                                                (after `make quickstart`)
    python docs/results_playground.py RUN [--again RUN …]
    python docs/results_playground.py QUIET --busy RUN          (one with a busy program on one of the cores)

`--again` are the same run once more: their times stand beside its own.

Only numbers, settings and the model's own samples are copied; the pages are made from the copies alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from steerlm.reporting.formatting import estimate_text, markdown_table, number

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results_ablation import machine
from stored_run import StoredRun, finished_stages

STORED = StoredRun(Path(__file__).resolve().parent / "results" / "playground")


def copy(run: Path, again: Sequence[Path] = ()) -> None:
    """Copy what the pages need from a finished run, and the times of the same run once more."""
    STORED.copy_cost(run)
    STORED.write("times.json", [_times(one) for one in (run, *again)])
    STORED.write("evaluate.json", json.loads((run / "evaluate" / "results.json").read_text()))
    STORED.write("attribute_model.json", json.loads((run / "train_attribute_model" / "report.json").read_text()))
    STORED.write("bootstrap.json", json.loads((run / "bootstrap" / "report.json").read_text()))


def _times(run: Path) -> dict[str, float]:
    return {name: row["seconds"] for name, row in finished_stages(run).items()}


def cpu_name(cpu: str) -> str:
    """Return the name of a CPU, and whether it has a matrix unit."""
    name, flags = cpu.rsplit(" (", 1)
    return f"{name}, AMX" if "amx" in flags else str(name)


def cost() -> str:
    """Time and memory of every stage."""
    costs, facts, times = STORED.read("cost.json"), STORED.machine(), STORED.read("times.json")
    peak = max(row["peak_memory_mib"] for row in costs.values())
    rows = [
        [name, _seconds([one[name] for one in times]), f"{row['peak_memory_mib']} MiB"] for name, row in costs.items()
    ]
    rows.append(["all", _seconds(totals()), ""])
    runs = "One run." if len(times) == 1 else f"The median of {len(times)} runs, and their range."
    intro = (
        f"Measured on {facts.cpus} CPU cores ({cpu_name(facts.cpu)}) after installation: "
        f"**{statistics.median(totals()) / 60:.1f} minutes** of computing, peak memory **{peak / 1024:.1f} GiB**. "
        f"{runs}\n\n"
    )
    return intro + markdown_table(["step", "time", "peak memory so far"], rows)


def cost_busy() -> str:
    """Time of every stage with a busy program beside it."""
    times = STORED.read("busy.json")
    totals = {name: {**stages, "all": sum(stages.values())} for name, stages in times.items()}
    quiet, busy = totals["quiet"], totals["busy"]
    rows = [[x, f"{quiet[x]:.0f} s", f"{busy[x]:.0f} s", f"{busy[x] / quiet[x]:.1f} x"] for x in quiet]
    return markdown_table(["step", "quiet", "one core busy", "ratio"], rows)


def totals() -> list[float]:
    """Return the seconds that every run took."""
    return [sum(one.values()) for one in STORED.read("times.json")]


def _seconds(values: Sequence[float]) -> str:
    middle = f"{statistics.median(values):.0f} s"
    return middle if len(values) == 1 else f"{middle} [{min(values):.0f}, {max(values):.0f}]"


def steering() -> str:
    """Requested against obtained for the last model."""
    results = STORED.evaluation()
    rows = []
    for model, attribute, dial, _ in results.headline_dials():
        if model == results.final:
            curve = " ".join(number(point.estimate.value, 1) for point in dial.curve)
            leak = dial.largest_leak
            side_effect = f"{estimate_text(leak.estimate)} on {leak.attribute}" if leak else "–"
            figures = [estimate_text(estimate) for estimate in (dial.spearman, dial.mae, dial.slope)]
            rows.append([attribute, curve, *figures, side_effect])
    header = [
        "dial",
        "obtained for 0 1 2 3 4",
        "Spearman",
        "error, levels",
        "slope",
        "largest side effect, levels per level",
    ]
    note = (
        f"\nModel `{results.final}`, {results.prompts.used} held-out prompts, {results.asks} answers per model, "
        f"temperature {results.drawing.temperature}, seed {results.seed}; the other dials "
        f"stand at: {', '.join(results.drawing.settings)}.\n"
    )
    return markdown_table(header, rows) + note


def labels() -> str:
    """Error of human and predicted labels against the truth."""
    results = STORED.evaluation()
    file, attributes = next(iter((results.label_quality or {}).items()))
    rows = [
        [name, f"{row.n:,}", *(estimate_text(estimate) for estimate in (row.human, row.predicted, row.ratio))]
        for name, row in attributes.items()
    ]
    header = ["attribute", "n", "error of people, levels", "error of the attribute model", "ratio"]
    # earlier versions of steerlm looked at the first turns of a file only, and their files have no version
    first = "" if results.version else "the first 5,000 "
    return markdown_table(header, rows) + f"\nOn {first}turns of `{file}` that people have rated.\n"


def samples(only: str | None = None) -> str:
    """The same question at different settings: the first sweep of every dial, or of one."""
    out, seen = [], set()
    for sweep in STORED.evaluation().examples.sweeps:
        if sweep.dial in seen or len(sweep.messages) > 1 or only not in (None, sweep.dial):
            continue
        seen.add(sweep.dial)
        out.append(f"> **{sweep.messages[-1].content}**\n")
        rows = [
            [f"{sweep.dial} {reply.requested}", reply.text.replace("|", "\\|").replace("\n", " ")]
            for reply in sweep.replies
        ]
        out.append(markdown_table(["dial", "answer"], rows))
    return "\n".join(out)


def environment() -> str:
    """Where the run happened."""
    return machine(STORED.machine())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--again", type=Path, nargs="*", default=[])
    parser.add_argument("--busy", type=Path)
    given = parser.parse_args()
    if given.busy is None:
        copy(given.run, given.again)
    else:
        STORED.write("busy.json", {"quiet": _times(given.run), "busy": _times(given.busy)})
