"""Step 4: sample, score, keep what came out as asked, fine-tune again."""

from __future__ import annotations

import argparse

from steerlm.commands import common, launching, named_models, options


def add(parser: argparse.ArgumentParser) -> None:
    note = "; without a recipe: a field of the section bootstrap, or train_sft.FIELD"
    options.add_recipe(parser, note, optional=True)
    options.add_tuning(parser)
    parser.add_argument("--base-model", help="model that start_from: base starts from")
    options.add_cluster(parser)
    launching.add_nproc(parser)


def run(arguments: argparse.Namespace) -> int:
    """Bootstrap in a recipe's run folder, or from the files named."""
    from steerlm.storage.cluster import chosen_cluster

    cluster = chosen_cluster(arguments.ray, arguments.workers)
    if arguments.recipe is not None:
        recipe = common.checked_recipe(arguments, "bootstrap")
        if (status := launching.relaunched(arguments, recipe.train_sft)) is not None:
            return status
        return common.run_in_recipe(recipe, "bootstrap", cluster)
    from steerlm.config import BootstrapConfig

    given = common.tuning_of(arguments, BootstrapConfig, "bootstrap")
    sft = given.sft
    if arguments.base_model is not None:
        sft = sft.model_copy(update={"base_model": named_models.base_model(arguments.base_model)})
    if (status := launching.relaunched(arguments, sft)) is not None:
        return status

    def work() -> common.Summary:
        from steerlm.stages.bootstrap.stage import bootstrap

        return bootstrap(
            given.config,
            sft=sft,
            sft_model=given.model,
            attribute_model=given.attribute_model,
            data=given.data,
            validation=given.validation,
            schema=given.schema,
            out=given.out,
            seed=arguments.seed,
            cluster=cluster,
        )

    return common.run_alone("bootstrap", given.out, work)
