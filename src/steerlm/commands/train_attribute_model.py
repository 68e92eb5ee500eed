"""Step 1: train the attribute prediction model."""

from __future__ import annotations

import argparse

from steerlm.commands import common, launching, options


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser, "; without a recipe: a field of the section train_attribute_model", optional=True)
    options.add_training(parser)
    launching.add_nproc(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train on a recipe's data, or on the files named."""
    if arguments.recipe is not None:
        recipe = common.checked_recipe(arguments, "train_attribute_model")
        section = recipe.train_attribute_model
        if section is not None and (status := launching.relaunched(arguments, section)) is not None:
            return status
        return common.run_in_recipe(recipe, "train_attribute_model")
    from steerlm.config import TrainAttributeModelConfig

    out, given = (
        common.needed(arguments, "out"),
        common.training_of(arguments, TrainAttributeModelConfig, "train-attribute-model"),
    )
    if (status := launching.relaunched(arguments, given.config)) is not None:
        return status

    def work() -> common.Summary:
        from steerlm.stages.train_attribute_model.stage import train_attribute_model

        return train_attribute_model(given.config, given.train, given.validation, given.schema, out, arguments.seed)

    return common.run_alone("train-attribute-model", out, work)
