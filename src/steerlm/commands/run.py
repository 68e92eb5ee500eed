"""Run every step of a recipe; go on where it stopped."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from steerlm.commands import common, options, terminal
from steerlm.commands.summaries import print_verdict, warnings_of
from steerlm.errors import UserError, did_you_mean, shell_word

if TYPE_CHECKING:
    from steerlm.config import Recipe


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser)
    parser.add_argument("--dry-run", action="store_true", help="validate everything and estimate cost, compute nothing")
    parser.add_argument("--force", action="store_true", help="go on where labels can teach a dial nothing")
    parser.add_argument(
        "--from", dest="redo_from", metavar="STAGE", help="delete the results from this stage on and redo them"
    )
    options.add_skip_bad_records(parser)


def _dry_run(recipe: Recipe, redo_from: str | None) -> int:
    from steerlm.planning.estimate import plan
    from steerlm.planning.printing import print_plan
    from steerlm.runs import RunFolder

    result = plan(recipe)
    try:
        RunFolder(recipe).check(redo_from)
    except UserError as error:
        result.problems.insert(0, str(error))
    return print_plan(result, terminal.console())


def run(arguments: argparse.Namespace) -> int:
    """Run a recipe and say where the report is and how to talk to the model."""
    from steerlm.runs import STAGES, recipe_stages
    from steerlm.storage.spending import peak_memory_mib

    recipe = common.recipe_of(arguments)
    redo_from = arguments.redo_from.replace("-", "_") if arguments.redo_from else None
    if redo_from is not None and redo_from not in STAGES:
        raise UserError(f"--from {arguments.redo_from!r} is not a stage: {did_you_mean(redo_from, STAGES)}")
    if arguments.dry_run:
        return _dry_run(recipe, redo_from)
    common.check_recipe_files(recipe, recipe_stages(recipe), redo_from)
    from steerlm.pipeline import final_models, run_recipe

    warnings: list[str] = []
    say_stage = common.notifier(recipe.run_dir)

    def notify(stage: str, record: Mapping[str, Any] | None) -> None:
        say_stage(stage, record)
        if record is not None:
            warnings.extend(f"{stage}: {text}" for text in warnings_of(stage, record["summary"]))

    description = recipe.description.strip().splitlines()
    terminal.say(f"{recipe.name}  {description[0] if description else ''}".rstrip())
    folder = run_recipe(recipe, redo_from=redo_from, notify=notify, force=arguments.force)
    for text in warnings:
        terminal.say(f"warning  {text}")
    print_verdict(folder.paths)
    model = list(final_models(folder).values())[-1]
    last = recipe.schema_.attributes[-1]
    dial = f" --{last.name} {last.levels[-1]}" if recipe.train_sft.conditioning else ""
    terminal.say(f"\nreport   {folder.path / 'report.html'}")
    terminal.say(f"chat     steerlm chat {shell_word(model)}{dial}")
    terminal.say(f"serve    steerlm serve {shell_word(model)}")
    if (peak := peak_memory_mib()) is not None:
        terminal.console().print(f"[dim]peak memory of this process {peak} MiB[/dim]")
    return 0
