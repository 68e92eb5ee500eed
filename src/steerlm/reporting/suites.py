"""The paper's experiments in the report: mean score per level, and what the paper published beside it."""

from __future__ import annotations

import math
from pathlib import Path

from steerlm.reporting.formatting import DASH, MINUS, estimate_text, number
from steerlm.reporting.page import Charts
from steerlm.results.dials import CurvePoint
from steerlm.results.evaluation import SUITES, Evaluation, SuiteScores, evaluation_file
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


def draw_suite(results: Evaluation, charts_of_page: Charts) -> None:
    """Draw the scores by level, here and in the paper, as far as it published them."""
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
        f"{model}: " + ", ".join(f"{p.requested:g} gives {number(p.estimate.value, 3)}" for p in points)
        for model, points in curves.items()
    )
    drawing = charts.scores_by_level(curves, f"Mean {suite.dial} score by level asked for. {said}")
    charts_of_page.add(f"suite-{suite.name}", "here", drawing, results.scorer(headline).label)
    if suite.paper:
        published = [CurvePoint(x, Estimate(score, math.nan, math.nan, 0, 0)) for x, score in suite.paper.items()]
        label = f"The paper's scores by level: {', '.join(number(x, 3) for x in suite.paper.values())}"
        drawing = charts.scores_by_level({"paper": published}, label)
        charts_of_page.add(f"suite-{suite.name}", "paper", drawing, suite.published.measured_by)
    if len(results.models) > 1:
        charts_of_page.legend(f"legend-{suite.name}", [(f"s{i}", model) for i, model in enumerate(results.models, 1)])
