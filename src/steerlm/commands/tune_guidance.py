"""Choose how strongly each dial counts, by the error that each strength leaves on held-out prompts."""

from __future__ import annotations

import argparse
from pathlib import Path

from steerlm.commands import common, options


def add(parser: argparse.ArgumentParser) -> None:
    note = "; without a recipe: a field of the section tune_guidance, or evaluate.FIELD"
    options.add_recipe(parser, note, optional=True)
    parser.add_argument("--model", type=Path, help="steerable checkpoint; the strengths are written into its folder")
    parser.add_argument("--prompts", type=Path, help="conversations that end with a user turn, JSONL")
    parser.add_argument("--annotator", type=Path, help="attribute model that labelled the training data")
    options.add_out_and_seed(parser)


def run(arguments: argparse.Namespace) -> int:
    """Tune the last model of a recipe's run, or the one named."""
    if arguments.recipe is not None:
        return common.run_in_recipe(common.checked_recipe(arguments, "tune_guidance"), "tune_guidance")
    from steerlm.config import EvaluateConfig, TuneGuidanceConfig
    from steerlm.scorers.dials import without_own_measures

    model = common.needed(arguments, "model")
    info = common.steerable_model(model, "--model")
    prompts = common.existing_file(Path(common.needed(arguments, "prompts")), "--prompts")
    annotator = arguments.annotator
    if annotator is not None:
        common.attribute_model(annotator, "--annotator")
    asked = [pair for pair in arguments.overrides if pair.startswith("evaluate.")]
    evaluation = common.section_of(asked, EvaluateConfig, "evaluate")
    mine = [pair for pair in arguments.overrides if pair not in asked]
    config = common.section_of(mine, TuneGuidanceConfig, "tune_guidance")
    out, schema = common.needed(arguments, "out"), without_own_measures(info.schema)

    def work() -> common.Summary:
        from steerlm.stages.evaluate.sweeping import read_prompts
        from steerlm.stages.tune_guidance import TuningRun, tune_guidance

        run = TuningRun(config, evaluation, model, schema, annotator, arguments.seed)
        return tune_guidance(run, read_prompts(prompts, schema, config.num_prompts, arguments.seed), out)

    return common.run_alone("tune-guidance", out, work)
