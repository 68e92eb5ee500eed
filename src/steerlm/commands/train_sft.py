"""Step 3: attribute-conditioned supervised fine-tuning."""

from __future__ import annotations

import argparse

from steerlm.commands import common, launching, options


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser, "; without a recipe: a field of the section train_sft", optional=True)
    options.add_training(parser)
    launching.add_nproc(parser)


def run(arguments: argparse.Namespace) -> int:
    """Fine-tune on a recipe's annotated data, or on the files named."""
    if arguments.recipe is not None:
        recipe = common.checked_recipe(arguments, "train_sft")
        if (status := launching.relaunched(arguments, recipe.train_sft)) is not None:
            return status
        return common.run_in_recipe(recipe, "train_sft")
    from steerlm.config import TrainSftConfig

    out, given = common.needed(arguments, "out"), common.training_of(arguments, TrainSftConfig, "train-sft")
    if (status := launching.relaunched(arguments, given.config)) is not None:
        return status

    def work() -> common.Summary:
        from steerlm.stages.train_sft import train_sft

        return train_sft(given.config, given.train, given.validation, given.schema, out, arguments.seed)

    return common.run_alone("train-sft", out, work)
