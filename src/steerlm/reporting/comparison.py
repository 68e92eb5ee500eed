"""The page of a comparison, as HTML and Markdown; every number comes from its `results.json`."""

from __future__ import annotations

import itertools
from pathlib import Path

from steerlm.reporting.formatting import interval_text, number, share_text
from steerlm.reporting.page import Charts, write_out
from steerlm.results.comparison import ComparisonResult
from steerlm.storage.files import write_text

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


def write_comparison(out: Path, results: ComparisonResult) -> Path:
    """Write `comparison.html` and `comparison.md` beside a comparison's `results.json`.

    Returns:
        The path of `comparison.html`.
    """
    from steerlm.reporting import charts

    ranking, page = results.ranking, Charts()
    rates = {name: ranking.win_rate[name] for name in ranking.best_first}
    said = "; ".join(f"{name} {share_text(rate)}" for name, rate in rates.items())
    page.add("wins", "win rates", charts.win_rates(rates, f"Win rates. {said}"))
    reported = {
        name: label
        for name, label in STATISTICS.items()
        if any(getattr(answers, name) is not None for answers in results.answers.values())
    }
    context = {
        "results": results,
        "ranking": ranking,
        "ranked": ranking.best_first,
        "statistics": reported,
        "shares": SHARES,
        "missing": missing_figures(results),
    }
    names = ("comparison.md", "comparison.html")
    for name, text in zip(names, write_out("comparison.jinja", context, page, "Comparison · steerlm"), strict=True):
        write_text(out / name, text)
    return out / "comparison.html"


def comparison_rows(results: ComparisonResult) -> list[dict[str, str]]:
    """Return the table of the terminal: a row per system, the best first."""
    reference, ranking = next(iter(results.systems)), results.ranking
    rows = []
    for name in ranking.best_first:
        versus = ranking.head_to_head[name].get(reference)
        row = {
            "system": name,
            "win rate": share_text(ranking.win_rate[name]),
            "Bradley-Terry": interval_text(ranking.bradley_terry[name], 0),
            "Elo": interval_text(ranking.elo[name], 0),
            f"against {reference}": share_text(versus.win_rate) if versus else "",
            "at equal length": share_text(versus.length_controlled) if versus else "",
            "characters": number(results.answers[name].characters.value, 0),
        }
        rows.append(row)
    return rows


def missing_figures(results: ComparisonResult) -> list[str]:
    """Return why values or intervals are missing, each reason once."""
    notes, ranking = [], results.ranking
    for title, column in (
        ("win rate", ranking.win_rate),
        ("Bradley-Terry", ranking.bradley_terry),
        ("Elo", ranking.elo),
    ):
        systems: dict[str, list[str]] = {}
        for name, estimate in column.items():
            if estimate.note:
                systems.setdefault(estimate.note, []).append(name)
        for note, names in systems.items():
            who = "" if len(names) == len(column) else f" of {', '.join(names)}"
            notes.append(f"{title}{who}: {note}.")
    for a, b in itertools.combinations(ranking.best_first, 2):
        cell = ranking.head_to_head[a].get(b)
        if cell and cell.length_controlled.note:
            notes.append(f"{a} against {b} at equal length: {cell.length_controlled.note}.")
    return notes
