"""The options of `steerlm evaluate --ways`, and the comparison of ways to steer."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, named_models, terminal
from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.runs import RunFolder
    from steerlm.studies.ways.asking import Way, WaysRun


def add(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("ways to steer")
    group.add_argument(
        "--ways", metavar="WAY,…",
        help="compare ways on one model: header,guided (or guided-N, N the strength),words,demonstrations,vector, each "
        "also drawn N times: best-of-N (of words), demonstrations-best-of-N",
    )  # fmt: skip
    group.add_argument(
        "--base", help="model that the other ways ask: a folder or hub id (in a run: train_sft.base_model)"
    )
    group.add_argument(
        "--demonstrations", type=Path,
        help="annotated answers for demonstrations and vector (in a run: annotate/train.jsonl)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Compare the ways and print their table."""
    from steerlm.studies.ways.asking import parse_ways

    ways = parse_ways(arguments.ways)
    if arguments.recipe is None:
        out = common.needed(arguments, "out")
        job = _alone(arguments, ways)
        with common.held_folder(out):
            _compare(job, out)
            _report(out)
        return 0
    recipe = common.recipe_of(arguments)
    with common.opened_run(recipe) as folder:
        _compare(_of_run(arguments, ways, folder), folder.stage("evaluate") / "ways")
    _report(recipe.run_dir)
    return 0


def _alone(arguments: argparse.Namespace, ways: Sequence[Way]) -> WaysRun:
    from steerlm.config import EvaluateConfig
    from steerlm.studies.ways.asking import WaysRun

    models = common.named_files(arguments.model, "--model")
    if len(models) != 1:
        raise UserError(f"--ways compares ways to steer one model: give --model NAME=PATH once, got {len(models)}")
    model, info = named_models.steerable_model(next(iter(models.values())), "--model")
    asking_base = [way.name for way in ways if way.kind != "header"]
    if asking_base and arguments.base is None:
        raise UserError(f"--base is missing: what {' and '.join(asking_base)} ask, a folder or hub id")
    base = named_models.base_model(arguments.base, "--base") if arguments.base else str(model)
    prompts = common.existing_file(Path(common.needed(arguments, "prompts")), "--prompts")
    if arguments.demonstrations is not None:
        common.existing_file(arguments.demonstrations, "--demonstrations")
    if arguments.annotator is not None:
        arguments.annotator = named_models.attribute_model(arguments.annotator, "--annotator")
    config = common.section_of(arguments.overrides, EvaluateConfig, "evaluate")
    return WaysRun(
        config, ways, model, base, prompts, info.schema, arguments.seed, arguments.demonstrations, arguments.annotator
    )


def _of_run(arguments: argparse.Namespace, ways: Sequence[Way], folder: RunFolder) -> WaysRun:
    from steerlm.studies.ways.asking import WaysRun

    recipe, paths = folder.recipe, folder.paths
    model = list(common.finished_models(folder).values())[-1]
    prompts = Path(arguments.prompts) if arguments.prompts else recipe.evaluate.prompts or paths.splits("prepare")[1]
    return WaysRun(
        recipe.evaluate,
        ways,
        model,
        arguments.base or str(recipe.train_sft.base_model),
        prompts,
        recipe.schema_,
        recipe.seed,
        arguments.demonstrations or paths.splits("annotate")[0],
        paths.attribute_model,
    )


def _compare(job: WaysRun, out: Path) -> None:
    from steerlm.reporting.terminal import print_table
    from steerlm.reporting.ways import ways_table
    from steerlm.studies.ways.study import compare_ways

    result = compare_ways(job, out)
    header, *rows = ways_table(result)
    print_table(terminal.console(), "ways to steer, on the same prompts and settings", header, rows, words=2)
    for line in result.cautions:
        terminal.note("[yellow]note[/yellow]", line)


def _report(folder: Path) -> None:
    from steerlm.reporting.report import write_report

    terminal.say(f"report   {write_report(folder)}")
