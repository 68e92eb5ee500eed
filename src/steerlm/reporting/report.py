"""The report of a run: one self-contained HTML page and the same in Markdown.

    steerlm report runs/playground

Every number comes from the JSON files of the run folder; nothing is computed here, and parts that a run does not have
are left out. The page needs no network, no script and no font, and everything that comes from data is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import yaml

from steerlm.errors import UserError
from steerlm.reporting.formatting import DASH, count, estimate_text, markdown_text, number
from steerlm.reporting.page import Charts, write_out
from steerlm.reporting.steerbench import probe_text, steerbench_sections
from steerlm.reporting.studies import explain, ladder, read_ablation
from steerlm.reporting.suites import draw_suite, read_suites, suite_table
from steerlm.reporting.ways import ways_sections
from steerlm.results.codec import from_json
from steerlm.results.evaluation import Evaluation, ScorerLabel, read_evaluation
from steerlm.results.findings import findings_of_run
from steerlm.results.steerability import Steerability
from steerlm.results.steerbench import read_steerbench
from steerlm.results.studies import AblationResult
from steerlm.results.ways import read_ways
from steerlm.runs import STAGES, RunPaths
from steerlm.statistics.estimates import Estimate
from steerlm.storage.files import read_json, write_text


class LossCourse(NamedTuple):
    """The course of one training: (step, loss) pairs."""

    name: str
    training: list[tuple[int, float]]
    validation: list[tuple[int, float]]


class Tile(NamedTuple):
    """A figure at the top of the page."""

    title: str
    value: str
    interval: str
    detail: str


def write_report(run_dir: Path, ablation: Path | None = None, out: Path | None = None) -> Path:
    """Write `report.html` and `report.md` into a run folder (or into a folder that holds a `results.json`).

    Args:
        ablation: an `ablation.json` to show; None = the folder's own, if there is one.
        out: write this file alone, .html or .md, and nothing into the folder.

    Returns:
        The path of `report.html`, or `out`.

    Raises:
        UserError: the folder holds nothing to report on, or a damaged file.
    """
    charts = Charts()
    context = collect(run_dir, ablation, charts)
    markdown, page = write_out("report.jinja", context, charts, f"{context['name']} · steerlm report")
    if out is not None:
        write_text(out, page if out.suffix == ".html" else markdown)
        return out
    write_text(run_dir / "report.md", markdown)
    write_text(run_dir / "report.html", page)
    return run_dir / "report.html"


def steering_table(results: Evaluation) -> list[dict[str, str]]:
    """Return the requested-against-obtained table of the last model, a row per attribute, as text by column.

    Narrow enough for a terminal of 80 columns; who measured is a column only where it is not the exact measure.
    """
    found = [row for row in results.headline_dials() if row.model == results.final]
    levels = {tuple(point.requested for point in row.dial.curve) for row in found}
    # dials of one scale share a header; else every row says what it was asked for
    header = "obtained for\n" + _aligned([f"{x:.0f}" for x in next(iter(levels), ())]) if len(levels) == 1 else ""
    rows = []
    for _, name, dial, scorer in found:
        obtained = _aligned([number(point.estimate.value, 1) for point in dial.curve])
        if not header:
            obtained = _aligned([f"{point.requested:.0f}" for point in dial.curve]) + "\n" + obtained
        leak = dial.largest_leak
        row = {
            "attribute": name,
            header or "asked for, obtained": obtained,
            "Spearman": number(dial.spearman.value),
            "error\n(levels)": number(dial.mae.value),
            "largest\nside effect": f"{number(leak.estimate.value)} {leak.attribute}" if leak else DASH,
        }
        if any(other.scorer.id != "measure" for other in found):
            row["measured by"] = scorer.text
        rows.append(row)
    return rows


def group_table(results: Evaluation) -> list[dict[str, str]]:
    """Return how the dials of the last model follow on every group of prompts, as text by column."""
    groups = results.final_model.groups or {}
    names = [*dict.fromkeys(name for group in groups.values() for name in (*group.dials, *group.categorical))]
    rows = []
    for name in names:
        row = {"attribute": name}
        for title, group in groups.items():
            if name in group.categorical:
                row[title] = f"{number(group.categorical[name].value)} as asked"
            elif name in group.dials:
                dial = group.dials[name]
                row[title] = f"{number(dial.spearman.value)} (error {number(dial.mae.value)})"
        rows.append({"attribute": name, **{title: row.get(title, DASH) for title in groups}})
    return rows


def _aligned(texts: Sequence[str]) -> str:
    return " ".join(f"{text:>3}" for text in texts)


def collect(run_dir: Path, ablation: Path | None, charts: Charts) -> dict[str, object]:
    """Read what the template shows and draw its charts; a part that the run lacks is None or empty.

    Raises:
        UserError: nothing to report on, or a damaged file.
    """
    paths = RunPaths(run_dir)
    results = read_evaluation(run_dir)
    if results is not None and results.suite is not None:  # the folder of a suite alone
        results = None
    suites = read_suites(run_dir)
    stages = [row for row in (_read(paths.done(stage)) for stage in STAGES) if row and "seconds" in row]
    attribute_model, annotation = _read(paths.report("train_attribute_model")), _read(paths.annotation)
    rungs = read_ablation(run_dir, ablation)
    steerbench, ways = read_steerbench(run_dir), read_ways(run_dir)
    if not (results or suites or steerbench or ways or stages or attribute_model or annotation or rungs):
        raise UserError(f"{run_dir} holds nothing to report on: no done.json of a stage and no results.json")
    recipe_text = paths.recipe.read_text(encoding="utf-8") if paths.recipe.is_file() else None
    recipe = yaml.safe_load(recipe_text) if recipe_text else {}
    if results is not None:
        _draw_evaluation(results, charts)
    for suite in suites:
        draw_suite(suite, charts)
    if rungs is not None:
        _draw_ladder(rungs, charts)
    if attribute_model is not None:
        _draw_calibrations(attribute_model, results, charts)
    if annotation is not None:
        _draw_distributions(annotation, charts)
    losses = _losses(run_dir, charts)
    return {
        "name": recipe.get("name") or run_dir.resolve().name,
        "description": recipe.get("description", ""),
        "recipe": recipe_text,
        "seed": results.seed if results else recipe.get("seed"),
        "environment": _read(paths.environment),
        "stages": stages,
        "results": results,
        "findings": findings_of_run(paths),
        **(_of_evaluation(results) if results else {}),
        "suites": [
            (suite, [[markdown_text(c) for c in row] for row in suite_table(suite)], _quoted(suite)) for suite in suites
        ],
        "steerbench": steerbench,
        "steerbench_probe": probe_text(steerbench) if steerbench else "",
        "steerbench_sections": steerbench_sections(steerbench) if steerbench else "",
        "ways": ways,
        "ways_sections": ways_sections(ways) if ways else "",
        "ablation": rungs,
        "ladder": ladder(rungs) if rungs else "",
        "explanation": explain(rungs) if rungs else "",
        "attribute_model": attribute_model,
        "annotation": annotation,
        "bootstrap": _read(paths.report("bootstrap")),
        "losses": losses,
        "steps": _steps,
    }


def _read(path: Path) -> Any:
    """Read the report of another stage; None where there is none."""
    return _with_estimates(read_json(path)) if path.is_file() else None


def _with_estimates(value: Any) -> Any:
    """Turn what looks like an estimate into one."""
    if isinstance(value, list):
        return [_with_estimates(item) for item in value]
    if not isinstance(value, dict):
        return value
    if {"value", "low", "high"} <= value.keys():
        return from_json(Estimate, {"n": 0, "clusters": 0, **value})
    return {key: _with_estimates(item) for key, item in value.items()}


def _quoted(suite: Evaluation) -> ScorerLabel:
    assert suite.suite is not None
    return suite.scorer(suite.headline_scorer[suite.suite.dial])


def _of_evaluation(results: Evaluation) -> dict[str, object]:
    """What the template shows of an evaluation beside its results."""
    order = list(results.models)
    headline = sorted(results.headline_dials(), key=lambda row: -order.index(row.model))
    quoted = dict.fromkeys(results.headline_scorer.values())
    measured = {scorer: results.final_model.scorers[scorer] for scorer in quoted}
    return {
        "tiles": _tiles(results),
        # those of the last model on top
        "headline": headline,
        "several": len({row.scorer.id for row in headline}) > 1 or not all(row.scorer.independent for row in headline),
        "leakages": [
            (results.scorer(scorer), found.leakage) for scorer, found in measured.items() if any(found.leakage.values())
        ],
        "mixed": mixed_rows(results.final_model.steerability),
        "costs": [
            (dial, quality, estimate)
            for found in measured.values()
            for dial, row in found.quality_cost.items()
            for quality, estimate in row.items()
        ],
        "answers": [
            (model, group, statistics) for model, result in results.models.items()
            for group, statistics in result.answers.items()
        ],
    }  # fmt: skip


def mixed_rows(found: Steerability | None) -> list[list[str]]:
    """Return the table of single and mixed requests as text, what single dials predict among them."""
    if found is None:
        return []
    groups = {
        "one dial": found.single,
        "several dials": found.several,
        "several dials, leakage along": found.correlated,
        "several dials, leakage against": found.anticorrelated,
    }
    rows = [
        [
            name,
            count(group.rows),
            *(estimate_text(x) for x in (group.steering_error, group.miscalibration, group.side_effects)),
        ]
        for name, group in groups.items()
        if group is not None
    ]
    if found.prediction is not None:
        predicted = (found.prediction.miscalibration, found.prediction.side_effects)
        rows.insert(2, ["several dials, predicted from single ones", DASH, DASH, *map(number, predicted)])
    return rows


def _steps(results: Evaluation, dial: str, requested: object) -> str:
    """A level as a row of dots, on short ordinal scales."""
    attribute = results.attributes[dial]
    width = attribute.maximum - attribute.minimum
    if attribute.kind != "ordinal" or width > 12 or not isinstance(requested, int):
        return ""
    full = requested - attribute.minimum
    return f" {'●' * full}{'○' * (width - full)}"


def _tiles(results: Evaluation) -> list[Tile]:
    """The figures at the top: of the last model, the worst attribute each."""
    dials = {row.attribute: row.dial for row in results.headline_dials() if row.model == results.final}
    tiles = []

    def add(title: str, estimate: Estimate, detail: str) -> None:
        value, _, interval = estimate_text(estimate).partition(" ")
        tiles.append(Tile(title, value, interval, detail))

    if found := {name: dial.spearman for name, dial in dials.items() if math.isfinite(dial.spearman.value)}:
        name = min(found, key=lambda n: found[n].value)
        add("asked and obtained agree", found[name], f"Spearman, lowest: {name}")
    if found := {name: dial.mae for name, dial in dials.items() if math.isfinite(dial.mae.value)}:
        name = max(found, key=lambda n: found[n].value)
        add("error in levels", found[name], f"mean, highest: {name}")
    leaks = {name: dial.largest_leak for name, dial in dials.items() if dial.largest_leak is not None}
    if leaks:
        name, leak = max(leaks.items(), key=lambda row: row[1].estimate.value)
        add("largest side effect", leak.estimate, f"levels of {leak.attribute} per level of {name}")
    for rows in list((results.label_quality or {}).values())[:1]:
        if found := {name: row.ratio for name, row in rows.items() if math.isfinite(row.ratio.value)}:
            name = max(found, key=lambda n: found[n].value)
            add("label error, predicted / human", found[name], f"below 1 is better, highest: {name}")
    return tiles


def _draw_evaluation(results: Evaluation, page: Charts) -> None:
    from steerlm.reporting import charts

    schema = results.attributes
    for attribute in schema.ordinal:
        curves = {row.model: row.dial.curve for row in results.headline_dials() if row.attribute == attribute.name}
        if not curves:
            continue
        others = results.side_curves(attribute.name, results.final)
        said = "; ".join(
            f"{model}: " + ", ".join(f"{p.requested:.0f} gives {number(p.estimate.value, 1)}" for p in points)
            for model, points in {**curves, **others}.items()
        )
        label = f"{attribute.name} obtained against asked for. {said}"
        scale = (attribute.minimum, attribute.maximum)
        page.add("curve", attribute.name, charts.response_curve(scale, curves, label, others))
    lines = [(f"s{i}", model) for i, model in enumerate(results.models, 1)]
    others_of = f"the other attributes of {results.final}, which should stay level"
    page.legend("curves-legend", [*lines, ("exact", "exact"), ("others", others_of)])
    for pair in results.final_model.coverage.pairs:
        if pair.counts is not None:
            label = f"{pair.first} (up) and {pair.second} (across): {pair.seen} of {pair.possible} pairs seen"
            caption = f"{pair.first} \N{UPWARDS ARROW} {pair.second} \N{RIGHTWARDS ARROW}"
            page.add("pair", caption, charts.pair_map(pair.counts, label), f"{pair.seen} of {pair.possible}")


def _draw_ladder(ablation: AblationResult, page: Charts) -> None:
    from steerlm.reporting import charts

    rungs = ablation.rungs
    said = "; ".join(
        f"{name}: {estimate_text(rung.figures.quality.estimate)}, paper {number(rung.paper, 1)}"
        for name, rung in rungs.items()
    )
    drawing = charts.ladder(rungs, f"Quality of every rung. {said}")
    page.add("ladder", "here", drawing, "large: all seeds with interval; small: each seed")
    drawing = charts.paper_ladder(rungs, "The paper's scores of the same rungs, percent of ChatGPT-3.5's.")
    page.add("ladder", "paper", drawing)


def _draw_calibrations(report: Mapping[str, Any], results: Evaluation | None, page: Charts) -> None:
    from steerlm.reporting import charts

    ranges = {a.name: (a.minimum, a.maximum) for a in results.attributes.ordinal} if results else {}
    for name, row in report["attributes"].items():
        if rows := row.get("calibration"):
            said = ", ".join(
                f"{number(r['mean_predicted'], 1)}: {number(r['mean_truth'], 1)} (n {r['n']})" for r in rows
            )
            scale = ranges.get(name, (rows[0]["bin"], rows[-1]["bin"]))
            label = f"{name}, mean human label by prediction. {said}"
            page.add("calibration", name, charts.calibration(scale, rows, label))


def _draw_distributions(annotation: Mapping[str, Any], page: Charts) -> None:
    from steerlm.reporting import charts

    for name, histogram in annotation["histograms"].items():
        total = sum(histogram.values()) or 1
        said = ", ".join(f"{value}: {100 * n / total:.0f} %" for value, n in histogram.items())
        page.add("distribution", name, charts.distribution(histogram, f"{name} in the annotated data. {said}"))


def _losses(run_dir: Path, page: Charts) -> list[LossCourse]:
    """Read and draw every `metrics.jsonl` below the run folder, in the order of the stages."""
    from steerlm.reporting import charts

    page.legend("losses-legend", [("s1", "training loss"), ("s2", "validation loss")])
    out = []
    for path in (path for stage in STAGES for path in sorted((run_dir / stage).rglob("metrics.jsonl"))):
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.endswith(b"}")]
        training = [(row["step"], row["loss"]) for row in rows if "loss" in row]
        validation = [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]
        if training:
            name = path.parent.relative_to(run_dir).as_posix()
            label = f"{name}: training loss {number(training[0][1])} to {number(training[-1][1])}"
            if validation:
                label += f", lowest validation loss {number(min(loss for _, loss in validation))}"
            page.add("loss", name, charts.losses(training, validation, label))
            out.append(LossCourse(name, training, validation))
    return out
