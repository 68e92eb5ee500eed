"""The ablation ladder in the report: what each rung brings, and the paper's ladder beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerlm.errors import UserError
from steerlm.reporting.formatting import DASH, number
from steerlm.storage.files import read_json


def read_ablation(run_dir: Path, ablation: Path | None) -> dict[str, Any] | None:
    """Read an `ablation.json` that `steerlm ablate` wrote.

    Args:
        run_dir: where it is looked for.
        ablation: the file (or its folder) that the user named.

    Returns:
        The context of its templates: `results`, `header`, `table` (rows of text), `chart`; None where there is none.

    Raises:
        UserError: the named file is missing, or it is damaged or something else.
    """
    path = run_dir / "ablation.json" if ablation is None else ablation
    path = path / "ablation.json" if path.is_dir() else path
    if not path.is_file():
        if ablation is not None:
            raise UserError(f"no such ablation: {path}; give the ablation.json that `steerlm ablate` wrote")
        return None
    results = read_json(path)
    if not isinstance(results, dict) or "rungs" not in results:
        raise UserError(f"{path} is not an ablation: it has no rungs; give the file that `steerlm ablate` wrote")
    return _context(results)


def _context(results: Mapping[str, Any]) -> dict[str, Any]:
    from steerlm.reporting import charts

    rungs = results["rungs"]
    labels = {scorer["id"]: scorer for scorer in results["scorers"]}
    quoted = [labels[scorer] for scorer in dict.fromkeys(results["headline"].values())]
    said = "; ".join(
        f"{name}: {number(rung['quality']['value'])}, paper {number(rung['paper'], 1)}" for name, rung in rungs.items()
    )
    return {
        "results": results,
        "measured_by": quoted,
        "table": [_row(name, rung) for name, rung in rungs.items()],
        "chart": charts.ladder(rungs, f"Quality of every rung. {said}"),
        "paper_chart": charts.paper_ladder(rungs, "The paper's scores of the same rungs, percent of ChatGPT-3.5's."),
    }


def _row(name: str, rung: Mapping[str, Any]) -> dict[str, Any]:
    seeds = " / ".join(number(row["value"]) for row in rung["quality"]["seeds"].values())
    records = sorted({row["records"] for row in rung["training"]})
    return {
        "name": name,
        "adds": rung["adds"],
        "records": " to ".join(f"{n:,}" for n in dict.fromkeys((records[0], records[-1]))),
        "quality": rung["quality"],
        "seeds": seeds,
        "gain": rung["gain"]["quality"] if rung["gain"] else None,
        "error": rung["steering"].get("error"),
        "steerable": rung["steerable"],
        "paper": DASH if rung["paper"] is None else number(rung["paper"], 1),
    }
