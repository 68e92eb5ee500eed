"""Prefer the answer nearer to the goal: pairs of annotated answers, each under both goals."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from steerlm.commands import common, options


def add(parser: argparse.ArgumentParser) -> None:
    note = "; without a recipe: a field of the section contrast, or train_sft.FIELD"
    options.add_recipe(parser, note, optional=True)
    options.add_tuning(parser)


def run(arguments: argparse.Namespace) -> int:
    """Contrast in a recipe's run folder, or from the files named."""
    if arguments.recipe is not None:
        return common.run_in_recipe(common.checked_recipe(arguments, "contrast"), "contrast")
    from steerlm.config import ContrastConfig

    def load() -> Callable[..., common.Summary]:
        from steerlm.stages.contrast.stage import contrast

        return contrast

    return common.tune(arguments, ContrastConfig, "contrast", load)
