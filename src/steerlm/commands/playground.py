"""Generate the embedded world and pretrain its base model."""

from __future__ import annotations

import argparse

from steerlm.commands import common, options
from steerlm.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser, optional=True)


def run(arguments: argparse.Namespace) -> int:
    """Build the playground of a recipe."""
    if arguments.recipe is None:
        raise UserError("steerlm playground needs a recipe: steerlm playground playground")
    return common.run_in_recipe(common.checked_recipe(arguments, "playground"), "playground")
