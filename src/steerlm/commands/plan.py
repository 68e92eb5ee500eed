"""Memory, time and cost of every step on given devices, before any of them."""

from __future__ import annotations

import argparse
import re

from steerlm.commands import common, options, terminal
from steerlm.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser)
    options.add_skip_bad_records(parser)
    parser.add_argument(
        "--gpus", metavar="COUNTxDEVICE",
        help="devices in each node: H100, H200, A100-40GB, A100-80GB, L40S or RTX4090, for example 8xH100 "
        "(default: this machine)",
    )  # fmt: skip
    parser.add_argument("--nodes", type=int, default=1, help="how many such nodes (default: %(default)s)")
    parser.add_argument("--price-per-gpu-hour", type=float, metavar="X", help="adds what every step costs")
    parser.add_argument(
        "--tokens", metavar="N", help="tokens of one pass over the training data, for example 120M (default: read it)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the plan; 1 where a problem was found, a step that does not fit among them."""
    if arguments.gpus is None and arguments.nodes != 1:
        raise UserError(f"--nodes {arguments.nodes} needs --gpus: how many of what are in each node")
    price = arguments.price_per_gpu_hour
    if price is not None and not 0 <= price < float("inf"):
        raise UserError(f"--price-per-gpu-hour must be 0 or more, got {price}")
    tokens = None if arguments.tokens is None else _count(arguments.tokens)
    recipe = common.recipe_of(arguments)
    from steerlm.planning.devices import parse_gpus
    from steerlm.planning.estimate import plan
    from steerlm.planning.printing import print_plan

    machines = None if arguments.gpus is None else parse_gpus(arguments.gpus, arguments.nodes)
    return print_plan(plan(recipe, machines, tokens), terminal.console(), price)


def _count(text: str) -> int:
    """Read a number of tokens: 250000, 250k, 120M, 1.5B."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMbB]?)", text.replace(",", "").replace("_", ""))
    if found is None or float(found.group(1)) == 0:
        raise UserError(f"--tokens {text!r} is not a number of tokens, for example 250000, 250k, 120M")
    return round(float(found.group(1)) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[found.group(2).lower()])
