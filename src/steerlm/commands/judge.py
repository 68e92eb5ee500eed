"""Let an LLM compare or rate answers; re-analyse stored judgements."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, terminal
from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.scorers.llm.protocols import SystemAnswers


def add(parser: argparse.ArgumentParser) -> None:
    protocols = ("vicuna", "mt-bench-pair", "mt-bench-single", "rubric")
    parser.add_argument(
        "action", nargs="?", choices=["export"],
        help="write the ratings in OUT (protocol rubric) as training data: OUT/ratings.jsonl",
    )  # fmt: skip
    parser.add_argument("--protocol", choices=protocols, help="what to ask the judge")
    parser.add_argument(
        "--questions", type=Path, help="questions, JSONL (default: from answers that are conversations)"
    )
    parser.add_argument(
        "--answers", action="append", default=[], metavar="NAME=FILE", help="a system's answers, JSONL (repeatable)"
    )
    parser.add_argument("--references", type=Path, help="reference answers, JSONL (mt-bench)")
    parser.add_argument(
        "--baseline", metavar="NAME", help="compare with this system only, and give scores as its share"
    )
    parser.add_argument("--attributes", help="schema preset or YAML file: what the rubric rates")
    parser.add_argument("--reviews", type=Path, nargs="+", default=[], help="re-analyse stored judgements, ask nobody")
    parser.add_argument("--reparse", action="store_true", help="with --reviews: read the stored outputs anew")
    parser.add_argument("--out", type=Path, help="folder to write to; run again, it pays for nothing twice")
    parser.add_argument("--base-url", help="OpenAI-compatible endpoint (default: OPENAI_BASE_URL)")
    parser.add_argument("--model", help="the judge (default: STEERLM_JUDGE_MODEL); its key is OPENAI_API_KEY")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the judge (default: %(default)s)")
    parser.add_argument(
        "--reasoning", action="store_true",
        help="the judge thinks first: no temperature, max_completion_tokens, and room to think",
    )  # fmt: skip
    parser.add_argument(
        "--max-tokens", type=int,
        help="its longest output, thinking included (default: the protocol's 512 to 2048; 8192 more with --reasoning)",
    )  # fmt: skip
    parser.add_argument("--max-in-flight", type=int, default=8, help="requests at once (default: %(default)s)")
    parser.add_argument("--price-in", type=float, help="price of a million tokens read, for the estimate")
    parser.add_argument("--price-out", type=float, help="price of a million tokens written")
    parser.add_argument("--dry-run", action="store_true", help="estimate requests, tokens and cost; ask nobody")
    parser.add_argument("--yes", action="store_true", help="do not ask before it costs money")


def run(arguments: argparse.Namespace) -> int:
    """Ask the judge, or sum up what was asked before; 1 where a question has no verdict for lack of an answer."""
    from steerlm.scorers.llm.client import Endpoint, JudgeClient
    from steerlm.studies.judge import study
    from steerlm.studies.judge.printing import confirm, print_results

    out: Path | None = arguments.out
    if out is None:
        raise UserError("--out is missing; give the folder to write to")
    files = common.named_files(arguments.answers, "--answers")
    for option, paths in (
        ("--answers", files.values()),
        ("--reviews", arguments.reviews),
        ("--questions", [arguments.questions] if arguments.questions else []),
        ("--references", [arguments.references] if arguments.references else []),
    ):
        for path in paths:
            common.existing_file(path, option)
    common.at_least("--max-in-flight", arguments.max_in_flight, 1)
    common.at_least("--temperature", arguments.temperature, 0)
    systems = study.read_systems(files)
    if arguments.reviews:
        schema = common.schema_of(arguments.attributes) if arguments.attributes else None
        with common.held_folder(out):
            results = study.analyse(
                arguments.reviews, systems, out, baseline=arguments.baseline, reparse=arguments.reparse, schema=schema
            )
        print_results(results, out, terminal.console())
        return 0
    if arguments.action == "export":
        return _export(arguments, systems, list(files.values()), out)
    protocol = arguments.protocol
    if protocol is None or not systems:
        raise UserError("give --protocol and --answers NAME=FILE per system, or stored judgements with --reviews")
    questions = study.questions_for(arguments.questions, list(files.values()), arguments.references)
    schema = common.schema_of(arguments.attributes) if protocol == "rubric" else None
    asks = study.build_asks(protocol, questions, systems, arguments.baseline, schema)
    client = JudgeClient(
        Endpoint.from_environment(arguments.base_url, arguments.model),
        out / "replies.jsonl",
        arguments.max_in_flight,
        arguments.temperature,
        arguments.reasoning,
        arguments.max_tokens,
    )
    if bare := study.without_reference(protocol, questions):
        terminal.say(f"{len(bare)} questions are judged without the reference answers of MT-bench (--references)")
    cost = client.estimate([ask.prompt for ask in asks])
    prices = (arguments.price_in, arguments.price_out)
    if not confirm(cost, *prices, arguments.dry_run, arguments.yes, terminal.console()):
        return 0
    with common.held_folder(out):
        results = study.run_judge(asks, questions, systems, client, out, arguments.baseline)
    print_results(results, out, terminal.console())
    return 1 if results["counts"]["failed"] or not results["counts"]["parsed"] else 0


def _export(
    arguments: argparse.Namespace, systems: Mapping[str, SystemAnswers], files: Sequence[Path], out: Path
) -> int:
    from steerlm.studies.judge.export import export_judgements
    from steerlm.studies.judge.study import questions_for

    schema = common.schema_of(arguments.attributes)
    judgements = common.existing_file(out / "judgements.jsonl", "--out")
    questions = questions_for(arguments.questions, files, arguments.references)
    path = out / "ratings.jsonl"
    with common.held_folder(out):
        done = export_judgements(judgements, questions, systems, schema, path)
    terminal.say(f"{done.ratings} ratings of {done.conversations} answers: {path}")
    if done.unreadable:
        terminal.say(f"{done.unreadable} ratings left out: no verdict could be read")
    return 0
