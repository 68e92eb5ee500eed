"""Sweep every dial on held-out prompts and measure what comes out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, named_models, options, steerbench, terminal, ways
from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.stages.evaluate.stage import SuiteRun


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser, "; without a recipe: a field of the section evaluate", optional=True)
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help="steerable checkpoint, or run folder: its final model (repeatable)",
    )
    parser.add_argument("--prompts", help="conversations that end with a user turn, JSONL (suite toxicity: HH-RLHF)")
    parser.add_argument(
        "--suite", choices=("toxicity", "humor", "steerbench"),
        help="only this experiment of the paper, or the benchmark SteerBench",
    )  # fmt: skip
    parser.add_argument(
        "--annotator", type=Path,
        help="attribute model that labelled the training data: measures, but is not independent",
    )  # fmt: skip
    options.add_out_and_seed(parser)
    ways.add(parser)
    steerbench.add(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the models of a recipe's run, or those named."""
    if arguments.ways is not None:
        if arguments.suite is not None:
            raise UserError("give either --suite or --ways")
        return ways.run(arguments)
    if arguments.suite == "steerbench":
        arguments.model = [named_models.in_run(text) for text in arguments.model]
        return steerbench.run(arguments)
    if arguments.recipe is None:
        return _alone(arguments)
    recipe = common.recipe_of(arguments)
    if arguments.suite is None:
        common.run_in_recipe(recipe, "evaluate")
    else:
        _suite_of_run(arguments)
    from steerlm.reporting.report import write_report

    terminal.say(f"report   {write_report(recipe.run_dir)}")
    return 0


def _alone(arguments: argparse.Namespace) -> int:
    from steerlm.config import EvaluateConfig

    named = common.named_files(arguments.model, "--model")
    if not named:
        raise UserError(
            "--model is missing; give a recipe, whose run is evaluated, or --model PATH (NAME=PATH names it, and "
            "several may be given) with --prompts and --out"
        )
    found = {name: named_models.steerable_model(path, "--model") for name, path in named.items()}
    models, infos = {name: path for name, (path, _) in found.items()}, [info for _, info in found.values()]
    config = common.section_of(arguments.overrides, EvaluateConfig, "evaluate")
    out, annotator = common.needed(arguments, "out"), arguments.annotator
    if annotator is not None:
        annotator = named_models.attribute_model(annotator, "--annotator")
    if arguments.suite is None:
        common.existing_file(Path(common.needed(arguments, "prompts")), "--prompts")
    from steerlm.scorers.dials import without_own_measures

    schema, seed = without_own_measures(infos[0].schema), arguments.seed
    config.check(schema)

    def work() -> common.Summary:
        from steerlm.reporting.report import write_report
        from steerlm.stages.evaluate.stage import SuiteRun, evaluate

        summary: common.Summary = {"suite": arguments.suite}
        if arguments.suite is not None:
            _suite(SuiteRun(config, arguments.suite, models, arguments.prompts, schema, seed, annotator), out)
        else:
            summary = evaluate(config, models, Path(arguments.prompts), schema, out, seed=seed, annotator=annotator)
        terminal.say(f"report   {write_report(out)}")
        return summary

    return common.run_alone("evaluate", out, work)


def _suite_of_run(arguments: argparse.Namespace) -> None:
    """Run a suite on the models of a finished run, into its evaluation's folder."""
    from steerlm.stages.evaluate.stage import SuiteRun

    recipe = common.recipe_of(arguments)
    with common.opened_run(recipe) as folder:
        models = common.finished_models(folder)
        name = arguments.suite
        prompts = arguments.prompts or (recipe.evaluate.toxicity_prompts if name == "toxicity" else None)
        suite = SuiteRun(recipe.evaluate, name, models, prompts, folder.schema, recipe.seed, folder.annotator)
        _suite(suite, folder.stage("evaluate") / "suites" / name)


def _suite(suite: SuiteRun, out: Path) -> None:
    """Run a suite and print its scores beside the paper's."""
    from steerlm.reporting.suites import suite_table
    from steerlm.reporting.terminal import print_table
    from steerlm.stages.evaluate.stage import evaluate_suite

    header, *rows = suite_table(evaluate_suite(suite, out))
    print_table(terminal.console(), f"{suite.name}: mean score, 0 to 1, per level asked for", header, rows)
