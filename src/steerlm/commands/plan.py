"""`steerlm plan RECIPE --gpus 8xH100`: arguments and glue; imports nothing heavy until it runs."""

from __future__ import annotations

import argparse
import re

from rich.console import Console

from steerlm.cli import parse_overrides
from steerlm.config import load_recipe
from steerlm.errors import UserError
from steerlm.planning.devices import parse_gpus


def run_plan(arguments: argparse.Namespace) -> int:
    """Print the plan; returns 1 where a problem was found or a step does not fit.

    Raises:
        UserError: a mistake in the arguments or the recipe.
    """
    from steerlm.planning.estimate import plan
    from steerlm.planning.printing import print_plan

    if arguments.gpus is None and arguments.nodes != 1:
        raise UserError(f"--nodes {arguments.nodes} needs --gpus: how many of what are in each node")
    if arguments.price_per_gpu_hour is not None and not 0 <= arguments.price_per_gpu_hour < float("inf"):
        raise UserError(f"--price-per-gpu-hour must be 0 or more, got {arguments.price_per_gpu_hour}")
    tokens = None if arguments.tokens is None else _count(arguments.tokens)
    machines = None if arguments.gpus is None else parse_gpus(arguments.gpus, arguments.nodes)
    result = plan(load_recipe(arguments.recipe, parse_overrides(arguments.overrides)), machines, tokens)
    print_plan(result, Console(), arguments.price_per_gpu_hour)
    return 0 if result.fits and not result.problems else 1


def _count(text: str) -> int:
    """Read a number of tokens: 250000, 250k, 120M, 1.5B."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmMbB]?)", text.replace(",", "").replace("_", ""))
    if found is None or float(found.group(1)) == 0:
        raise UserError(f"--tokens {text!r} is not a number of tokens, for example 250000, 250k, 120M")
    return round(float(found.group(1)) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[found.group(2).lower()])
