"""Hold an evaluation against demands, for CI."""

from __future__ import annotations

import argparse
from pathlib import Path

from steerlm.commands import terminal


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="run folder, or a folder with a results.json")
    parser.add_argument(
        "--require", action="append", default=[], metavar="DEMAND",
        help='ATTRIBUTE.FIGURE OP NUMBER, for example "humor.spearman>=0.9" (repeatable)',
    )  # fmt: skip
    parser.add_argument("--max-leak", type=float, metavar="LEVELS", help="most that a dial may move another attribute")
    parser.add_argument(
        "--compare", choices=("estimate", "interval"), default="estimate",
        help="what must hold: the estimate, or the worse end of its 95 %% interval (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--model", help="name of the model (default: the last one)")
    parser.add_argument("--scorer", help="id of the scorer (default: per attribute the first independent one)")


def run(arguments: argparse.Namespace) -> int:
    """Return 0 where every demand holds, 1 with the rows that fail."""
    from rich.table import Table

    from steerlm.results.check import check, parse_requirement

    rows = check(
        arguments.run_dir,
        [parse_requirement(text) for text in arguments.require],
        arguments.max_leak,
        arguments.compare,
        arguments.model,
        arguments.scorer,
    )
    failing = [row for row in rows if not row.holds]
    compared = "estimates" if arguments.compare == "estimate" else "the unfavourable ends of the 95 % intervals"
    if not failing:
        count = f"{len(rows)} of {len(rows)} demands hold (compared: {compared})"
        terminal.console().print(f"[green]✓[/green] {count}", highlight=False)
        return 0
    table = Table(title=f"{len(failing)} of {len(rows)} demands do not hold (compared: {compared})")
    columns = ("figure", "demand", "found", *(["why"] if any(row.reason for row in failing) else []))
    for column in columns:
        # a log of CI is narrow, and a figure cut short would be no use
        table.add_column(column, no_wrap=column != "why", overflow="fold")
    for row in failing:
        table.add_row(*(row.what, row.demand, row.found, row.reason)[: len(columns)])
    terminal.console().print(table, highlight=False, markup=False)
    return 1
