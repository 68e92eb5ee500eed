"""Write the HTML and Markdown report of a run folder again."""

from __future__ import annotations

import argparse
from pathlib import Path

from steerlm.commands import terminal
from steerlm.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="run folder")
    parser.add_argument("--ablation", type=Path, metavar="FILE", help="ablation.json to show (default: its own)")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.run_dir.is_dir():
        raise UserError(f"no such run folder: {arguments.run_dir}")
    from steerlm.reporting.report import write_report

    terminal.say(f"report   {write_report(arguments.run_dir, arguments.ablation)}")
    return 0
