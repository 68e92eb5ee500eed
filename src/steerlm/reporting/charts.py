"""Small plots for the report, as inline SVG that takes its colours from the page.

Colours are drawn as placeholders and replaced by CSS variables, so that one plot serves light and dark pages and paper.
Text stays text. Equal data gives equal bytes. Where matplotlib is not installed a line in a plot's place says so.
"""

from __future__ import annotations

import functools
import hashlib
import io
import re
from collections.abc import Callable, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, ParamSpec

from markupsafe import Markup, escape

from steerlm.errors import UserError, needs_extra
from steerlm.results.dials import CurvePoint
from steerlm.results.studies import RungResult
from steerlm.statistics.estimates import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_SERIES = ("#0a0001", "#0a0002", "#0a0003", "#0a0004")
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--grid"} | {
    placeholder: f"--series-{i}" for i, placeholder in enumerate(_SERIES, 1)
}
_ON_WHITE = {_INK: "#1b1f24", _MUTED: "#68707c", _GRID: "#e3e6ea"} | dict(
    zip(_SERIES, ("#2f62d0", "#d9722a", "#2f8f62", "#8a5bc4"), strict=True)
)
"""The colours of a file that cannot know its page."""
_STYLE = {
    "svg.hashsalt": "steerlm",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
}
Curve = Sequence[CurvePoint]
Arguments = ParamSpec("Arguments")


def _plot(draw: Callable[Arguments, Markup]) -> Callable[Arguments, Markup]:
    """Let a function say what is missing in place of its plot."""

    @functools.wraps(draw)
    def drawn(*arguments: Arguments.args, **named: Arguments.kwargs) -> Markup:
        try:
            return draw(*arguments, **named)
        except UserError as error:
            return Markup('<p class="note">{}</p>').format(str(error))

    return drawn


@_plot
def response_curve(
    levels: Sequence[float], curves: Mapping[str, Curve], label: str, others: Mapping[str, Curve] | None = None
) -> Markup:
    """Plot what was obtained against what was asked for, one line with interval per model, and the exact line.

    Args:
        levels: lowest and highest level of the scale (both axes).
        label: says what is seen, for people who do not see it.
        others: the other attributes of the same scale while this dial turns; thin lines that should be level.
    """
    figure, axes = _panel()
    _draw_response(axes, levels, curves, others or {}, dict(zip(curves, _SERIES, strict=False)), _MUTED)
    return _svg(figure, label)


def response_curves_png(panels: Mapping[str, tuple[Sequence[float], Curve, Mapping[str, Curve]]]) -> bytes:
    """Plot the response curves of several dials side by side, as a PNG on white for pages that take no SVG of ours.

    Args:
        panels: attribute -> its lowest and highest level, its curve, and the others' curves as in `response_curve`.
    """
    with needs_extra("report", "a plot"):
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    style = {key: _ON_WHITE.get(value, value) if isinstance(value, str) else value for key, value in _STYLE.items()}
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(style | {"figure.facecolor": "white", "savefig.facecolor": "white"}):
        figure = Figure(figsize=(2.6 * columns, 2.4 * rows), dpi=200, layout="constrained")
        for place, (title, (levels, curve, others)) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(rows, columns, place)
            _draw_response(axes, levels, {title: curve}, others, {title: _ON_WHITE[_SERIES[0]]}, _ON_WHITE[_MUTED])
            axes.set_title(title, loc="left", fontsize=10)
        stream = io.BytesIO()
        # without the version of matplotlib equal data give equal bytes
        FigureCanvasAgg(figure).print_png(stream, metadata={"Software": None})
    return stream.getvalue()


def _draw_response(
    axes: Any,
    levels: Sequence[float],
    curves: Mapping[str, Curve],
    others: Mapping[str, Curve],
    colours: Mapping[str, str],
    muted: str,
) -> None:
    low, high = levels
    for points in others.values():
        x, y = [point.requested for point in points], [point.estimate.value for point in points]
        axes.plot(x, y, color=muted, linewidth=0.9, alpha=0.55)
    axes.plot([low, high], [low, high], color=muted, linewidth=0.9, linestyle=(0, (4, 3)))
    for name, colour in colours.items():
        _band(axes, curves[name], colour, markersize=4)
    margin = 0.06 * (high - low)
    axes.set(xlabel="asked for", ylabel="obtained", xlim=(low - margin, high + margin))
    if high - low <= 10:
        axes.set_xticks(range(int(low), int(high) + 1))
        axes.set_yticks(range(int(low), int(high) + 1))


