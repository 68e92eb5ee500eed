"""SteerLM 2.0: sample at settings of the whole range, weigh by Bayes' rule, fine-tune."""

from __future__ import annotations

import argparse

from steerlm.commands import common


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    note = "; without a recipe: a field of the section refine, or train_sft.FIELD"
    common.add_recipe(parser, note, optional=True)
    common.add_tuning(parser)
    common.add_cluster(parser)


def run(arguments: argparse.Namespace) -> int:
    """Refine in a recipe's run folder, or from the files named."""
    from steerlm.storage.cluster import chosen_cluster

    cluster = chosen_cluster(arguments.ray, arguments.workers)
    if arguments.recipe is not None:
        return common.run_in_recipe(common.checked_recipe(arguments, "refine"), "refine", cluster)
    from steerlm.config import RefineConfig

    given = common.tuning_of(arguments, RefineConfig, "refine")

    def work() -> common.Summary:
        from steerlm.stages.refine.stage import refine

        return refine(
            given.config,
            sft=given.sft,
            steerable_model=given.model,
            attribute_model=given.attribute_model,
            data=given.data,
            validation=given.validation,
            schema=given.schema,
            out=given.out,
            seed=arguments.seed,
            cluster=cluster,
        )

    return common.run_alone("refine", given.out, work)
