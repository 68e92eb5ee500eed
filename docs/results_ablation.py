"""Copy the numbers of an ablation and its baselines into `docs/results/`, and render them for the docs.

    python docs/results_ablation.py [OUT] [--equal-steps OUT] [--real OUT]
    make docs

OUT is a folder of `steerlm ablate` and `baselines` on the playground; `--equal-steps` that with as many steps on every
rung, `--real` that of the recipe `gemma_270m`.

Only numbers and settings are copied; the pages are made from the copies alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from steerlm.reporting.formatting import interval_text, markdown_table, number
from steerlm.reporting.studies import baselines_table, dials_text, explain, explain_baselines, ladder, seeds_text
from steerlm.results.codec import from_json
from steerlm.results.studies import AblationResult, BaselinesResult, MachineFacts, OverSeeds, SeededEstimate

Result = TypeVar("Result")
FOLDER = Path(__file__).resolve().parent / "results" / "ablation"
STEPS = (("plain", "human"), ("human", "best"), ("human", "predicted"), ("predicted", "more"), ("more", "bootstrap"))
"""What each step of the method is compared with: the rung that it changes one thing of."""
PICTURES = ("ablation", "real")
"""The ladders that are drawn."""
_MISSING = "Not measured yet.\n"


def copy(out: Path, name: str) -> None:
    """Copy what the pages need from a finished folder.

    Args:
        name: which ladder it is: `ablation`, `equal_steps` or `real`.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    files = {name: out / "ablation.json"}
    if name == "ablation":
        files["baselines"] = out / "baselines.json"
    for target, file in files.items():
        if file.is_file():
            text = json.dumps(_slim(json.loads(file.read_text())), indent=1, ensure_ascii=False)
            (FOLDER / f"{target}.json").write_text(text + "\n", encoding="utf-8")
    if name in PICTURES:
        shutil.copyfile(out / "ablation.svg", FOLDER / f"{name}.svg")


def _slim(value: Any) -> Any:
    """Leave out the intervals of single seeds; their values stay."""
    if isinstance(value, list):
        return [_slim(item) for item in value]
    if not isinstance(value, dict):
        return value
    out = {key: _slim(item) for key, item in value.items()}
    if isinstance(value.get("seeds"), dict):
        out["seeds"] = {seed: {"value": row["value"]} for seed, row in value["seeds"].items()}
    return out


def _read(name: str, kind: type[Result]) -> Result | None:
    path = FOLDER / f"{name}.json"
    return from_json(kind, _whole(json.loads(path.read_text(encoding="utf-8")))) if path.is_file() else None


def _whole(value: Any) -> Any:
    """Give single seeds the figures that were left out in the copy: none."""
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if not isinstance(value, dict):
        return value
    out = {key: _whole(item) for key, item in value.items()}
    if isinstance(value.get("seeds"), dict):
        out["seeds"] = {seed: {"n": 0, "clusters": 0, **row} for seed, row in value["seeds"].items()}
    return out


def ablation_ladder(name: str = "ablation") -> str:
    """The rungs, and how they were measured."""
    results = _read(name.replace("-", "_"), AblationResult)
    if results is None:
        return _MISSING
    notes = "".join(f"\n{note.capitalize()}.\n" for note in results.notes)
    image = f"![Quality of every rung, the paper's beside it](ablation/{name}.svg)\n\n" if name in PICTURES else ""
    return f"{image}{ladder(results)}\n{explain(results)}{notes}"


def ablation_steps(name: str = "ablation") -> str:
    """What each step of the method changed, better or worse."""
    results = _read(name.replace("-", "_"), AblationResult)
    if results is None:
        return _MISSING
    rows = []
    for before, after in STEPS:
        versus = results.rungs[after].versus.get(before) if after in results.rungs else None
        if versus is not None:
            quality, error = versus.quality, versus.error
            rows.append(
                [
                    f"`{after}` against `{before}`",
                    interval_text(quality.estimate),
                    seeds_text(quality),
                    _over_seeds(quality.over_seeds),
                    verdict(quality, "better", "worse"),
                    interval_text(error.estimate),
                    verdict(error, "worse", "better"),
                ]
            )
    header = ["step", "quality", "each seed", "95 % over seeds", "", "error of the dials", ""]
    quality_of = {name: rung.figures.quality.estimate.value for name, rung in results.rungs.items()}
    return markdown_table(header, rows) + "\n" + _order(quality_of)


