"""The paper's experiments in the report: mean score per level, and what the paper published beside it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from steerlm.reporting.formatting import DASH, MINUS, estimate_text, number
from steerlm.results.codec import to_json
from steerlm.results.evaluation import SUITES, CurvePoint, Evaluation, SuiteScores, evaluation_file
from steerlm.statistics.estimates import Estimate


def read_suites(run_dir: Path) -> list[Evaluation]:
    """Read the suites of a run folder, or of a folder that is a suite's own.

    Raises:
        UserError: a damaged file.
    """
    places = [run_dir / "evaluate" / "suites" / name for name in SUITES]
    places += [run_dir / "suites" / name for name in SUITES]
    files = [path / "results.json" for path in [*places, run_dir]]
    found = [evaluation_file(path) for path in files if path.is_file()]
    return [results for results in found if results.suite is not None]


def suite_table(results: Evaluation) -> list[list[str]]:
    """Return header and rows as text: the level, the mean score by every model and scorer, and the paper's."""
    suite = results.suite
    assert suite is not None
    paper = suite.paper
    columns = _columns(results)
    header = ["asked for", *(f"{model}, {label}" for model, label, _ in columns), "paper"]
    rows = []
    for i, level in enumerate(suite.levels):
        papers = columns[0][2].levels[i].paper_levels
        published = ", ".join(number(paper[p], 3) for p in papers if p in paper) or DASH
        of_paper = "" if papers == [level] else f" (paper: {' and '.join(map(str, papers))})"
        scores = [estimate_text(found.levels[i].score, 3) for _, _, found in columns]
        rows.append([f"{suite.dial} {level}{of_paper}", *scores, published])
    published = number(paper[max(paper)] - paper[min(paper)], 3) if paper else DASH
    rows.append([f"highest {MINUS} lowest", *(estimate_text(found.rise, 3) for _, _, found in columns), published])
    return [header, *rows]


def _columns(results: Evaluation) -> list[tuple[str, str, SuiteScores]]:
    """(model, who measured, scores) of all that measured the suite's dial."""
    return [
        (model, results.scorer(scorer).text, found.suite)
        for model, result in results.models.items()
        for scorer, found in result.scorers.items()
        if found.suite is not None
    ]


def suite_context(results: Evaluation) -> dict[str, Any]:
    """Return the context of the suite's templates."""
    from steerlm.reporting import charts

    suite = results.suite
    assert suite is not None
    headline = results.headline_scorer[suite.dial]
    curves = {}
    for model, result in results.models.items():
        scores = result.scorers[headline].suite
        assert scores is not None
        curves[model] = [CurvePoint(float(row.level), row.score) for row in scores.levels]
    said = "; ".join(
        f"{m}: " + ", ".join(f"{p.requested:g} gives {number(p.estimate.value, 3)}" for p in points)
        for m, points in curves.items()
    )
    published = [CurvePoint(x, Estimate(score, math.nan, math.nan, 0, 0)) for x, score in suite.paper.items()]
    header, *table = suite_table(results)
    return {
        "results": to_json(results),
        "header": header,
        "table": table,
        "measured_by": results.scorer(headline),
        "chart": charts.scores_by_level(curves, f"Mean {suite.dial} score by level asked for. {said}"),
        "published_chart": charts.scores_by_level(
            {"paper": published}, f"The paper's scores: {', '.join(number(x, 3) for x in suite.paper.values())}"
        ) if published else None,
    }  # fmt: skip
