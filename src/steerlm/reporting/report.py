"""The report of a run: one self-contained HTML page and the same in Markdown.

    steerlm report runs/playground

Every number comes from the JSON files of the run folder; nothing is computed here, and parts that a run does not have
are left out. The page needs no network, no script and no font, and everything that comes from data is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from steerlm.attributes import AttributeSchema
from steerlm.conversation import atomic_writer
from steerlm.errors import UserError
from steerlm.reporting.ablation import read_ablation
from steerlm.reporting.formatting import DASH, inline_code
from steerlm.reporting.formatting import markdown_quote as markdown_quote
from steerlm.reporting.formatting import markdown_text as markdown_text
from steerlm.reporting.formatting import number as number
from steerlm.reporting.formatting import percent as percent
from steerlm.reporting.formatting import shade as shade
from steerlm.reporting.suites import read_suites, suite_context
from steerlm.results.codec import to_json
from steerlm.results.evaluation import Evaluation, read_evaluation
from steerlm.runs import STAGES
from steerlm.storage.files import read_json


class Loss(NamedTuple):
    """The course of one training: (step, loss) pairs."""

    stage: str
    training: list[tuple[int, float]]
    validation: list[tuple[int, float]]


def write_report(run_dir: Path, ablation: Path | None = None) -> Path:
    """Write `report.html` and `report.md` into a run folder (or into a folder that holds a `results.json`).

    Args:
        run_dir: the folder.
        ablation: an `ablation.json` to show; None = the folder's own, if there is one.

    Returns:
        The path of `report.html`.

    Raises:
        UserError: the folder holds nothing to report on, or a damaged file.
    """
    context = collect(run_dir, ablation)
    environment = _environment()
    for template, name in (("report.html", "report.html"), ("markdown.html", "report.md")):
        with atomic_writer(run_dir / name) as stream:
            stream.write(environment.get_template(template).render(context).encode())
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


def _aligned(texts: Sequence[str]) -> str:
    return " ".join(f"{text:>3}" for text in texts)


def headline_dials(results: Mapping[str, Any]) -> Iterator[tuple[str, str, Any, Any]]:
    """Yield (model, attribute, dial report, scorer) of the scorer that the headline quotes for each attribute."""
    scorers = {scorer["id"]: scorer for scorer in results["scorers"]}
    for model, report in results["models"].items():
        for attribute, scorer in results["headline_scorer"].items():
            dial = report["scorers"][scorer]["dials"].get(attribute)
            if dial is not None:
                yield model, attribute, dial, scorers[scorer]


def collect(run_dir: Path, ablation: Path | None = None) -> dict[str, Any]:
    """Read what the templates show; a part that the run lacks is None or empty.

    Raises:
        UserError: nothing to report on, or a damaged file.
    """
    evaluation = read_evaluation(run_dir)
    suites = [suite_context(found) for found in read_suites(run_dir)]
    alone = evaluation is not None and evaluation.suite is not None  # the folder of a suite alone
    results = None if evaluation is None or alone else to_json(evaluation)
    stages = [row for row in (_read(run_dir / stage / "done.json") for stage in STAGES) if row and "seconds" in row]
    attribute_model = _read(run_dir / "train_attribute_model" / "report.json")
    annotation = _read(run_dir / "annotate" / "summary.json")
    ladder = read_ablation(run_dir, ablation)
    if not (results or suites or stages or attribute_model or annotation or ladder):
        raise UserError(f"{run_dir} holds nothing to report on: no done.json of a stage and no results.json")
    recipe_path = run_dir / "recipe.yaml"
    recipe_text = recipe_path.read_text(encoding="utf-8") if recipe_path.is_file() else None
    recipe = yaml.safe_load(recipe_text) if recipe_text else {}
    return {
        "name": recipe.get("name") or run_dir.resolve().name,
        "description": recipe.get("description", ""),
        "recipe": recipe_text,
        "seed": results["seed"] if results else recipe.get("seed"),
        "environment": _read(run_dir / "environment.json"),
        "stages": stages,
        "results": results,
        "suites": suites,
        "ablation": ladder,
        "headline": _final_first(results) if results else [],
        "scorer_labels": {row["id"]: row["label"] for row in results["scorers"]} if results else {},
        "final": list(results["models"])[-1] if results else None,
        "tiles": _tiles(results) if results else [],
        "curves": _curves(evaluation) if evaluation is not None and results else {},
        "leakages": _leakages(results) if results else [],
        "pairs": _pairs(results) if results else [],
        "attribute_model": attribute_model,
        "calibrations": _calibrations(attribute_model, results) if attribute_model else {},
        "annotation": annotation,
        "distributions": _distributions(annotation) if annotation else {},
        "bootstrap": _read(run_dir / "bootstrap" / "report.json"),
        "losses": _losses(run_dir),
    }


def _read(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _final_first(results: Mapping[str, Any]) -> list[tuple[str, str, Any, Any]]:
    """The headline's rows, those of the last model on top."""
    order = list(results["models"])
    return sorted(headline_dials(results), key=lambda row: -order.index(row[0]))


