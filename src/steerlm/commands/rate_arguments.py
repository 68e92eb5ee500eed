"""The arguments of `steerlm rate`: standard library only, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8321


def add_rate(parser: argparse.ArgumentParser) -> None:
    """Add the five actions of `steerlm rate` to its parser."""
    parser.description = "Let people compare or rate answers on a local web page. A study is one folder."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    new = _action(actions, "new", "make a study of stored answers (compare) or conversations (rate)")
    new.add_argument(
        "--answers", action="append", default=[], metavar="NAME=FILE",
        help="compare: a system's stored answers, conversations whose ids are the prompts' (repeat per system)",
    )  # fmt: skip
    new.add_argument("--questions", type=Path, help="compare: questions, JSONL (default: from the conversations)")
    new.add_argument("--data", type=Path, help="rate: conversations, JSONL")
    new.add_argument("--attributes", help="rate: schema preset (oasst, helpsteer, steerlm, paper) or YAML file")
    new.add_argument(
        "--turns", choices=["last", "all"], default="last", help="rate: which answers (default: %(default)s)"
    )
    new.add_argument("--question", help="what people are asked (default: which answer is better; how they rate it)")
    new.add_argument(
        "--num-prompts", type=int, help="use so many prompts (conversations), drawn at random (default: all)"
    )
    new.add_argument("--seed", type=int, default=0, help="seed of draw, order and sides (default: %(default)s)")

    invite = _action(actions, "invite", "print each annotator's link; without names: links and progress of all")
    invite.add_argument("names", nargs="*", metavar="NAME", help="annotators, new or known")
    invite.add_argument(
        "--url",
        default=f"http://{DEFAULT_HOST}:{DEFAULT_PORT}",
        help="where they find the page (default: %(default)s)",
    )

    serve = _action(actions, "serve", "serve the page until interrupted")
    serve.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default: %(default)s, this machine)")
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 = any free one (default: %(default)s)")

    results = _action(actions, "results", "agreement, bias and rankings: a table and STUDY/results.json")
    results.add_argument("--judge", type=Path, help="a judge's verdicts on the same prompts, JSONL")

    _action(actions, "export", "write the ratings as training data: STUDY/ratings.jsonl")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
    action.add_argument("study", type=Path, help="folder of the study")
    return action
