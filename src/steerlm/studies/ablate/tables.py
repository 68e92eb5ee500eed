"""The ablation as a Markdown table and a plot, the paper's table beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from steerlm.reporting.report import number

_STYLE = {
    "svg.hashsalt": "steerlm",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "grid.color": "#d9d9d9",
}
_INK, _SEED, _PAPER = "#1f4e79", "#e07b39", "#555555"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def estimate(value: Mapping[str, Any] | None, digits: int = 2) -> str:
    """One figure with its interval over prompts; a dash where there is none."""
    if value is None or value.get("value") is None:
        return "–"
    text = number(value["value"], digits)
    if value["low"] is None:
        return text
    return f"{text} [{number(value['low'], digits)}, {number(value['high'], digits)}]"


def seeds(value: Mapping[str, Any], digits: int = 2) -> str:
    return " / ".join(number(row["value"], digits) for row in value["seeds"].values())


def seed_interval(value: Mapping[str, Any], digits: int = 2) -> str:
    row = value["over_seeds"]
    return "–" if row["low"] is None else f"[{number(row['low'], digits)}, {number(row['high'], digits)}]"


def ladder(results: Mapping[str, Any]) -> str:
    """The rungs, their quality and their steering, the paper's score in the last column."""
    header = [
        "rung",
        "adds",
        "records",
        "steps",
        "quality",
        "each seed",
        "gain over the rung above",
        "error of the dials",
        "paper, % of ChatGPT-3.5",
    ]
    rows = []
    for name, rung in results["rungs"].items():
        steering = rung["steering"].get("error")
        rows.append(
            [
                f"`{name}`",
                rung["adds"],
                _whole(rung["training"], "records"),
                ("+" if name == "bootstrap" else "") + _whole(rung["training"], "steps"),
                estimate(rung["quality"]),
                seeds(rung["quality"]),
                estimate(rung["gain"]["quality"]) if rung["gain"] else "–",
                estimate(steering) + ("" if rung["steerable"] else " (hears no request)"),
                number(rung["paper"], 1),
            ]
        )
    return markdown_table(header, rows)


def _whole(training: Sequence[Mapping[str, Any]], key: str) -> str:
    """A count that every seed shares, or its range."""
    counts = sorted({row[key] for row in training})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"


def explain(results: Mapping[str, Any]) -> str:
    quality = ", ".join(results["quality_attributes"])
    top, bottom = results["quality_scale"]
    return (
        f"Quality is the mean level of {quality} ({bottom} to {top}, high is good) over {results['prompts']} held-out "
        f"prompts, each asked for {setting_text(results['best_setting'])}; the error of the dials is the mean absolute "
        f"difference between the level asked for and the level obtained, every dial swept on {results['swept']} of "
        f"them. Measured by {measured_by(results)}. In brackets: 95 % intervals from resampled prompts, "
        f"{len(results['seeds'])} seed(s) pooled; each seed's own figure beside it. The gain is paired by prompt and "
        f"seed. Sampling: temperature {results['settings']['temperature']}, top-k {results['settings']['top_k']}. "
        "All rungs fine-tune the same base model with the same settings, as in the paper: the same number of epochs "
        "(or of steps where the recipe sets them) over their own records.\n"
    )


def measured_by(results: Mapping[str, Any]) -> str:
    scorers = {scorer["id"]: scorer for scorer in results["scorers"]}
    named = []
    for scorer_id in dict.fromkeys(results["headline"].values()):
        scorer = scorers[scorer_id]
        mark = "" if scorer["independent"] else " (which labelled the training data: not independent)"
        named.append(f"{scorer['label']}{mark}")
    return "; ".join(named)


def setting_text(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in setting.items())


def plot(results: Mapping[str, Any]) -> str:
    """Return the ladder as an SVG: our quality with intervals and every seed, and the paper's scores beside it."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    names = list(results["rungs"])
    rungs = list(results["rungs"].values())
    places = list(range(len(names)))[::-1]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 0.9 + 0.42 * len(names)), layout="constrained")
        ours, paper = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for place, rung in zip(places, rungs, strict=True):
            row = rung["quality"]
            if row["value"] is None:
                continue
            if row["low"] is not None:
                ours.plot([row["low"], row["high"]], [place, place], color=_INK, linewidth=2.2, solid_capstyle="butt")
            own = [seed["value"] for seed in row["seeds"].values()]
            ours.scatter(own, [place - 0.22] * len(own), s=12, color=_SEED, zorder=3, label="_")
            ours.scatter([row["value"]], [place], s=30, color=_INK, zorder=4)
        ours.set_yticks(places, names)
        ours.set_ylim(-0.6, len(names) - 0.4)
        ours.set_xlabel(f"quality (bar: 95 %, {len(results['seeds'])} seeds below it)")
        ours.set_title("here", fontsize=9)
        paper.scatter([rung["paper"] for rung in rungs], places, s=30, color=_PAPER)
        paper.set_xlabel("% of ChatGPT-3.5 (GPT-4 as judge)")
        paper.set_title("paper", fontsize=9)
        stream = io.StringIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Title": "Ablation ladder"})
    return stream.getvalue()
