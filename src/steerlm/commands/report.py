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
    if arguments.out is None:
        from steerlm.reporting.report import write_report

        out = write_report(arguments.run_dir, arguments.ablation)
    else:
        out = _write_alone(arguments.run_dir, arguments.ablation, arguments.out)
    terminal.say(f"report   {out}")
    return 0


def _write_alone(run_dir: Path, ablation: Path | None, out: Path) -> Path:
    """Write the page or the Markdown elsewhere: the run may be one that only others may write to."""
    if out.suffix not in (".html", ".md") or out.is_dir():
        raise UserError(f"--out: {out} is no name of a report; give a file that ends in .html or .md")
    from steerlm.reporting.page import Charts, write_out
    from steerlm.reporting.report import collect
    from steerlm.storage.files import write_text

    charts = Charts()
    context = collect(run_dir, ablation, charts)
    markdown, page = write_out("report.jinja", context, charts, f"{context['name']} · steerlm report")
    write_text(out, page if out.suffix == ".html" else markdown)
    return out