def _tiles(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The figures at the top: of the last model, the worst attribute each."""
    final = list(results["models"])[-1]
    dials = {attribute: dial for model, attribute, dial, _ in headline_dials(results) if model == final}
    tiles = []

    def add(title: str, estimate: Mapping[str, Any], detail: str) -> None:
        low, high = estimate["low"], estimate["high"]
        interval = f"{number(low)} to {number(high)}" if low is not None else estimate.get("note", "")
        tiles.append({"title": title, "value": number(estimate["value"]), "interval": interval, "detail": detail})

    def known(rows: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
        return [(n, row[key]) for n, row in rows.items() if row[key] is not None and row[key]["value"] is not None]

    if found := known(dials, "spearman"):
        name, estimate = min(found, key=lambda row: row[1]["value"])
        add("asked and obtained agree", estimate, f"Spearman, lowest: {name}")
    if found := known(dials, "mae"):
        name, estimate = max(found, key=lambda row: row[1]["value"])
        add("error in levels", estimate, f"mean, highest: {name}")
    if found := known(dials, "largest_leak"):
        name, estimate = max(found, key=lambda row: row[1]["value"])
        add("largest side effect", estimate, f"levels of {estimate['attribute']} per level of {name}")
    for rows in list(results["label_quality"].values())[:1]:
        if found := known(rows, "ratio"):
            name, estimate = max(found, key=lambda row: row[1]["value"])
            add("label error, predicted / human", estimate, f"below 1 is better, highest: {name}")
    return tiles


def _curves(results: Evaluation) -> dict[str, Any]:
    from steerlm.reporting import charts

    schema = results.attributes
    out = {}
    for attribute in schema.ordinal:
        curves = {row.model: row.dial.curve for row in results.headline_dials() if row.attribute == attribute.name}
        if curves:
            scorer = results.headline_scorer[attribute.name]
            responses = results.final_model.scorers[scorer].responses.get(attribute.name, {})
            scale = (attribute.minimum, attribute.maximum)
            others = {
                name: points
                for name, points in responses.items()
                if name != attribute.name and (schema[name].minimum, schema[name].maximum) == scale
            }
            said = "; ".join(
                f"{model}: " + ", ".join(f"{p.requested:.0f} gives {number(p.estimate.value, 1)}" for p in points)
                for model, points in {**curves, **others}.items()
            )
            label = f"{attribute.name} obtained against asked for. {said}"
            out[attribute.name] = charts.response_curve(scale, curves, label, others)
    return out


def _pairs(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A small map per pair of attributes: which of their levels occur together in the training labels."""
    from steerlm.reporting import charts

    final = list(results["models"].values())[-1]
    out = []
    for row in final["coverage"].get("pairs", []):
        chart = None
        if row["counts"] is not None:
            label = f"{row['first']} (up) and {row['second']} (across): {row['seen']} of {row['possible']} pairs seen"
            chart = charts.pair_map(row["counts"], label)
        out.append({**row, "chart": chart})
    return out


def _leakages(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The leakage matrices of the last model, one per scorer that the headline quotes."""
    final = list(results["models"].values())[-1]
    scorers = {scorer["id"]: scorer for scorer in results["scorers"]}
    quoted = dict.fromkeys(results["headline_scorer"].values())
    matrices = [(scorers[scorer], final["scorers"][scorer]["leakage"]) for scorer in quoted]
    return [
        {"scorer": scorer, "rows": matrix, "columns": list(next(iter(matrix.values()), {}))}
        for scorer, matrix in matrices
        if any(matrix.values())
    ]


def _calibrations(report: Mapping[str, Any], results: Mapping[str, Any] | None) -> dict[str, Any]:
    from steerlm.reporting import charts

    ranges = {}
    if results:
        ranges = {a.name: (a.minimum, a.maximum) for a in AttributeSchema.from_dict(results["attributes"]).ordinal}
    out = {}
    for name, row in report["attributes"].items():
        rows = row.get("calibration")
        if rows:
            said = ", ".join(
                f"{number(r['mean_predicted'], 1)}: {number(r['mean_truth'], 1)} (n {r['n']})" for r in rows
            )
            low_high = ranges.get(name, (rows[0]["bin"], rows[-1]["bin"]))
            out[name] = charts.calibration(low_high, rows, f"{name}, mean human label by prediction. {said}")
    return out


def _distributions(annotation: Mapping[str, Any]) -> dict[str, Any]:
    from steerlm.reporting import charts

    out = {}
    for name, histogram in annotation["histograms"].items():
        total = sum(histogram.values()) or 1
        said = ", ".join(f"{value}: {100 * n / total:.0f} %" for value, n in histogram.items())
        out[name] = charts.distribution(histogram, f"{name} in the annotated data. {said}")
    return out


def _losses(run_dir: Path) -> dict[str, Any]:
    """Plots of every `metrics.jsonl` below the run folder, in the order of the stages."""
    from steerlm.reporting import charts

    out = {}
    for stage in STAGES:
        for path in sorted((run_dir / stage).rglob("metrics.jsonl")):
            rows = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.endswith(b"}")]
            training = [(row["step"], row["loss"]) for row in rows if "loss" in row]
            validation = [(row["step"], row["eval_loss"]) for row in rows if "eval_loss" in row]
            if not training:
                continue
            name = path.parent.relative_to(run_dir).as_posix()
            label = f"{name}: training loss {number(training[0][1])} to {number(training[-1][1])}"
            if validation:
                label += f", lowest validation loss {number(min(loss for _, loss in validation))}"
            out[name] = charts.losses(training, validation, label)
    return out


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("steerlm.reporting", "assets"),
        autoescape=lambda name: name != "markdown.html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": number, "percent": percent, "md": markdown_text, "quote": markdown_quote}
    environment.filters |= {"inline_code": inline_code}
    environment.globals |= {"shade": shade}
    return environment
