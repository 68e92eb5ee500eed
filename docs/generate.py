"""Fill the generated blocks of README and docs: `make docs`.

A block stands between `<!-- generated: NAME -->` and `<!-- end -->`. Reference blocks come from the code,
numbers from the result files under `docs/results/`, which `make results` copies from a finished run.
A test regenerates every block and fails on a difference.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel

from steerlm.attributes import PRESETS
from steerlm.config import Recipe

sys.path.insert(0, str(Path(__file__).resolve().parent))
import reference_http
import results_ablation
import results_beyond
import results_bootstrap
import results_elsewhere
import results_guidance
import results_header
import results_no_ratings
import results_performance
import results_playground
import results_real_model
import results_serve_load
import results_steerbench
import structure

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- generated: ([a-z_-]+)(?: ([a-z_-]+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def fields(section: str) -> str:
    """Table of a recipe section's fields."""
    annotation = Recipe.model_fields[section].annotation
    model = next(t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel))
    rows = ["| field | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
        rows.append(f"| `{name}` | {default} | {field.description} |")
    return "\n".join(rows) + "\n"


def _yaml(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def command(name: str) -> str:
    """The command's `--help`."""
    environment = {**os.environ, "COLUMNS": "110"}
    done = subprocess.run(
        [sys.executable, "-m", "steerlm", *([name] if name != "steerlm" else []), "--help"],
        capture_output=True, text=True, check=True, env=environment,
    )  # fmt: skip
    return "```text\n" + done.stdout + "```\n"


def presets() -> str:
    """The shipped schemas."""
    rows = ["| preset | attributes | range |", "|---|---|---|"]
    for name, schema in PRESETS.items():
        first = schema.attributes[0]
        rows.append(f"| `{name.lower()}` | {', '.join(schema.names)} | {first.minimum}..{first.maximum} |")
    return "\n".join(rows) + "\n"


def rooms() -> str:
    """The rooms of the package by floor, each with the first sentence of its docstring."""
    edges = structure.room_edges(structure.PACKAGE)
    rows = ["| floor | room | what stands there |", "|---|---|---|"]
    for room, floor in sorted(structure.floors(edges).items(), key=lambda pair: (-pair[1], pair[0])):
        path = structure.MODULES["" if room == "steerlm" else room]
        name = path.relative_to(structure.PACKAGE).as_posix().removesuffix("__init__.py") or "__init__.py"
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first = re.split(r"(?<=[.;])\\s|\n\n", " ".join(docstring.split("\n\n")[0].split()))[0].rstrip(".;:")
        rows.append(f"| {floor} | `{name}` | {first} |")
    return "\n".join(rows) + "\n"


def house() -> str:
    """The counts of the structure: before the rooms were arranged by floors, and now."""
    counted = json.loads((ROOT / "docs" / "results" / "structure.json").read_text(encoding="utf-8"))
    before, now = counted["before"], counted["now"]
    rows = ["| | before | now |", "|---|---|---|"]
    return "\n".join([*rows, *(f"| {name} | {before[name]:,} | {value:,} |" for name, value in now.items())]) + "\n"


def templates() -> str:
    """What the model's own chat template keeps, by template (`tests/parity/native_matrix.py`)."""
    matrix = json.loads((ROOT / "docs" / "results" / "templates.json").read_text(encoding="utf-8"))
    columns = {
        "own text": "own text",
        "header only": "header only",
        "same ids": "same ids",
        "loss": "loss",
        "injection": "injection",
        "system": "system",
        "own prompt": "answers",
    }
    rows = [f"| template | {' | '.join(columns)} | end of turn |", "|---" * (len(columns) + 2) + "|"]
    refused = []
    for name, row in matrix.items():
        if "refused" in row:
            refused.append(f"* `{name}`: {row['refused']}")
            continue
        cells = ["yes" if row[key] else "no" for key in columns.values()]
        ends = ", ".join(f"`{end}`" for end in row["ends"]).replace("|", "\\|")
        rows.append(f"| `{name}` | {' | '.join(cells)} | {ends} |")
    return "\n".join([*rows, "", "Refused, with the reason:", "", *refused]) + "\n"


def choosing() -> str:
    """How many ratings choosing the turns saves (`benchmarks/choosing.py`)."""
    found = json.loads((ROOT / "docs" / "results" / "choosing.json").read_text(encoding="utf-8"))
    ways = {
        "random": "drawn at random",
        "uncertain": "chosen",
        "known levels": "chosen by their true levels, which nobody knows",
        "no noise": "drawn at random, rated without noise",
    }
    rows = [f"| ratings | {' | '.join(ways.values())} |", f"|---|{'---|' * len(ways)}"]
    for i, number in enumerate(found["ratings"]):
        cells = []
        for name in ways:
            errors = [curve[i] for curve in found["label_error"][name]]
            cells.append(f"{sum(errors) / len(errors):.3f} ({min(errors):.3f} to {max(errors):.3f})")
        rows.append(f"| {number} | {' | '.join(cells)} |")
    shares = []
    for number, each in found["share_of_ratings_for_the_error_of_random"].items():
        known = [share for share in each if share is not None]
        if known:
            mean, low, high = sum(known) / len(known), min(known), max(known)
            shares.append(f"{100 * mean:.0f} % ({100 * low:.0f} to {100 * high:.0f}) of {number}")
    says = (
        f"On the playground's replies (simulated annotators, an attribute model on words, {found['seeds']} seeds: mean "
        f"and range) chosen turns reach the error of random ones with {', '.join(shares)} ratings. These replies are "
        "spread evenly over all levels, so there is little to choose: who knew their true levels could hardly "
        "choose better, and what stands between few and many ratings is their noise. Label error:"
    )
    return "\n".join([says, "", *rows]) + "\n"


BLOCKS: dict[str, Callable[..., str]] = {
    "fields": fields,
    "command": command,
    "choosing": choosing,
    "presets": presets,
    "rooms": rooms,
    "templates": templates,
    "house": house,
    "cost": results_playground.cost,
    "cost-busy": results_playground.cost_busy,
    "steering": results_playground.steering,
    "labels": results_playground.labels,
    "bootstrapping": results_playground.STORED.bootstrapping,
    "samples": results_playground.samples,
    "environment": results_playground.environment,
    **reference_http.BLOCKS,
    **results_ablation.BLOCKS,
    **results_beyond.BLOCKS,
    **results_bootstrap.BLOCKS,
    **results_elsewhere.BLOCKS,
    **results_guidance.BLOCKS,
    **results_header.BLOCKS,
    **results_no_ratings.BLOCKS,
    **results_real_model.BLOCKS,
    **results_performance.BLOCKS,
    **results_serve_load.BLOCKS,
    **results_steerbench.BLOCKS,
}


def fill(text: str) -> str:
    """Return `text` with every block generated anew."""

    def block(match: re.Match[str]) -> str:
        head, name, argument, end = match.groups()
        try:
            return head + (BLOCKS[name](argument) if argument else BLOCKS[name]()) + end
        except FileNotFoundError:
            return head + "Not measured yet.\n" + end

    return BLOCK.sub(block, text)


def pages() -> list[Path]:
    """Every page that may hold blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main() -> int:
    """Rewrite the pages; with --check only report which are out of date."""
    stale = [page for page in pages() if fill(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    for page in stale:
        print(page.relative_to(ROOT))
        if "--check" not in sys.argv:
            page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
