"""Step 4: sample, score, keep what came out as asked, fine-tune again."""

from __future__ import annotations

import argparse
from pathlib import Path

from steerlm.commands import common, launching


def add(parser: argparse.ArgumentParser) -> None:
    note = "; without a recipe: a field of the section bootstrap, or train_sft.FIELD"
    common.add_recipe(parser, note, optional=True)
    parser.add_argument("--sft-model", type=Path, help="steerable checkpoint to sample from")
    parser.add_argument("--attribute-model", type=Path, help="attribute model that scores the samples")
    parser.add_argument("--base-model", help="model that start_from: base starts from")
    parser.add_argument("--data", type=Path, help="annotated training conversations, JSONL")
    parser.add_argument("--validation", type=Path, help="annotated validation conversations, JSONL")
    common.add_out_and_seed(parser)
    common.add_cluster(parser)
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
    from steerlm.config import BootstrapConfig, TrainSftConfig

    sft_model, out = common.needed(arguments, "sft_model"), common.needed(arguments, "out")
    info = common.steerable_model(sft_model, "--sft-model")
    attribute_model = common.attribute_model(common.needed(arguments, "attribute_model"), "--attribute-model")
    data, validation = (
        common.existing_file(common.needed(arguments, name), f"--{name}") for name in ("data", "validation")
    )
    base = str(sft_model) if arguments.base_model is None else common.base_model(arguments.base_model)
    for_sft = [pair for pair in arguments.overrides if pair.startswith("train_sft.")]
    own = [pair for pair in arguments.overrides if pair not in for_sft]
    config = common.section_of(own, BootstrapConfig, "bootstrap")
    sft = common.section_of(for_sft, TrainSftConfig, "train_sft", base_model=base, template=info.template)
    if (status := launching.relaunched(arguments, sft)) is not None:
        return status

    def work() -> common.Summary:
        from steerlm.scorers.dials import without_own_measures
        from steerlm.stages.bootstrap.stage import bootstrap

        return bootstrap(
            config,
            sft=sft,
            sft_model=sft_model,
            attribute_model=attribute_model,
            data=data,
            validation=validation,
            schema=without_own_measures(info.schema),
            out=out,
            seed=arguments.seed,
            cluster=cluster,
        )

    return common.run_alone("bootstrap", out, work)
