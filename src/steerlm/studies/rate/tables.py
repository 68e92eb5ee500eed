"""The results of a study as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from steerlm.reporting.terminal import estimate_cell, print_table


def print_results(results: Mapping[str, Any], console: Console) -> None:
    """Print what `results.json` holds, in tables; what has no interval says why below them."""
    notes: dict[str, None] = {}
    console.print(Text(f"{results['question']}  {results['items']} items, {results['prompts']} prompts"))
    if results["kind"] == "comparison":
        _print_comparisons(results, notes, console)
    else:
        _print_ratings(results, notes, console)
    for number, note in enumerate(notes, 1):
        console.print(f"({number}) {note}", markup=False, highlight=False)


def _print_comparisons(results: Mapping[str, Any], notes: dict[str, None], console: Console) -> None:
    agreement, systems, judge = results["agreement"], results["systems"], results.get("judge")
    rows = [
        ["Fleiss' kappa", estimate_cell(agreement["fleiss_kappa"], notes=notes)],
        ["Krippendorff's alpha, nominal", estimate_cell(agreement["krippendorff_alpha"], notes=notes)],
    ]
    if judge:
        rows.append(["the judge agrees with people", _percent(judge["agrees_with_people"], notes)])
    print_table(console, "agreement", ["", "value"], rows)
    columns = ["", "answered", "skipped", "ties", "answer 1 wins", "answer 2 wins", "agrees with others"]
    rows = []
    for row in results["annotators"]:
        shares = [row[key] for key in ("ties", "shown_first_wins", "shown_second_wins", "agrees_with_others")]
        shares += [row["win_rates"].get(system) for system in systems]
        counts = [str(row["answered"]), str(row["skipped"])]
        rows.append([row["name"], *counts, *(_percent(share, notes) for share in shares)])
    print_table(console, "annotators", columns + [f"win rate {system}" for system in systems], rows)
    _print_pairs(results, notes, console)
    sides = {"people": results["people"], **({"judge": judge} if judge else {})}
    rows = [
        [
            system,
            *(
                estimate_cell(side[key].get(system), digits=0, notes=notes)
                for side in sides.values()
                for key in ("elo", "bradley_terry")
            ),
        ]
        for system in systems
    ]
    print_table(
        console, "systems", ["", *(f"{who} {what}" for who in sides for what in ("Elo", "Bradley-Terry"))], rows
    )


def _print_ratings(results: Mapping[str, Any], notes: dict[str, None], console: Console) -> None:
    rows = []
    for name, row in results["attributes"].items():
        cells = [row.get("mean"), row["fleiss_kappa"], row["krippendorff_alpha"]]
        counts = [str(row["ratings"]), str(row["items"])]
        rows.append([name, *counts, *(estimate_cell(cell, notes=notes) for cell in cells)])
    columns = ["", "ratings", "items", "mean", "Fleiss' kappa", "Krippendorff's alpha"]
    print_table(console, "attributes", columns, rows)
    rows = []
    for row in results["annotators"]:
        head = [row["name"], str(row["answered"]), str(row["skipped"])]
        for name, agrees in row["agrees_with_others"].items():
            above = estimate_cell(row["levels_above_others"].get(name), signed=True, notes=notes)
            rows.append([*head, name, above, _percent(agrees, notes)])
            head = ["", "", ""]
    columns = ["", "answered", "skipped", "attribute", "levels above others", "agrees with others"]
    print_table(console, "annotators", columns, rows)
    _print_pairs(results, notes, console)


def _print_pairs(results: Mapping[str, Any], notes: dict[str, None], console: Console) -> None:
    rows = []
    for row in results["pairs_of_annotators"]:
        kappa = estimate_cell(row.get("quadratic_weighted_kappa"), notes=notes)
        agree, number = _percent(row["agreement"], notes), str(row["agreement"]["n"])
        rows.append([" and ".join(row["annotators"]), row.get("attribute", ""), number, agree, kappa])
    columns = ["", "attribute", "items", "agree", "weighted kappa"]
    print_table(console, "agreement of every two annotators", columns, rows)


def _percent(share: Mapping[str, Any] | None, notes: dict[str, None]) -> str:
    return estimate_cell(share, digits=0, percent=True, unit=" %", notes=notes)
