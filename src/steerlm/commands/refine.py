"""SteerLM 2.0: sample at settings of the whole range, weigh by Bayes' rule, fine-tune."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

from steerlm.commands import common, options


def add(parser: argparse.ArgumentParser) -> None:
    note = "; without a recipe: a field of the section refine, or train_sft.FIELD"
    options.add_recipe(parser, note, optional=True)
    options.add_tuning(parser)
    options.add_cluster(parser)


def run(arguments: argparse.Namespace) -> int:
    """Refine in a recipe's run folder, or from the files named."""
    from steerlm.storage.cluster import chosen_cluster

    cluster = chosen_cluster(arguments.ray, arguments.workers)
    if arguments.recipe is not None:
        return common.run_in_recipe(common.checked_recipe(arguments, "refine"), "refine", cluster)
    from steerlm.config import RefineConfig

    def load() -> Callable[..., common.Summary]:
        from steerlm.stages.refine.stage import refine

        return partial(refine, cluster=cluster)

    return common.tune(arguments, RefineConfig, "refine", load)
