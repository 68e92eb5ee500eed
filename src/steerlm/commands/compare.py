"""Compare systems in pairs on the same prompts."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, named_models, options, terminal
from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.results.comparison import ComparisonResult
    from steerlm.studies.compare.study import ByJudge, ByScorer

_EPILOG = """\
a system is NAME= and one of
  runs/x/bootstrap/model@humor=4,verbosity=1   a steerable checkpoint; dials not named stand at their defaults
  runs/x@humor=4                               a run folder: its final model
  some-org/some-chat-model                     any Hugging Face chat model, a folder or an id
  https://host/v1#model-name                   an OpenAI-compatible endpoint (key: OPENAI_API_KEY)
  answers.jsonl                                stored answers: ours, FastChat's or QLoRA's
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare systems in pairs on the same prompts: win rates, Elo, Bradley-Terry, all with intervals."
    )
    parser.epilog = _EPILOG
    parser.add_argument("systems", nargs="+", metavar="NAME=WHERE", help="two or more systems; see below")
    parser.add_argument("--prompts", type=Path, required=True, help="conversations or FastChat questions, JSONL")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; run again, it goes on")
    parser.add_argument(
        "--scorer", help="who decides: playground, text (exact measures) or the folder of an attribute model"
    )
    parser.add_argument(
        "--weights", metavar="NAME=NUMBER,…",
        help="what counts as better, for example helpfulness=1,toxicity=-0.5 "
        "(default: 1 or -1 for every attribute with a best end)",
    )  # fmt: skip
    parser.add_argument(
        "--tie-margin", type=float, default=0.0, help="weighted differences up to this are ties (default: %(default)s)"
    )
    parser.add_argument(
        "--judge", metavar="MODEL", help="let this model at an OpenAI-compatible endpoint decide instead"
    )
    parser.add_argument("--judge-url", metavar="URL", help="its endpoint (default: OPENAI_BASE_URL)")
    parser.add_argument("--judge-reasoning", action="store_true", help="it thinks first: see `steerlm judge`")
    parser.add_argument(
        "--judge-max-tokens", type=int, metavar="N", help="its longest output, thinking included (default: as there)"
    )
    parser.add_argument("--protocol", choices=("vicuna", "mt-bench-pair"), default="vicuna", help="what it is asked")
    parser.add_argument("--references", type=Path, help="reference answers for the judge, JSONL (mt-bench)")
    parser.add_argument("--yes", action="store_true", help="do not ask before the judge costs money")
    parser.add_argument("--num-prompts", type=int, help="use so many, drawn at random (default: all)")
    parser.add_argument("--elo-games", type=int, metavar="N", help="games per random order of Elo (default: all)")
    options.add_sampling(parser)
    parser.add_argument("--batch-size", type=int, default=64, help="answers decoded together (default: %(default)s)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the weights")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Compare what the arguments name and print the outcome."""
    from steerlm.studies.compare.answering import AnswerSampling
    from steerlm.studies.compare.study import compare
    from steerlm.studies.compare.systems import parse_systems

    common.check_sampling(arguments)
    for name, least in (("num_prompts", 1), ("elo_games", 1), ("tie_margin", 0), ("batch_size", 1)):
        common.at_least(f"--{name.replace('_', '-')}", getattr(arguments, name), least)
    systems = parse_systems([named_models.in_run(text) for text in arguments.systems])
    common.existing_file(arguments.prompts, "--prompts")
    if arguments.references is not None:
        common.existing_file(arguments.references, "--references")
    decider = _decider(arguments)
    generation = AnswerSampling(
        arguments.max_new_tokens, arguments.temperature, arguments.top_k, arguments.batch_size, arguments.precision
    )
    with common.held_folder(arguments.out):
        results = compare(
            systems,
            arguments.prompts,
            decider,
            arguments.out,
            generation=generation,
            num_prompts=arguments.num_prompts,
            games_per_run=arguments.elo_games,
            seed=arguments.seed,
        )
    _print_comparison(results)
    terminal.say(f"report   {arguments.out / 'comparison.html'}")
    return 0


def _decider(arguments: argparse.Namespace) -> ByScorer | ByJudge:
    from steerlm.studies.compare.deciding import parse_weights
    from steerlm.studies.compare.study import ByScorer

    if (arguments.judge is None) == (arguments.scorer is None):
        raise UserError(
            "say who decides: --scorer (playground, text, or the folder of an attribute model) or --judge MODEL"
        )
    if arguments.judge is not None:
        return _judge(arguments)
    if arguments.scorer not in ("playground", "text"):
        arguments.scorer = str(named_models.attribute_model(Path(arguments.scorer), "--scorer"))
    weights = parse_weights(arguments.weights) if arguments.weights else None
    return ByScorer(arguments.scorer, weights, arguments.tie_margin)


def _judge(arguments: argparse.Namespace) -> ByJudge:
    from steerlm.scorers.llm.client import Cost, Endpoint, JudgeClient
    from steerlm.studies.compare.study import ByJudge
    from steerlm.studies.judge.printing import confirm

    if arguments.weights:
        raise UserError("--weights belong to a scorer; a judge decides by itself")
    endpoint = Endpoint.from_environment(arguments.judge_url, arguments.judge)

    def approve(cost: Cost) -> bool:
        return confirm(cost, None, None, False, arguments.yes, terminal.console())

    client = JudgeClient(
        endpoint,
        arguments.out / "replies.jsonl",
        reasoning=arguments.judge_reasoning,
        max_tokens=arguments.judge_max_tokens,
    )
    return ByJudge(client, arguments.protocol, approve, arguments.references)


def _print_comparison(results: ComparisonResult) -> None:
    """Print the table, what a reader must know before it, and why figures are missing."""
    from rich.table import Table

    from steerlm.reporting.comparison import comparison_rows, missing_figures

    console = terminal.console()
    for note in results.notes:
        console.print(f"[yellow]{note}[/yellow]")
    decided = f"{results.prompts.compared} prompts, decided by {results.decided_by.label}"
    table = Table(title=f"{decided}; in brackets: 95 % intervals, clustered by prompt", title_justify="left")
    rows = comparison_rows(results)
    for column in rows[0]:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    ranking = results.ranking
    if ranking.flip_rate is not None and ranking.position_bias is not None:
        flips, first = 100 * ranking.flip_rate.value, 100 * ranking.position_bias.value
        terminal.say(
            f"{flips:.1f} % of pairs have another winner in the other order; the first shown wins {first:.1f} %"
        )
    for note in missing_figures(results):
        console.print(f"[dim]{note}[/dim]", highlight=False)