def _band(axes: Any, points: Curve, colour: str, markersize: float | None = None) -> None:
    """Draw a line with its interval; undefined points leave gaps."""
    x = [point.requested for point in points]
    low, value, high = ([getattr(point.estimate, name) for point in points] for name in ("low", "value", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.22, linewidth=0)
    axes.plot(x, value, color=colour, linewidth=1.8, marker="o", markersize=markersize)


@_plot
def calibration(levels: Sequence[float], rows: Sequence[Mapping[str, Any]], label: str) -> Markup:
    """Plot the mean human label per predicted level; the size of a point is its number of labels."""
    figure, axes = _panel()
    low, high = levels
    axes.plot([low, high], [low, high], color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    total = sum(row["n"] for row in rows)
    x, y = [row["mean_predicted"] for row in rows], [row["mean_truth"] for row in rows]
    axes.plot(x, y, color=_SERIES[0], linewidth=1.2)
    axes.scatter(x, y, s=[16 + 160 * row["n"] / total for row in rows], color=_SERIES[0], alpha=0.75, linewidth=0)
    axes.set(xlabel="predicted", ylabel="mean human label")
    return _svg(figure, label)


@_plot
def losses(training: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float]], label: str) -> Markup:
    """Plot training and validation loss by optimizer step."""
    figure, axes = _panel()
    axes.plot(*zip(*training, strict=True), color=_SERIES[0], linewidth=1.2)
    if validation:
        axes.plot(*zip(*validation, strict=True), color=_SERIES[1], linewidth=1.6, marker="o", markersize=3.5)
    axes.set(xlabel="step", ylabel="loss")
    return _svg(figure, label)


@_plot
def distribution(histogram: Mapping[str, int], label: str) -> Markup:
    """Plot how often each value occurs, in percent."""
    figure, axes = _panel(height=1.8)
    total = sum(histogram.values()) or 1
    axes.bar(list(histogram), [100 * n / total for n in histogram.values()], color=_SERIES[0], width=0.72)
    axes.grid(axis="x", visible=False)
    axes.set(ylabel="% of turns")
    return _svg(figure, label)


def _panel(height: float = 2.4, width: float = 3.1) -> tuple[Figure, Any]:
    with needs_extra("report", "a plot"):
        import matplotlib
        from matplotlib.figure import Figure
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def _svg(figure: Figure, label: str) -> Markup:
    """Return the figure as an `<svg>` element without metadata, addresses, or ids that could clash on the page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    text = stream.getvalue()
    view_box = re.search(r'viewBox="([^"]+)"', text)
    assert view_box is not None
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    # the style sheet would reach out of the plot into the page, and the fonts are the page's
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|font-family: [^;\"]*;? ?", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', body))
    body = re.sub(r' id="([\w.-]+)"', lambda m: m.group(0) if m.group(1) in used else "", body)
    prefix = "c" + hashlib.sha256((label + body).encode()).hexdigest()[:8]
    body = re.sub(r'(url\(#| id="|href="#)', rf"\g<1>{prefix}", body)
    for placeholder, variable in _VARIABLES.items():
        body = body.replace(placeholder, f"var({variable})")
    body = re.sub(r"\n\s*", "\n", body)
    return Markup('<svg class="chart" viewBox="{}" role="img" aria-label="{}">{}</svg>').format(
        view_box.group(1), escape(label), Markup(body)
    )


@_plot
def win_rates(rates: Mapping[str, Estimate], label: str) -> Markup:
    """Plot win rates in percent with their intervals, the first one on top.

    Args:
        rates: shares by name.
        label: says what is seen, for people who do not see it.
    """
    figure, axes = _panel(height=0.75 + 0.3 * len(rates))
    axes.axvline(50, color=_MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    for y, rate in zip(_rows(rates), rates.values(), strict=True):
        axes.plot([100 * rate.low, 100 * rate.high], [y, y], color=_SERIES[0], linewidth=2.2, alpha=0.5)
        axes.plot(100 * rate.value, y, color=_SERIES[0], marker="o", markersize=6)
    axes.set_yticks(list(_rows(rates)), list(rates))
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="% of pairs won", xlim=(-2, 102), ylim=(-0.6, len(rates) - 0.4))
    return _svg(figure, label)


def _rows(named: Sized) -> range:
    """The heights of the rows of a plot, from the top."""
    return range(len(named) - 1, -1, -1)


@_plot
def scores_by_level(curves: Mapping[str, Curve], label: str) -> Markup:
    """Plot mean scores by level asked for, one line with interval per model, on an axis of their own from 0.

    Args:
        label: says what is seen, for people who do not see it.
    """
    figure, axes = _panel()
    for points, colour in zip(curves.values(), _SERIES, strict=False):
        _band(axes, points, colour)
        axes.set_xticks([point.requested for point in points])
    # room for a marker at the top, and at the sides for the last tick's label
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    axes.margins(x=0.08)
    axes.set(xlabel="asked for", ylabel="mean score, 0 to 1")
    return _svg(figure, label)


@_plot
def ladder(rungs: Mapping[str, RungResult], label: str) -> Markup:
    """Plot the quality of every rung of an ablation with its interval, each seed as a small point below it."""
    figure, axes = _panel(height=0.75 + 0.32 * len(rungs), width=4.2)
    _draw_ladder(axes, rungs)
    return _svg(figure, label)


@_plot
def paper_ladder(rungs: Mapping[str, RungResult], label: str) -> Markup:
    """Plot the paper's score of every rung."""
    figure, axes = _panel(height=0.75 + 0.32 * len(rungs), width=4.2)
    _draw_paper_ladder(axes, rungs)
    return _svg(figure, label)


