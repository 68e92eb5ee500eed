"""The results of a study as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Print what `results.json` holds, in tables; what has no interval says why below them."""
    notes: dict[str, None] = {}
    question = Text(f"{results['question']}  {results['items']} items, {results['prompts']} prompts")
    console.print(question)
    tables = _comparison_tables(results, notes) if results["kind"] == "comparison" else _rating_tables(results, notes)
    for table in tables:
        console.print(table)
    for number, note in enumerate(notes, 1):
        console.print(f"({number}) {note}", markup=False, highlight=False)


def _comparison_tables(results: Mapping[str, Any], notes: dict[str, None]) -> list[Table]:
    agreement, systems = results["agreement"], results["systems"]
    people, judge = results["people"], results.get("judge")
    first = _table("agreement", ["", "value"])
    first.add_row("Fleiss' kappa", _text(agreement["fleiss_kappa"], notes))
    first.add_row("Krippendorff's alpha, nominal", _text(agreement["krippendorff_alpha"], notes))
    if judge:
        first.add_row("the judge agrees with people", _text(judge["agrees_with_people"], notes, percent=True))
    columns = ["", "answered", "skipped", "ties", "answer 1 wins", "answer 2 wins", "agrees with others"]
    second = _table("annotators", columns + [f"win rate {system}" for system in systems])
    for row in results["annotators"]:
        shares = [row[key] for key in ("ties", "shown_first_wins", "shown_second_wins", "agrees_with_others")]
        shares += [row["win_rates"].get(system) for system in systems]
        counts = [str(row["answered"]), str(row["skipped"])]
        second.add_row(Text(row["name"]), *counts, *(_text(share, notes, percent=True) for share in shares))
    third = _table("systems", ["", *(f"{who} {what}" for who in _sides(judge) for what in ("Elo", "Bradley-Terry"))])
    for system in systems:
        cells = [side[key].get(system) for side in ([people, judge] if judge else [people]) for key in _RANKINGS]
        third.add_row(Text(system), *(_text(cell, notes, digits=0) for cell in cells))
    return [first, second, _pairs(results["pairs_of_annotators"], notes), third]


_RANKINGS = ("elo", "bradley_terry")


def _sides(judge: object) -> list[str]:
    return ["people", "judge"] if judge else ["people"]


def _rating_tables(results: Mapping[str, Any], notes: dict[str, None]) -> list[Table]:
    first = _table("attributes", ["", "ratings", "items", "mean", "Fleiss' kappa", "Krippendorff's alpha"])
    for name, row in results["attributes"].items():
        cells = [row.get("mean"), row["fleiss_kappa"], row["krippendorff_alpha"]]
        first.add_row(name, str(row["ratings"]), str(row["items"]), *(_text(cell, notes) for cell in cells))
    columns = ["", "answered", "skipped", "attribute", "levels above others", "agrees with others"]
    second = _table("annotators", columns)
    for row in results["annotators"]:
        head: list[str | Text] = [Text(row["name"]), str(row["answered"]), str(row["skipped"])]
        for name, agrees in row["agrees_with_others"].items():
            above = row["levels_above_others"].get(name)
            second.add_row(*head, name, _text(above, notes, signed=True), _text(agrees, notes, percent=True))
            head = ["", "", ""]
    return [first, second, _pairs(results["pairs_of_annotators"], notes)]


def _pairs(rows: Sequence[Mapping[str, Any]], notes: dict[str, None]) -> Table:
    table = _table("agreement of every two annotators", ["", "attribute", "items", "agree", "weighted kappa"])
    for row in rows:
        table.add_row(
            Text(" and ".join(row["annotators"])), row.get("attribute", ""), str(row["agreement"]["n"]),
            _text(row["agreement"], notes, percent=True), _text(row.get("quadratic_weighted_kappa"), notes),
        )  # fmt: skip
    return table


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if i == 0 else "right")
    return table


def _text(
    estimate: Mapping[str, Any] | None,
    notes: dict[str, None],
    *,
    digits: int = 2,
    percent: bool = False,
    signed: bool = False,
) -> str:
    """Return `0.46 [0.40, 0.52]`, or the value alone with the number of the note that says why."""
    if estimate is None:
        return ""
    value, low, high = (_number(estimate[key], digits, percent, signed) for key in ("value", "low", "high"))
    if estimate["low"] is not None:
        return f"{value} [{low}, {high}]"
    note = estimate.get("note", "no interval")
    notes.setdefault(note)
    return f"{value} ({list(notes).index(note) + 1})"


def _number(value: float | None, digits: int, percent: bool, signed: bool) -> str:
    if value is None:
        return "–"
    if percent:
        return f"{100 * value:.0f} %"
    return f"{value:{'+' if signed else ''}.{digits}f}"
