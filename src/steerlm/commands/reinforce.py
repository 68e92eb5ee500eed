"""Steerable reinforcement learning: GRPO with one reward per attribute, requests from the whole range."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from steerlm.commands import common, options
from steerlm.errors import UserError


def add(parser: argparse.ArgumentParser) -> None:
    note = "; without a recipe: a field of the section reinforce, or train_sft.FIELD"
    options.add_recipe(parser, note, optional=True)
    options.add_tuning(parser)


def run(arguments: argparse.Namespace) -> int:
    """Reinforce in a recipe's run folder, or from the files named."""
    import importlib.util

    if importlib.util.find_spec("trl") is None:
        raise UserError("steerlm reinforce needs TRL: pip install 'steerlm[baselines]'")
    if arguments.recipe is not None:
        return common.run_in_recipe(common.checked_recipe(arguments, "reinforce"), "reinforce")
    from steerlm.config import ReinforceConfig

    def load() -> Callable[..., common.Summary]:
        from steerlm.stages.reinforce.stage import reinforce

        return reinforce

    return common.tune(arguments, ReinforceConfig, "reinforce", load)
