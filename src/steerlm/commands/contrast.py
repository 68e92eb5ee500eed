"""Prefer the answer nearer to the goal: pairs of annotated answers, each under both goals."""

from __future__ import annotations

import argparse

from steerlm.commands import common


def add(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    note = "; without a recipe: a field of the section contrast, or train_sft.FIELD"
    common.add_recipe(parser, note, optional=True)
    common.add_tuning(parser)


def run(arguments: argparse.Namespace) -> int:
    """Contrast in a recipe's run folder, or from the files named."""
    if arguments.recipe is not None:
        return common.run_in_recipe(common.checked_recipe(arguments, "contrast"), "contrast")
    from steerlm.config import ContrastConfig

    given = common.tuning_of(arguments, ContrastConfig, "contrast")

    def work() -> common.Summary:
        from steerlm.stages.contrast.stage import contrast

        return contrast(
            given.config,
            sft=given.sft,
            steerable_model=given.model,
            attribute_model=given.attribute_model,
            data=given.data,
            validation=given.validation,
            schema=given.schema,
            out=given.out,
            seed=arguments.seed,
        )

    return common.run_alone("contrast", given.out, work)
