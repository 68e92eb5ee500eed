"""What `steerlm judge` says on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from steerlm.errors import UserError
from steerlm.reporting.terminal import estimate_cell, print_table
from steerlm.scorers.llm.client import Cost

_SHOWN = 5
"""Outputs without a verdict that are shown; the file has them all."""


def confirm(
    cost: Cost, price_in: float | None, price_out: float | None, dry_run: bool, yes: bool, console: Console
) -> bool:
    """Print what it costs and return whether to go on: what is paid for already needs no consent."""
    if (price_in is None) != (price_out is None):
        raise UserError("--price-in and --price-out go together: both per million tokens")
    print_cost(cost, None if price_in is None or price_out is None else (price_in, price_out), console)
    if dry_run:
        return False
    if yes or not cost.requests:
        return True
    return consents("give --yes, or --dry-run to see the estimate alone")


def consents(otherwise: str) -> bool:
    """Ask whether to go on; where nobody is there to ask, an error says what to do otherwise."""
    if not sys.stdin.isatty():
        raise UserError(f"nobody is there to confirm the cost; {otherwise}")
    return input("go on? [y/N] ").strip().lower() in ("y", "yes")


def print_cost(cost: Cost, prices: tuple[float, float] | None, console: Console) -> None:
    """Print what is to be sent and what it costs."""
    stored = f", {cost.stored} more are answered from earlier runs" if cost.stored else ""
    console.print(f"{cost.requests} requests{stored}", highlight=False)
    if cost.requests:
        console.print(
            f"about {cost.prompt_tokens} tokens to read (4 bytes each), at most {cost.max_completion_tokens} to write",
            highlight=False,
        )
    if prices is not None:
        least, most = cost.money(*prices)
        console.print(f"costs between {least:.2f} and {most:.2f}", highlight=False)


def print_results(results: Mapping[str, Any], out: Path, console: Console) -> None:
    """Print the figures, the order's influence, and what has no verdict."""
    counts = results["counts"]
    console.print(
        f"{counts['parsed']} of {counts['asked']} have a verdict; {counts['unparsed']} could not be parsed, "
        f"{counts['failed']} were not answered",
        highlight=False,
    )
    for name, ids in results.get("missing_answers", {}).items():
        console.print(f"{name} did not answer {len(ids)} questions: {', '.join(ids[:10])}", markup=False)
    if "differences" in results:
        found = results["differences"]
        console.print(
            f"our parsers against the stored verdicts: {found['read_only_by_us']} read only by us, "
            f"{found['read_only_by_them']} only by them, {found['read_differently']} differently",
            highlight=False,
        )
    if "pairs" in results:
        _print_pairs(results["pairs"], console)
    if "scores" in results:
        _print_scores(results["scores"], console)
    for key, title in (("ratings", "rating 1..10"), ("attributes", "level on the attribute's scale")):
        if key in results:
            _print_columns(results[key], title, console)
    for attribute, shares in results.get("categories", {}).items():
        _print_columns(shares, f"{attribute}: share of each category, %", console, percent=True)
    _print_without_verdict(out / "without_verdict.jsonl", console)
    console.print(f"results  {out / 'results.json'}", markup=False, highlight=False, soft_wrap=True)


def _print_pairs(pairs: Mapping[str, Any], console: Console) -> None:
    first = estimate_cell(pairs["position_bias"], digits=1, percent=True)
    console.print(f"the answer shown first wins {first} %", highlight=False)
    for turn, rate in pairs["flip_rate"].items():
        which = f" in turn {turn}" if len(pairs["flip_rate"]) > 1 else ""
        known = f"{estimate_cell(rate, digits=1, percent=True)} %"
        shown = known if rate["value"] is not None else "unknown: no pair in both orders"
        console.print(f"verdicts that flip with the order{which}: {shown}", highlight=False, markup=False)
    names = list(pairs["overall"])
    rows = []
    for a in names:
        cells = [pairs["head_to_head"][a].get(b) for b in names]
        shares = [f"{100 * cell['win_rate']['value']:.1f}" if cell else "" for cell in cells]
        rows.append([a, estimate_cell(pairs["overall"][a], digits=1, percent=True), *shares])
    title = "win rate, %: the row against the column (a tie is half a win; each cell's interval: results.json)"
    print_table(console, title, ["", "all", *names], rows)


def _print_scores(scores: Mapping[str, Any], console: Console) -> None:
    rows = []
    for name, of in scores.items():
        share = of.get("share_of_baseline")
        cells = [estimate_cell(of[column]) for column in ("all", "first", "second")]
        rows.append([name, *cells, estimate_cell(share["pooled"], digits=1, percent=True) if share else ""])
    columns = ["", "mean", "shown first", "shown second"]
    if any("share_of_baseline" in of for of in scores.values()):
        columns.append("% of the baseline")
    print_table(console, "score 1..10", columns, [row[: len(columns)] for row in rows])


def _print_columns(
    systems: Mapping[str, Mapping[str, Any]], title: str, console: Console, percent: bool = False
) -> None:
    columns = list(dict.fromkeys(column for of in systems.values() for column in of))
    rows = [
        [name, *(estimate_cell(of.get(column), digits=1 if percent else 2, percent=percent) for column in columns)]
        for name, of in systems.items()
    ]
    print_table(console, title, ["", *(column.replace("_", " ") for column in columns)], rows)


def _print_without_verdict(path: Path, console: Console) -> None:
    rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    for row in rows[:_SHOWN]:
        what = " ".join(part for part in (f"question {row['question']}", row["attribute"]) if part)
        systems = " / ".join(row["systems"])
        console.print(f"no verdict: {what}, {systems}: {row['problem']}", markup=False, highlight=False, soft_wrap=True)
        if row["text"]:
            console.print(f"    {row['text'][-300:]!r}", markup=False, highlight=False, soft_wrap=True)
    if rows:
        console.print(
            f"all {len(rows)} without a verdict, verbatim: {path}", markup=False, highlight=False, soft_wrap=True
        )
