"""Choose how strongly each dial counts, by the error that each strength leaves on held-out prompts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, named_models, options, terminal
from steerlm.errors import UserError, shell_word

if TYPE_CHECKING:
    from steerlm.config import Recipe

_LABELLER = "those who labelled the training data measure it; name the attribute model with --annotator"
_NO_SUITES = "it runs no suites; leave it out"
_WITHOUT_EFFECT = {
    "prompts": "give --prompts",
    "num_prompts": "set tune_guidance.num_prompts",
    "settings": "the other dials stand at their defaults; leave it out",
    "guidance": "set tune_guidance.strengths",
    "by": "it reports no groups; leave it out",
    "attribute_models": _LABELLER,
    "classifiers": _LABELLER,
    "judge": _LABELLER,
    "suites": _NO_SUITES,
    "toxicity_prompts": _NO_SUITES,
    "suite_prompts": _NO_SUITES,
}
"""Fields of `evaluate` that a tuning without a recipe does not read, and what to do instead."""


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
        return _tune_run(common.checked_recipe(arguments, "tune_guidance"), arguments.recipe)
    from steerlm.config import EvaluateConfig, TuneGuidanceConfig
    from steerlm.scorers.dials import without_own_measures

    model, info = named_models.steerable_model(common.needed(arguments, "model"), "--model")
    prompts = common.existing_file(Path(common.needed(arguments, "prompts")), "--prompts")
    annotator = arguments.annotator
    if annotator is not None:
        annotator = named_models.attribute_model(annotator, "--annotator")
    asked = [pair for pair in arguments.overrides if pair.startswith("evaluate.")]
    _check_effect(asked)
    evaluation = common.section_of(asked, EvaluateConfig, "evaluate")
    mine = [pair for pair in arguments.overrides if pair not in asked]
    config = common.section_of(mine, TuneGuidanceConfig, "tune_guidance")
    config.check(evaluation.engine)
    out, schema = common.needed(arguments, "out"), without_own_measures(info.schema)

    def work() -> common.Summary:
        from steerlm.stages.evaluate.sweeping import read_prompts
        from steerlm.stages.tune_guidance import TuningRun, tune_guidance

        run = TuningRun(config, evaluation, model, schema, annotator, arguments.seed)
        return tune_guidance(run, read_prompts(prompts, schema, config.num_prompts, arguments.seed), out)

    return common.run_alone("tune-guidance", out, work)


def _check_effect(overrides: Sequence[str]) -> None:
    """Refuse fields of `evaluate` that change nothing here.

    Raises:
        UserError: with what to give instead.
    """
    for pair in overrides:
        field = pair.partition("=")[0].split(".")[1]
        if field in _WITHOUT_EFFECT:
            raise UserError(f"--set {pair} has no effect on tune-guidance: {_WITHOUT_EFFECT[field]}")


def _tune_run(recipe: Recipe, place: str) -> int:
    """Tune a run's model; without the section by its default values."""
    from steerlm.config import build_recipe
    from steerlm.runs import RunFolder

    if recipe.tune_guidance is None:
        recipe = build_recipe({**recipe.model_dump(mode="json"), "tune_guidance": {}}, str(place))
    folder = RunFolder(recipe)
    new = folder.done("tune_guidance") is None
    common.run_in_recipe(recipe, "tune_guidance")
    if new and folder.done("evaluate") is not None:
        terminal.say(f"`steerlm run {shell_word(place)} --from evaluate` measures the dials at these strengths")
    return 0
