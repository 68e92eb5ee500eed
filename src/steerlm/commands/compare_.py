"""`steerlm compare`: from arguments to a comparison, and its table on the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from steerlm.errors import UserError
from steerlm.reporting.comparison import comparison_rows, missing_figures
from steerlm.studies.compare.answering import AnswerSampling
from steerlm.studies.compare.deciding import parse_weights
from steerlm.studies.compare.study import ByJudge, ByScorer, compare
from steerlm.studies.compare.systems import parse_systems


def run_compare(arguments: argparse.Namespace, console: Console) -> int:
    """Compare what the arguments name and print the outcome."""
    systems = parse_systems(arguments.systems)
    for option, value, least in (
        ("--num-prompts", arguments.num_prompts, 1),
        ("--elo-games", arguments.elo_games, 1),
        ("--tie-margin", arguments.tie_margin, 0),
        ("--batch-size", arguments.batch_size, 1),
    ):
        if value is not None and value < least:
            raise UserError(f"{option} must be at least {least}, got {value}")
    results = compare(
        systems,
        arguments.prompts,
        _decider(arguments, console),
        arguments.out,
        generation=AnswerSampling(
            arguments.max_new_tokens, arguments.temperature, arguments.top_k, arguments.batch_size, arguments.precision
        ),
        num_prompts=arguments.num_prompts,
        games_per_run=arguments.elo_games,
        seed=arguments.seed,
    )
    print_comparison(results, console)
    console.print(f"report   {arguments.out / 'comparison.html'}")
    return 0


def _decider(arguments: argparse.Namespace, console: Console) -> ByScorer | ByJudge:
    if (arguments.judge is None) == (arguments.scorer is None):
        raise UserError(
            "say who decides: --scorer (playground, text, or the folder of an attribute model) or --judge MODEL"
        )
    if arguments.judge is not None:
        return _judge(arguments, console)
    weights = parse_weights(arguments.weights) if arguments.weights else None
    return ByScorer(arguments.scorer, weights, arguments.tie_margin)


def _judge(arguments: argparse.Namespace, console: Console) -> ByJudge:
    from steerlm.scorers.llm.client import Cost, Endpoint, JudgeClient
    from steerlm.studies.judge.printing import confirm

    if arguments.weights:
        raise UserError("--weights belong to a scorer; a judge decides by itself")
    endpoint = Endpoint.from_environment(arguments.judge_url, arguments.judge)

    def approve(cost: Cost) -> bool:
        return confirm(cost, None, None, False, arguments.yes, console)

    client = JudgeClient(
        endpoint,
        arguments.out / "replies.jsonl",
        reasoning=arguments.judge_reasoning,
        max_tokens=arguments.judge_max_tokens,
    )
    return ByJudge(client, arguments.protocol, approve, arguments.references)


def print_comparison(results: Mapping[str, Any], console: Console) -> None:
    """Print the table, what a reader must know before it, and why figures are missing."""
    for note in results["notes"]:
        console.print(f"[yellow]{note}[/yellow]")
    by = results["decided_by"]
    decided = f"{results['prompts']['compared']} prompts, decided by {by['label']}"
    table = Table(title=f"{decided}; in brackets: 95 % intervals, clustered by prompt", title_justify="left")
    rows = comparison_rows(results)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    if "flip_rate" in results:
        flips, first = (100 * results[key]["value"] for key in ("flip_rate", "position_bias"))
        console.print(
            f"{flips:.1f} % of pairs have another winner in the other order; the first shown wins {first:.1f} %"
        )
    for note in missing_figures(results):
        console.print(f"[dim]{note}[/dim]", highlight=False)
