"""What `steerlm judge` says on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from steerlm.errors import UserError
from steerlm.scorers.llm.client import Cost

_SHOWN = 5
"""Outputs without a verdict that are shown; the file has them all."""


def confirm(
    cost: Cost, price_in: float | None, price_out: float | None, dry_run: bool, yes: bool, console: Console
) -> bool:
    """Print what it costs and return whether to go on: what is paid for already needs no consent.

    Raises:
        UserError: one price without the other, or nobody is there to ask.
    """
    if (price_in is None) != (price_out is None):
        raise UserError("--price-in and --price-out go together: both per million tokens")
    print_cost(cost, None if price_in is None or price_out is None else (price_in, price_out), console)
    if dry_run:
        return False
    if yes or not cost.requests:
        return True
    if not sys.stdin.isatty():
        raise UserError("nobody is there to confirm the cost; give --yes, or --dry-run to see the estimate alone")
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
    _print_without_verdict(out / "without_verdict.jsonl", console)
    console.print(f"results  {out / 'results.json'}", markup=False, highlight=False, soft_wrap=True)


def estimate_text(estimate: Mapping[str, Any], scale: float = 1.0, digits: int = 2) -> str:
    """Return `0.56 [0.51, 0.61]`, or the value alone where there is no interval."""
    if estimate["value"] is None:
        return "–"
    value = f"{scale * estimate['value']:.{digits}f}"
    if estimate["low"] is None:
        return value
    return f"{value} [{scale * estimate['low']:.{digits}f}, {scale * estimate['high']:.{digits}f}]"


def _print_pairs(pairs: Mapping[str, Any], console: Console) -> None:
    console.print(f"the answer shown first wins {estimate_text(pairs['position_bias'], 100, 1)} %", highlight=False)
    for turn, rate in pairs["flip_rate"].items():
        which = f" in turn {turn}" if len(pairs["flip_rate"]) > 1 else ""
        shown = f"{estimate_text(rate, 100, 1)} %" if rate["value"] is not None else "unknown: no pair in both orders"
        console.print(f"verdicts that flip with the order{which}: {shown}", highlight=False, markup=False)
    table = Table(
        title="win rate, %: the row against the column (a tie is half a win; each cell's interval: results.json)"
    )
    names = list(pairs["overall"])
    for column in ("", "all", *names):
        table.add_column(escape(column), no_wrap=column in ("", "all"))
    for a in names:
        cells = [pairs["head_to_head"][a].get(b) for b in names]
        row = [f"{100 * cell['win_rate']['value']:.1f}" if cell else "" for cell in cells]
        table.add_row(escape(a), estimate_text(pairs["overall"][a], 100, 1), *row)
    console.print(table)


def _print_scores(scores: Mapping[str, Any], console: Console) -> None:
    table = Table(title="score 1..10")
    columns = ["all", "first", "second"]
    shares = any("share_of_baseline" in of for of in scores.values())
    for column in ("", "mean", "shown first", "shown second", *(["% of the baseline"] if shares else [])):
        table.add_column(column)
    for name, of in scores.items():
        row = [estimate_text(of[column]) for column in columns]
        if shares:
            share = of.get("share_of_baseline")
            row.append(estimate_text(share["pooled"], 100, 1) if share else "")
        table.add_row(escape(name), *row)
    console.print(table)


def _print_columns(systems: Mapping[str, Mapping[str, Any]], title: str, console: Console) -> None:
    table = Table(title=title)
    columns = list(dict.fromkeys(column for of in systems.values() for column in of))
    for column in ("", *columns):
        table.add_column(column.replace("_", " "))
    for name, of in systems.items():
        table.add_row(escape(name), *(estimate_text(of[column]) if column in of else "" for column in columns))
    console.print(table)


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
