"""Sample where the data are thin, label, ask people for the few that matter, train again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, options, terminal
from steerlm.errors import shell_word

if TYPE_CHECKING:
    from steerlm.config import GrowConfig, Recipe

_EPILOG = """\
Starts from a finished run: answers are drawn and trained as its section bootstrap says (mode: nearest).
  steerlm grow RECIPE                           three rounds without people, or until one gains nothing
  steerlm grow RECIPE --ratings 40              people rate 40 answers per round, those that matter most:
    steerlm rate invite RUN/grow/round-1/rate ANNA BEN     the command says when; then they rate on a page
    steerlm rate serve RUN/grow/round-1/rate
    steerlm grow RECIPE --ratings 40            and the same command goes on
"""


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser)
    parser.epilog = _EPILOG
    parser.add_argument("--rounds", type=int, help="rounds at most (default: grow.rounds of the recipe, or 3)")
    parser.add_argument("--ratings", type=int, help="answers per round that people rate (default: grow.ratings, or 0)")
    parser.add_argument("--go-on", action="store_true", help="do not wait for people who have not answered")
    parser.add_argument("--out", type=Path, help="folder to write to (default: grow in the run folder)")
    parser.add_argument("--dry-run", action="store_true", help="estimate cost, compute nothing")


def run(arguments: argparse.Namespace) -> int:
    """Grow a finished run, or say what it would take."""
    recipe = common.recipe_of(arguments)
    config = _config(arguments, recipe)
    if arguments.dry_run:
        return _print_plan(recipe, config)
    from steerlm.studies.grow.study import grow

    with common.opened_run(recipe) as folder:
        *_, model = common.finished_models(folder).values()
        out = arguments.out or folder.path / "grow"
        with common.held_folder(out):
            growth = grow(folder, model, config, out, arguments.go_on)
    if growth.rounds:
        terminal.say(growth.table)
    if growth.waiting is not None:
        terminal.say(f"people are asked first: steerlm rate invite {shell_word(growth.waiting)} NAME ...")
        terminal.say(f"                        steerlm rate serve {shell_word(growth.waiting)}")
        terminal.say("then this command again goes on; with --go-on it does not wait")
        return 0
    if not growth.rounds[-1]["gains"]:
        terminal.say(f"round {len(growth.rounds)} gained nothing: growth ends here")
    terminal.say(f"model    {out / 'model'}")
    terminal.say(f"results  {out / 'grow.json'}")
    return 0


def _config(arguments: argparse.Namespace, recipe: Recipe) -> GrowConfig:
    from steerlm.config import GrowConfig, validate

    given = {name: getattr(arguments, name) for name in ("rounds", "ratings") if getattr(arguments, name) is not None}
    stored = {} if recipe.grow is None else recipe.grow.model_dump(mode="json")
    return validate(GrowConfig, {**stored, **given}, "grow")


def _print_plan(recipe: Recipe, config: GrowConfig) -> int:
    """Print the plan's line of the growth; 1 where there are problems."""
    from steerlm.planning.estimate import plan
    from steerlm.planning.printing import print_plan

    estimate = plan(recipe.model_copy(update={"grow": config}))
    return print_plan(estimate, terminal.console())
