"""What a card says about how good a model is: tables, figures for machines, and the plot of the response curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.reporting.formatting import estimate_text, markdown_text, number
from steerlm.reporting.report import headline_dials


class Table(NamedTuple):
    """A table of a card.

    Attributes:
        columns: its head.
        rows: a row per attribute.
        caption: how it was measured, as Markdown.
        metrics: the same for machines, see `Publication.metrics`.
        dataset: what it was measured on.
    """

    columns: list[str]
    rows: list[list[str]]
    caption: str
    metrics: list[dict[str, Any]]
    dataset: str


def steering_rows(results: Mapping[str, Any], model: str) -> Table:
    """Return the table of an evaluation: requested against obtained for every dial of one model."""
    found = [(name, dial, scorer) for m, name, dial, scorer in headline_dials(results) if m == model]
    same = len({scorer["id"] for _, _, scorer in found}) == 1
    columns = ["dial", "asked for: obtained", "n", "Spearman", "error, levels", "slope", "largest side effect"]
    rows, metrics = [], []
    for name, dial, scorer in found:
        obtained = ", ".join(f"{row['requested']:.0f}: {number(row['value'], 1)}" for row in dial["curve"])
        leak = dial["largest_leak"]
        side = f"{estimate_text(leak)} on {leak['attribute']}" if leak else "–"
        row = [
            name,
            obtained,
            str(dial["n"]),
            *(estimate_text(dial[key]) for key in ("spearman", "mae", "slope")),
            side,
        ]
        rows.append(row if same else [*row, _measured_by(scorer)])
        for key, kind, text in (("spearman", "spearmanr", "Spearman"), ("mae", "mae", "error in levels")):
            if dial[key] is not None and dial[key]["value"] is not None:
                value = round(dial[key]["value"], 4)
                metrics.append({"type": kind, "name": f"{name}: {text}, asked for and obtained", "value": value})
    used, settings = results["prompts"], results["settings"]
    caption = (
        f"{used['used']} held-out prompts, {results['asks']} answers, "
        f"temperature {settings['temperature']:g}, seed {results['seed']}; the other dials stand at: "
        f"{', '.join(settings['settings'])}. In brackets: 95 % intervals, clustered by prompt. A side effect is given "
        "in levels of the other attribute per level of the dial."
    )
    if same and found:
        caption += f" Measured by {_measured_by(found[0][2])}."
    cautions = [f"* {markdown_text(text)}" for text in results["cautions"]]
    caption = "\n".join([caption, *(["", *cautions] if cautions else [])])
    return Table(
        [*columns, *([] if same else ["measured by"])], rows, caption, metrics, f"held-out prompts (n = {used['used']})"
    )


def _measured_by(scorer: Mapping[str, Any]) -> str:
    independent = "" if scorer["independent"] else ", which is not independent: it labelled the training data"
    return f"{markdown_text(scorer['label'])}{independent}"


def curves_png(results: Mapping[str, Any], model: str) -> tuple[bytes, str] | None:
    """Plot the response curves of one model; returns the PNG and what is seen on it, None without ordinal dials."""
    from steerlm.reporting.charts import response_curves_png

    schema = AttributeSchema.from_dict(results["attributes"])
    report = results["models"][model]
    panels: dict[str, tuple[Sequence[float], Sequence[Mapping[str, Any]], Mapping[str, Any]]] = {}
    for attribute in schema.ordinal:
        scorer = report["scorers"].get(results["headline_scorer"].get(attribute.name))
        dial = None if scorer is None else scorer["dials"].get(attribute.name)
        if dial is None:
            continue
        scale = (attribute.minimum, attribute.maximum)
        others = {
            name: rows
            for name, rows in scorer.get("responses", {}).get(attribute.name, {}).items()
            if name != attribute.name and (schema[name].minimum, schema[name].maximum) == scale
        }
        panels[attribute.name] = (scale, dial["curve"], others)
    if not panels:
        return None
    seen = "Obtained against asked for; dashed: exact; shaded: 95 % interval; thin: the other attributes meanwhile"
    return response_curves_png(panels), seen


def accuracy_rows(report: Mapping[str, Any]) -> Table:
    """Return the table of an attribute model's report: its error on held-out labels."""
    columns = ["attribute", "n", "error, levels", "error of the mean label", "Spearman", "quadratic weighted kappa"]
    rows, metrics = [], []
    for name, row in report["attributes"].items():
        if "mae" not in row:
            continue
        keys = ("mae", "mean_baseline_mae", "spearman", "quadratic_weighted_kappa")
        figures = [estimate_text(row[key]) for key in keys]
        rows.append([name, str(row["n"]), *figures])
        if row["mae"]["value"] is not None:
            value = round(row["mae"]["value"], 4)
            metrics.append({"type": "mae", "name": f"{name}: error in levels, held-out labels", "value": value})
    caption = "On held-out labels of people. In brackets: 95 % intervals, clustered by prompt."
    return Table(columns, rows, caption, metrics, "held-out labels")
