"""What a card says about how good a model is: tables, figures for machines, and the plot of the response curves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from steerlm.reporting.formatting import DASH, estimate_text, markdown_text, number
from steerlm.results.codec import from_json
from steerlm.results.evaluation import Evaluation, ScorerLabel
from steerlm.statistics.estimates import Estimate


class Table(NamedTuple):
    """A table of a card.

    Attributes:
        caption: how it was measured, as Markdown.
        metrics: the same for machines, see `Publication.metrics`.
        dataset: what it was measured on.
    """

    columns: list[str]
    rows: list[list[str]]
    caption: str
    metrics: list[dict[str, object]]
    dataset: str


def steering_rows(results: Evaluation, model: str) -> Table:
    """Return the table of an evaluation: requested against obtained for every dial of one model."""
    found = [row for row in results.headline_dials() if row.model == model]
    same = len({row.scorer.id for row in found}) == 1
    columns = ["dial", "asked for: obtained", "n", "Spearman", "error, levels", "slope", "largest side effect"]
    rows, metrics = [], []
    for _, name, dial, scorer in found:
        obtained = ", ".join(f"{point.requested:.0f}: {number(point.estimate.value, 1)}" for point in dial.curve)
        leak = dial.largest_leak
        side = f"{estimate_text(leak.estimate)} on {leak.attribute}" if leak else DASH
        figures = [estimate_text(estimate) for estimate in (dial.spearman, dial.mae, dial.slope)]
        row = [name, obtained, str(dial.n), *figures, side]
        rows.append(row if same else [*row, _measured_by(scorer)])
        for estimate, kind, text in ((dial.spearman, "spearmanr", "Spearman"), (dial.mae, "mae", "error in levels")):
            if math.isfinite(estimate.value):
                name_of = f"{name}: {text}, asked for and obtained"
                metrics.append({"type": kind, "name": name_of, "value": round(estimate.value, 4)})
    used, drawing = results.prompts.used, results.drawing
    caption = (
        f"{used} held-out prompts, {results.asks} answers, "
        f"temperature {drawing.temperature:g}, seed {results.seed}; the other dials stand at: "
        f"{', '.join(drawing.settings)}. In brackets: 95 % intervals, clustered by prompt. A side effect is given "
        "in levels of the other attribute per level of the dial."
    )
    if same and found:
        caption += f" Measured by {_measured_by(found[0].scorer)}."
    cautions = [f"* {markdown_text(text)}" for text in results.cautions]
    caption = "\n".join([caption, *(["", *cautions] if cautions else [])])
    return Table(
        [*columns, *([] if same else ["measured by"])], rows, caption, metrics, f"held-out prompts (n = {used})"
    )


def _measured_by(scorer: ScorerLabel) -> str:
    independent = "" if scorer.independent else ", which is not independent: it labelled the training data"
    return f"{markdown_text(scorer.label)}{independent}"


def curves_png(results: Evaluation, model: str) -> tuple[bytes, str] | None:
    """Plot the response curves of one model; returns the PNG and what is seen on it, None without ordinal dials."""
    from steerlm.reporting.charts import response_curves_png

    panels = {}
    for row in results.headline_dials():
        if row.model == model:
            attribute = results.attributes[row.attribute]
            scale = (attribute.minimum, attribute.maximum)
            panels[attribute.name] = (scale, row.dial.curve, results.side_curves(attribute.name, model))
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
        figures = [estimate_text(from_json(Estimate, row[key])) for key in keys]
        rows.append([name, str(row["n"]), *figures])
        if row["mae"]["value"] is not None:
            value = round(row["mae"]["value"], 4)
            metrics.append({"type": "mae", "name": f"{name}: error in levels, held-out labels", "value": value})
    caption = "On held-out labels of people. In brackets: 95 % intervals, clustered by prompt."
    return Table(columns, rows, caption, metrics, "held-out labels")
