"""SteerBench in the report: figures of rules and systems, and what its authors published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from steerlm.reporting.formatting import DASH, estimate_text, markdown_table, markdown_text, number, percent
from steerlm.results.steerbench import Mode, PolicyResult, SteerbenchResult
from steerlm.statistics.steerability import FigureSummary, SteerabilitySummary

PUBLISHED: tuple[tuple[str, str, str, str], ...] = (
    ("GPT-4.1", ".429 (.203)", ".556 (.500)", ".766 (.409)"),
    ("Llama3.3-70B", ".452 (.256)", ".353 (.548)", ".727 (.386)"),
    ("Llama3.1-70B", ".452 (.239)", ".455 (.609)", ".766 (.391)"),
    ("Llama3.1-8B", ".452 (.239)", ".667 (.647)", ".833 (.399)"),
    ("GPT-4o", ".474 (.239)", ".667 (.601)", ".833 (.375)"),
    ("DeepSeek-R1-70B", ".474 (.256)", ".636 (.556)", ".825 (.368)"),
    ("Qwen3-4B", ".495 (.228)", ".667 (.667)", ".846 (.346)"),
    ("o1-mini", ".495 (.261)", ".643 (.549)", ".830 (.353)"),
    ("o3-mini", ".515 (.232)", ".778 (.591)", ".879 (.347)"),
    ("GPT-3.5 turbo", ".535 (.251)", ".643 (.682)", ".865 (.320)"),
    ("Llama3.1-8B, best of 128", ".319", ".333", ".558"),
)
"""Figures of the authors' repository (arXiv 2505.23816): 2,048 rows, 3 of 4 goals, in words with both suffixes; side
effects as its first version counts them."""
_FIGURES: tuple[tuple[Literal["steering_error", "miscalibration", "side_effects"], str], ...] = (
    ("steering_error", "steering error"),
    ("miscalibration", "miscalibration"),
    ("side_effects", "side effects"),
)


def steerbench_table(result: SteerbenchResult, mode: Mode) -> list[list[str]]:
    """Return header and rows of one mode as text: median and interquartile range of the binned figures."""
    # narrow enough for a terminal
    header = ["rule" if mode == "reference" else "model", "error", "miscal.", "side eff.", "(first)"]
    header += ["corr.", "anti-corr.", "overlap"]
    return [header, *(_row(policy) for policy in result.of_mode(mode))]


def _row(policy: PolicyResult) -> list[str]:
    figures = policy.figures.binned
    return [
        policy.name,
        *(_median(getattr(figures, name)) for name, _ in _FIGURES),
        _short(policy.published_side_effects),
        *(_short(group.binned.steering_error.median.value) for group in (policy.correlated, policy.anticorrelated)),
        number(policy.overlap.value),
    ]


def _median(figure: FigureSummary) -> str:
    return f"{_short(figure.median.value)} ({_short(figure.iqr)})"


def _short(value: float) -> str:
    """Write a figure as the benchmark's authors do, without a zero before the point."""
    return number(value, 3).removeprefix("0")


def steerbench_sections(result: SteerbenchResult) -> str:
    """Return the tables of all modes in Markdown."""
    parts = []
    for mode, title, words in _MODES:
        policies = result.of_mode(mode)
        if not policies:
            continue
        header, *rows = steerbench_table(result, mode)
        parts += [f"### {title}", words, markdown_table(header, [[markdown_text(row[0]), *row[1:]] for row in rows])]
        parts += [
            f"Means with 95 % intervals, source texts drawn again ({policies[0].figures.binned.rows} rows):",
            _means(policies),
            "What became of each goal:",
            _goals(policies),
        ]
        if mode == "words" and result.probe.bounds_from == "published":
            parts += ["Published, for comparison:", published_table()]
    return "\n\n".join(parts)


_MODES: tuple[tuple[Mode, str, str], ...] = (
    (
        "reference",
        "Rules",
        "No models: what the figures are for doing nothing, half the text, the text twice, and the best of some thirty "
        "edits by rule, picked in hindsight.",
    ),
    ("words", "Asked in words", "The benchmark's own instruction, the likeliest answer."),
    (
        "dials",
        "Asked by dials",
        "The target stands in the attribute header, for every goal: more than the words say, so these rows compare "
        "with no published figure.",
    ),
)


def _means(policies: Sequence[PolicyResult]) -> str:
    rows = []
    for policy in policies:
        for label, group in (("in bins", policy.figures.binned), ("as they are", policy.figures.unbinned)):
            rows.append([markdown_text(policy.name), label, *_estimates(group)])
        for label, of_goals in (("correlated", policy.correlated), ("anti-correlated", policy.anticorrelated)):
            rows.append([markdown_text(policy.name), f"{label}, in bins", *_estimates(of_goals.binned)])
    return markdown_table(["", "movements", *(title for _, title in _FIGURES)], rows)


def _estimates(figures: SteerabilitySummary) -> list[str]:
    return [estimate_text(getattr(figures, name).mean, 3) for name, _ in _FIGURES]


def _goals(policies: Sequence[PolicyResult]) -> str:
    rows = [
        [
            markdown_text(policy.name),
            goal.replace("_", " "),
            str(moved.asked),
            percent(moved.still),
            percent(moved.strayed),
            percent(moved.at_one),
            number(policy.leakage[goal][goal]),
        ]
        for policy in policies
        for goal, moved in policy.goals.items()
    ]
    columns = ["", "goal", "asked", "asked, but still", "not asked, but moved", "ends at 1", "moved per unit asked"]
    return markdown_table(columns, rows)


def published_table() -> str:
    """Return the published figures in Markdown."""
    columns = ["model", "steering error", "miscalibration", "side effects, first version"]
    return markdown_table(columns, [list(row) for row in PUBLISHED])


def probe_text(result: SteerbenchResult) -> str:
    """Say in a sentence what was asked and who measured."""
    probe, measured = result.probe, result.measured_by
    versions = ", ".join(f"{name} {version}" for name, version in measured.versions.items()) or DASH
    return (
        f"{probe.rows} requests on {probe.texts} source texts ({probe.source}), scaled by the {probe.bounds_from} "
        f"bounds; measured with {versions}, the diversity over "
        f"{'words of a given list' if measured.real_words else 'all words'}."
    )
