"""Write the HTML and Markdown report of a run folder again."""

from __future__ import annotations

import argparse
from pathlib import Path

from steerlm.commands import terminal
from steerlm.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="run folder")
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="write this file alone, .html or .md, and nothing into the run folder (default: both, there)",
    )  # fmt: skip
    parser.add_argument("--ablation", type=Path, metavar="FILE", help="ablation.json to show (default: its own)")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.run_dir.is_dir():
        raise UserError(f"no such run folder: {arguments.run_dir}")
    out: Path | None = arguments.out
    if out is not None and (out.suffix not in (".html", ".md") or out.is_dir()):
        raise UserError(f"--out: {out} is no name of a report; give a file that ends in .html or .md")
    from steerlm.reporting.report import write_report

    terminal.say(f"report   {write_report(arguments.run_dir, arguments.ablation, out)}")
    return 0
