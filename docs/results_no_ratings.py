"""Copy the numbers of a run of `recipes/no_ratings.yaml` into `docs/results/no_ratings/`, and render them for its page.

    python docs/results_no_ratings.py RUN --plain PLAIN [--at STEP=EVALUATION …]
    make docs

RUN is a finished run, whose evaluation has every dial at the strength that was chosen for it; PLAIN an evaluation of
the same models on the same prompts with `guidance=1`; EVALUATION what `steerlm evaluate` found for a step's checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

from steerlm.reporting.formatting import estimate_text, markdown_table, number
from steerlm.results.codec import from_json
from steerlm.results.dials import DialResult

sys.path.insert(0, str(Path(__file__).resolve().parent))
from results_turned_up import bootstrap, copy, copy_bootstrap, followed, guided, tuned
from stored_run import StoredRun, finished_stages

STORED = StoredRun(Path(__file__).resolve().parent / "results" / "no_ratings")


def copy_run(run: Path, plain: Path, steps: dict[str, Path]) -> None:
    """Copy what the page needs."""
    STORED.copy_cost(run)
    copy(STORED, plain, run / "evaluate", run / "tune_guidance")
    copy_bootstrap(STORED, run / "bootstrap", plain, None)
    sft = finished_stages(run)["train_sft"]["summary"]
    course = [json.loads(line) for line in (run / "train_sft" / "metrics.jsonl").read_text().splitlines()]
    done = {row["step"]: row["tokens_per_second"] for row in course if "tokens_per_second" in row}
    STORED.write(
        "training.json",
        {
            "records": sft["train"]["records"],
            "too_long": sft["train"]["too_long"],
            "steps": sft["steps"],
            "tokens_per_second": sorted(done.values())[len(done) // 2],
            "header_gain": sft["header_gain"],
        },
    )
    STORED.write("curve.json", {step: followed(folder) for step, folder in steps.items()})


def training() -> str:
    """What was trained on, in a sentence."""
    found = STORED.read("training.json")
    gains = ", ".join(f"{name} {row['value']:.3f}" for name, row in found["header_gain"]["by_dial"].items())
    return (
        f"{found['records']:,} conversations ({found['too_long']:,} more are longer than `max_length`), "
        f"{found['steps']:,} steps, {found['tokens_per_second']:.0f} tokens/s. What each dial's part of the header is "
        f"worth on held-out records, in nats per token (`header_gain`): {gains}.\n"
    )


def curve() -> str:
    """Spearman of every dial by step, each at the strength that was chosen at the end."""
    if not STORED.read("curve.json"):
        return "Not measured.\n"
    found = STORED.read("curve.json")
    first: dict[str, Any] = next(iter(found.values()))
    rows = []
    for step, row in found.items():
        dials = {name: from_json(DialResult, dial) for name, dial in row["dials"].items()}
        rows.append(
            [step, *(f"{estimate_text(dial.spearman)}; {number(dial.mae.value, 2)}" for dial in dials.values())]
        )
    note = (
        f"\nSpearman; error in levels. {first['prompts']} held-out prompts, {first['answers']} answers per checkpoint, "
        f"the other dials at: {', '.join(first['settings'])}.\n"
    )
    return markdown_table(["step", *first["dials"]], rows) + note


BLOCKS = {
    "no-ratings-cost": STORED.cost,
    "no-ratings-training": training,
    "no-ratings-guided": partial(guided, STORED),
    "no-ratings-bootstrap": partial(bootstrap, STORED),
    "no-ratings-tuned": partial(tuned, STORED),
    "no-ratings-curve": curve,
}


def main() -> None:
    """Copy what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--at", nargs="*", default=[], metavar="STEP=EVALUATION")
    given = parser.parse_args()
    steps = {name: Path(folder) for name, _, folder in (pair.partition("=") for pair in given.at)}
    copy_run(given.run, given.plain, steps)


if __name__ == "__main__":
    main()