def ladders_file(rungs: Mapping[str, RungResult]) -> str:
    """Return both ladders as one SVG file, in the colours of a white page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.4, 0.9 + 0.42 * len(rungs)), layout="constrained")
        ours, paper = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _draw_ladder(ours, rungs)
        _draw_paper_ladder(paper, rungs)
        ours.set_title("here (bar: 95 %; small: each seed)", fontsize=9)
        paper.set_title("paper", fontsize=9)
        stream = io.StringIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Title": "Ablation ladder"})
    return re.sub("|".join(_ON_WHITE), lambda match: _ON_WHITE[match[0]], stream.getvalue())


def _draw_ladder(axes: Any, rungs: Mapping[str, RungResult]) -> None:
    for place, rung in zip(_rows(rungs), rungs.values(), strict=True):
        quality = rung.figures.quality
        axes.plot(
            [quality.estimate.low, quality.estimate.high], [place] * 2, color=_SERIES[0], linewidth=2.2, alpha=0.5
        )
        axes.plot(quality.estimate.value, place, color=_SERIES[0], marker="o", markersize=6)
        seeds = [seed.value for seed in quality.seeds.values()]
        axes.scatter(seeds, [place - 0.28] * len(seeds), s=9, color=_SERIES[1], linewidth=0)
    _name_rungs(axes, list(rungs), "quality, in levels")


def _draw_paper_ladder(axes: Any, rungs: Mapping[str, RungResult]) -> None:
    found = [(rung.paper, y) for y, rung in zip(_rows(rungs), rungs.values(), strict=True) if rung.paper is not None]
    axes.scatter([x for x, _ in found], [y for _, y in found], s=36, color=_MUTED, linewidth=0)
    _name_rungs(axes, list(rungs), "% of ChatGPT-3.5, by GPT-4")


def _name_rungs(axes: Any, names: Sequence[str], xlabel: str) -> None:
    axes.set_yticks(_rows(names), names)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.1)
    axes.set(xlabel=xlabel, ylim=(-0.6, len(names) - 0.4))


def pair_map(counts: Sequence[Sequence[int]], label: str) -> Markup:
    """Draw how often two attributes' levels occur together: a square per pair, empty where the data have none."""
    most = max(max(row) for row in counts) or 1
    cells = []
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            # the root keeps rare pairs visible beside common ones
            strength = 0.15 + 0.85 * (count / most) ** 0.5
            style = (
                f'fill="var(--series-1)" fill-opacity="{strength:.2f}"'
                if count
                else 'fill="none" stroke="var(--muted)"'
            )
            # the lowest level of the first attribute stands at the bottom, as in a plot
            y = (len(counts) - 1 - i) * 10
            cells.append(
                f'<rect x="{j * 10 + 1}" y="{y + 1}" width="8" height="8" rx="1.5" stroke-width="0.6" {style}/>'
            )
    size = f"0 0 {10 * len(counts[0])} {10 * len(counts)}"
    return Markup('<svg class="pair" viewBox="{}" role="img" aria-label="{}">{}</svg>').format(
        size, escape(label), Markup("".join(cells))
    )
