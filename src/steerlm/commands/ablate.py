"""Rerun the paper's ablation ladder on a recipe, with several seeds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, options, terminal

if TYPE_CHECKING:
    from steerlm.config import Recipe
    from steerlm.studies.ablate.rungs import Rung

_DATA = {
    "labelled": "the records that people labelled",
    "best": "those of them with the best human label",
    "all": "all records",
}
_LABELS = {None: "nothing", "human": "human labels", "predicted": "the attribute model's labels"}


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser)
    parser.add_argument("--seeds", type=int, default=3, help="seeds, from the recipe's on (default: %(default)s)")
    parser.add_argument(
        "--rungs", nargs="+", default=[], metavar="RUNG",
        help="some of plain, human, best, predicted, more, bootstrap (default: all)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder to write to (default: the recipe's run folder and -ablation)")
    parser.add_argument("--dry-run", action="store_true", help="list the rungs and estimate cost, compute nothing")


def run(arguments: argparse.Namespace) -> int:
    """Climb the ladder, or say what it would take."""
    recipe, out = common.study_of(arguments)
    from steerlm.studies.ablate.study import ablate, rungs_to_climb

    rungs = rungs_to_climb(recipe, arguments.rungs, out)
    if arguments.dry_run:
        return _print_plan(recipe, arguments.seeds, rungs)
    with common.held_folder(out):
        ablate(recipe, arguments.seeds, arguments.rungs, out, common.notifier(out))
    terminal.say((out / "ablation.md").read_text(encoding="utf-8"))
    terminal.say(f"results  {out / 'ablation.json'}")
    return 0


def _print_plan(recipe: Recipe, num_seeds: int, rungs: Sequence[Rung]) -> int:
    """Print the rungs with what each trains on and an upper bound of its time; 1 where there are problems."""
    from steerlm.planning.estimate import plan
    from steerlm.planning.printing import duration, print_remarks
    from steerlm.reporting.terminal import print_table
    from steerlm.studies.ablate.rungs import parent

    estimate = plan(recipe)
    seconds = {cost.stage: cost.seconds for cost in estimate.stages}
    stages = {rung.name: "bootstrap" if rung.name == "bootstrap" else "train_sft" for rung in rungs}
    rows = [("train_attribute_model, annotate", "all records", "", duration(seconds["train_attribute_model"]))]
    for rung in rungs:
        trains_on = _DATA[rung.data]
        if rung.name == "bootstrap":
            trains_on = f"its own answers and all records, from the model of {parent(rungs).name}"
        rows.append((rung.name, trains_on, _LABELS[rung.labels], duration(seconds[stages[rung.name]])))
    columns = ("rung", "trains on", "conditioned on", "time per seed, at most")
    print_table(terminal.console(), f"ablation of {recipe.name}, {num_seeds} seed(s)", columns, rows, words=3)
    known = [seconds[stage] for stage in ("train_attribute_model", *stages.values())]
    if None not in known:
        total = duration(num_seeds * sum(second for second in known if second is not None))
        terminal.say(f"training, all rungs and seeds: at most {total}, and the answers")
    return print_remarks(estimate, terminal.console())
