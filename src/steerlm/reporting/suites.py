"""The paper's experiments in the report: mean score per level, and what the paper published beside it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steerlm.reporting.formatting import DASH, estimate_text, number
from steerlm.stages.evaluate.suites import SUITES, published_scores
from steerlm.storage.files import read_json


def read_suites(run_dir: Path) -> list[dict[str, Any]]:
    """Read the suites of a run folder, or of a folder that is a suite's own.

    Returns:
        Per suite the context of its templates: `results`, `table` (header and rows of text), `chart`, and the paper's
        `published_chart` (None where it published no figure).

    Raises:
        UserError: a damaged file.
    """
    places = [run_dir / "evaluate" / "suites" / name for name in SUITES] + [
        run_dir / "suites" / name for name in SUITES
    ]
    found = [read_json(path / "results.json") for path in [*places, run_dir] if (path / "results.json").is_file()]
    return [_context(results) for results in found if "suite" in results]


def suite_table(results: Mapping[str, Any]) -> list[list[str]]:
    """Return header and rows as text: the level, the mean score by every model and scorer, and the paper's."""
    suite = results["suite"]
    paper = published_scores(suite)
    columns = _columns(results)
    header = ["asked for", *(f"{model}, {label}" for model, label, _ in columns), "paper"]
    rows = []
    for i, level in enumerate(suite["levels"]):
        papers = columns[0][2]["levels"][i]["paper_levels"]
        published = ", ".join(number(paper[p], 3) for p in papers if p in paper) or DASH
        of_paper = " and ".join(map(str, papers))
        first = f"{suite['dial']} {level}" + ("" if papers == [level] else f" (paper: {of_paper})")
        scores = [estimate_text(found["levels"][i]["score"], 3) for _, _, found in columns]
        rows.append([first, *scores, published])
    published = number(paper[max(paper)] - paper[min(paper)], 3) if paper else DASH
    rows.append(
        ["highest \N{MINUS SIGN} lowest", *(estimate_text(found["rise"], 3) for _, _, found in columns), published]
    )
    return [header, *rows]


def _columns(results: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """(model, who measured, scores) of all that measured the suite's dial."""
    scorers = {
        row["id"]: row["label"] + ("" if row["independent"] else " (not independent)") for row in results["scorers"]
    }
    return [
        (model, scorers[scorer], found["suite"])
        for model, report in results["models"].items()
        for scorer, found in report["scorers"].items()
        if "suite" in found
    ]


def _context(results: Mapping[str, Any]) -> dict[str, Any]:
    from steerlm.reporting import charts

    suite = results["suite"]
    headline = results["headline_scorer"][suite["dial"]]
    curves = {}
    for model, report in results["models"].items():
        rows = report["scorers"][headline]["suite"]["levels"]
        curves[model] = [{"requested": row["level"], **row["score"]} for row in rows]
    said = "; ".join(
        f"{m}: " + ", ".join(f"{r['requested']} gives {number(r['value'], 3)}" for r in rows)
        for m, rows in curves.items()
    )
    paper = published_scores(suite)
    published = [{"requested": level, "value": score, "low": None, "high": None} for level, score in paper.items()]
    header, *table = suite_table(results)
    measured_by = next(row for row in results["scorers"] if row["id"] == headline)
    return {
        "results": results,
        "header": header,
        "table": table,
        "measured_by": measured_by,
        "chart": charts.scores_by_level(curves, f"Mean {suite['dial']} score by level asked for. {said}"),
        "published_chart": charts.scores_by_level(
            {"paper": published}, f"The paper's scores by level: {', '.join(number(x, 3) for x in paper.values())}"
        ) if paper else None,
    }  # fmt: skip
