"""Step 2: label every assistant turn with the attribute model."""

from __future__ import annotations

import argparse
from pathlib import Path

from steerlm.commands import common, inputs, named_models, options


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser, "; without a recipe: a field of the section annotate", optional=True)
    parser.add_argument("--model", type=Path, help="attribute model")
    parser.add_argument("--data", type=Path, nargs="+", help="conversations, JSONL")
    parser.add_argument("--out", type=Path, help="folder to write to")
    options.add_cluster(parser)


def run(arguments: argparse.Namespace) -> int:
    """Label a recipe's data, or the files named."""
    from steerlm.storage.cluster import chosen_cluster

    cluster = chosen_cluster(arguments.ray, arguments.workers)
    if arguments.recipe is not None:
        return common.run_in_recipe(common.checked_recipe(arguments, "annotate"), "annotate", cluster)
    from steerlm.config import AnnotateConfig

    config = common.section_of(arguments.overrides, AnnotateConfig, "annotate")
    out = common.needed(arguments, "out")
    data = [inputs.conversations_file(path, "--data") for path in common.needed(arguments, "data")]
    model = named_models.attribute_model(common.needed(arguments, "model"), "--model")

    def work() -> common.Summary:
        from steerlm.stages.annotate.stage import annotate

        return annotate(config, data, model, out, cluster)

    return common.run_alone("annotate", out, work)
