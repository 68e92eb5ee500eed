"""The page of a comparison, as HTML and Markdown; every number comes from its `results.json`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from steerlm.reporting.report import markdown_quote, markdown_text, number, percent
from steerlm.storage.files import atomic_writer

STATISTICS = {
    "characters": "characters",
    "words": "words",
    "unique_words": "unique words",
    "words_per_sentence": "words per sentence",
    "empty": "empty",
    "refusal": "refuses",
    "label_leak": "shows a label",
    "degenerate": "stuck in repetition",
    "unfinished": "cut off",
}
"""What the table of answers shows; the first four are means per answer, the others shares."""
SHARES = ("empty", "refusal", "label_leak", "degenerate", "unfinished")


def write_comparison(out: Path, results: Mapping[str, Any]) -> Path:
    """Write `comparison.html` and `comparison.md` beside a comparison's `results.json`.

    Returns:
        The path of `comparison.html`.
    """
    environment = Environment(
        loader=PackageLoader("steerlm.reporting", "assets"),
        autoescape=lambda name: name == "comparison.html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"num": number, "percent": percent, "md": markdown_text, "quote": markdown_quote}
    environment.globals |= {"shade": _shade, "estimate": estimate_text, "share": share_text}
    context = {
        "results": results,
        "ranked": ranking(results),
        "statistics": {name: label for name, label in STATISTICS.items() if _reported(results, name)},
        "shares": SHARES,
        "chart": _chart(results),
        "missing": missing_figures(results),
    }
    for template, name in (("comparison.html", "comparison.html"), ("comparison_markdown.html", "comparison.md")):
        with atomic_writer(out / name) as stream:
            stream.write(environment.get_template(template).render(context).encode())
    return out / "comparison.html"


def ranking(results: Mapping[str, Any]) -> list[str]:
    """Return the systems by win rate, the best first."""
    return sorted(results["win_rate"], key=lambda name: -results["win_rate"][name]["value"])


def comparison_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the table of the terminal: a row per system, the best first."""
    reference = next(iter(results["systems"]))
    rows = []
    for name in ranking(results):
        versus = results["head_to_head"][name].get(reference)
        row = {
            "system": name,
            "win rate": share_text(results["win_rate"][name]),
            "Bradley-Terry": estimate_text(results["bradley_terry"][name], 0),
            "Elo": estimate_text(results["elo"][name], 0),
            f"against {reference}": share_text(versus["win_rate"]) if versus else "",
            "at equal length": share_text(versus["length_controlled"]) if versus else "",
            "characters": number(results["answers"][name]["characters"]["value"], 0),
        }
        rows.append(row)
    return rows


def estimate_text(estimate: Mapping[str, Any], digits: int = 2) -> str:
    """Format a value with its interval: `1020 [984, 1055]`."""
    value = number(estimate["value"], digits)
    if estimate["low"] is None:
        return value
    return f"{value} [{number(estimate['low'], digits)}, {number(estimate['high'], digits)}]"


def share_text(estimate: Mapping[str, Any]) -> str:
    """Format a share with its interval in percent: `55 % [47, 63]`."""
    value = percent(estimate["value"])
    if estimate["low"] is None:
        return value
    return f"{value} [{number(100 * estimate['low'], 0)}, {number(100 * estimate['high'], 0)}]"


def missing_figures(results: Mapping[str, Any]) -> list[str]:
    """Return why values or intervals are missing, each reason once."""
    notes = []
    for title, column in (("win rate", "win_rate"), ("Bradley-Terry", "bradley_terry"), ("Elo", "elo")):
        systems: dict[str, list[str]] = {}
        for name, estimate in results[column].items():
            if estimate.get("note"):
                systems.setdefault(estimate["note"], []).append(name)
        for note, names in systems.items():
            who = "" if len(names) == len(results[column]) else f" of {', '.join(names)}"
            notes.append(f"{title}{who}: {note}.")
    for a, b in itertools.combinations(ranking(results), 2):
        cell = results["head_to_head"][a].get(b)
        if cell and cell["length_controlled"].get("note"):
            notes.append(f"{a} against {b} at equal length: {cell['length_controlled']['note']}.")
    return notes


def _reported(results: Mapping[str, Any], name: str) -> bool:
    return any(name in answers for answers in results["answers"].values())


def _shade(win_rate: float) -> str:
    """Background of a cell of the matrix: blue above one half, orange below."""
    strength = min(1.0, abs(win_rate - 0.5) * 2)
    return f"rgb({'66 120 220' if win_rate > 0.5 else '226 120 40'} / {0.75 * strength:.2f})"


def _chart(results: Mapping[str, Any]) -> Any:
    from steerlm.reporting import charts

    names = ranking(results)
    said = "; ".join(f"{name} {share_text(results['win_rate'][name])}" for name in names)
    rows = [{**results["win_rate"][name], "name": name} for name in names]
    return charts.win_rates(rows, f"Win rates. {said}")
