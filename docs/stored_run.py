"""What pages keep of a run: files of numbers in a folder of `docs/results/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from results_ablation import machine

from steerlm.reporting.formatting import estimate_text, markdown_table
from steerlm.results.codec import from_json
from steerlm.results.evaluation import Evaluation, PairedDifferences
from steerlm.results.studies import MachineFacts
from steerlm.runs import RunPaths


def finished_stages(run: Path) -> dict[str, Any]:
    """Return what every finished stage of a run says of itself."""
    return {stage: json.loads((run / stage / "done.json").read_text()) for stage in RunPaths(run).finished()}


class StoredRun(NamedTuple):
    """The files of one page."""

    folder: Path

    def write(self, name: str, value: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        (self.folder / name).write_text(text, encoding="utf-8")

    def read(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def copy_cost(self, run: Path) -> None:
        """Copy what every stage of a run took, and where it ran."""
        stages = finished_stages(run)
        keys = ("seconds", "cpu_seconds", "peak_memory_mib", "resumed")
        self.write("cost.json", {name: {key: row[key] for key in keys} for name, row in stages.items()})
        self.write("environment.json", json.loads((run / "environment.json").read_text()))

    def cost(self) -> str:
        """Return the table of what every stage took."""
        costs = self.read("cost.json")
        rows = [
            [
                name + (" (resumed: its last process only)" if row["resumed"] else ""),
                f"{row['seconds'] / 60:.1f} min",
                f"{row['cpu_seconds'] / 60:.1f} min",
                f"{row['peak_memory_mib'] / 1024:.1f} GiB",
            ]
            for name, row in costs.items()
        ]
        total = sum(row["seconds"] for row in costs.values()) / 60
        note = f"\n{total:.0f} minutes in all. {machine(self.machine())}"
        return markdown_table(["step", "time", "CPU time", "peak memory so far"], rows) + note

    def evaluation(self) -> Evaluation:
        return from_json(Evaluation, self.read("evaluate.json"))

    def machine(self) -> MachineFacts:
        return from_json(MachineFacts, self.read("environment.json"))

    def bootstrapping(self) -> str:
        """Return the table of what bootstrapping changed."""
        comparisons = [from_json(PairedDifferences, row) for row in self.read("evaluate.json")["comparisons"]]
        rows, clusters = [], 0
        for comparison in comparisons:
            for name, row in {"mean over dials": comparison.mean, **comparison.attributes}.items():
                rows.append([name, *(estimate_text(estimate, 3) for estimate in (row.mae, row.spearman, row.slope))])
                clusters = row.mae.clusters if row.mae else clusters
        note = (
            f"\nAfter minus before, on the same {clusters} prompts, settings and seeds, with 95 % intervals; below "
            "zero is better for the error.\n"
        )
        return markdown_table(["dial", "error, levels", "Spearman", "slope"], rows) + note