def _over_seeds(row: OverSeeds) -> str:
    return f"[{number(row.low)}, {number(row.high)}]" if math.isfinite(row.low) else "–"


def _order(quality: Mapping[str, float]) -> str:
    """Whether no attributes < human labels < attribute-model labels, as in the paper."""
    values = {name: quality[name] for name in ("plain", "human", "predicted") if name in quality}
    said = ", ".join(f"`{name}` {value:.2f}" for name, value in values.items())
    kept = all(values[a] < values[b] for a, b in itertools.pairwise(values))
    ordered = "in the paper's order" if kept else "**not** in the paper's order (no attributes < human < predicted)"
    return f"No attributes, human labels, attribute-model labels: {said}: {ordered}.\n"


def verdict(difference: SeededEstimate, above: str, below: str) -> str:
    """Say in words what an interval says."""
    if not difference.estimate.has_interval:
        return "too few prompts to tell"
    each = [row.value for row in difference.seeds.values()]
    for word, shown, agree in (
        (above, difference.estimate.low > 0, all(value > 0 for value in each)),
        (below, difference.estimate.high < 0, all(value < 0 for value in each)),
    ):
        if shown:
            return f"**{word}**" if agree else f"**{word}**, not in every seed"
    return "no difference shown"


def ablation_dials(name: str = "ablation") -> str:
    """How every rung follows each dial."""
    results = _read(name, AblationResult)
    if results is None:
        return _MISSING
    dials = results.subject.attributes.names
    rows = []
    for rung_name, rung in results.rungs.items():
        steering = rung.figures.steering
        if steering.error is not None:
            errors = [interval_text(steering.error.by_dial.get(dial)) for dial in dials]
            rows.append([f"`{rung_name}`", dials_text(steering.spearman), dials_text(steering.slope), *errors])
    return markdown_table(["rung", "Spearman", "slope", *(f"error of {dial}" for dial in dials)], rows)


def baselines_results() -> str:
    """The methods, how they were measured, and who beats whom."""
    results = _read("baselines", BaselinesResult)
    if results is None:
        return _MISSING
    return f"{baselines_table(results)}\n{_against_steerlm(results)}\n{explain_baselines(results)}"


def _against_steerlm(results: BaselinesResult) -> str:
    lines = []
    for name, row in results.methods.items():
        if row.minus_steerlm is not None:
            quality = row.minus_steerlm.quality
            said = verdict(quality, "better than SteerLM", "worse than SteerLM")
            shown = f"{interval_text(quality.estimate)}; each seed {seeds_text(quality)}"
            lines.append(f"- `{name}`: {said} by reward ({shown}).")
    return "\n".join(lines) + "\n"


def ablation_environment() -> str:
    """Where it was run."""
    results = _read("ablation", AblationResult)
    return _MISSING if results is None else machine(results.conditions.environment)


def machine(facts: MachineFacts) -> str:
    """Say where something was run."""
    packages = ", ".join(f"{name} {version}" for name, version in facts.packages.items())
    return f"Python {facts.python}, {facts.platform}, {facts.cpus} CPU cores; {packages}.\n"


BLOCKS = {
    "ablation-ladder": ablation_ladder,
    "ablation-steps": ablation_steps,
    "ablation-dials": ablation_dials,
    "ablation-environment": ablation_environment,
    "baselines-results": baselines_results,
}


def main() -> None:
    """Copy what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--equal-steps", type=Path, metavar="OUT")
    parser.add_argument("--real", type=Path, metavar="OUT")
    given = parser.parse_args()
    for out, name in ((given.out, "ablation"), (given.equal_steps, "equal_steps"), (given.real, "real")):
        if out is not None:
            copy(out, name)


if __name__ == "__main__":
    main()
