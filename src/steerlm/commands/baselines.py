"""Train DPO, RLOO and plain SFT beside SteerLM, at equal tokens."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, options, terminal

if TYPE_CHECKING:
    from steerlm.config import Recipe


def add(parser: argparse.ArgumentParser) -> None:
    options.add_recipe(parser)
    parser.add_argument("--seeds", type=int, default=3, help="seeds, from the recipe's on (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, help="folder of `steerlm ablate`; what is there is used again (default: as there)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list the methods and estimate cost, compute nothing")


def run(arguments: argparse.Namespace) -> int:
    """Train and measure every method, or say what it would take."""
    recipe, out = common.study_of(arguments)
    from steerlm.studies.baselines.study import baselines, rewarded_names

    rewarded_names(recipe, out)
    if arguments.dry_run:
        return _print_plan(recipe, arguments.seeds)
    with common.held_folder(out):
        baselines(recipe, arguments.seeds, out, common.notifier(out))
    terminal.say((out / "baselines.md").read_text(encoding="utf-8"))
    terminal.say(f"results  {out / 'baselines.json'}")
    return 0


def _print_plan(recipe: Recipe, num_seeds: int) -> int:
    """Print what each method trains and for how long; 1 where there are problems."""
    from steerlm.config import AnnotateConfig, BaselinesConfig
    from steerlm.planning.estimate import plan
    from steerlm.planning.printing import duration, print_remarks
    from steerlm.reporting.terminal import print_table
    from steerlm.studies.baselines.study import BEST_SHARES, METHODS

    config = recipe.baselines or BaselinesConfig()
    # what the ladder does without such a section
    estimate = plan(recipe.model_copy(update={"annotate": recipe.annotate or AnnotateConfig()}))
    seconds = {cost.stage: cost.seconds for cost in estimate.stages}
    # every method spends the tokens of SteerLM's own training; the rest of the budget is spent once per trial
    steps = [seconds[stage] for stage in ("train_sft", "bootstrap") if stage in seconds]
    budget = None if None in steps else sum(step for step in steps if step is not None)
    rest = 1 - config.sft_share
    shares = {
        "steerlm": 1.0,
        "plain": 1.0,
        "best": sum(BEST_SHARES),
        "dpo": config.sft_share + rest * len(config.dpo_learning_rates),
        "rloo": rest * len(config.rloo_learning_rates),  # the plain SFT before it is DPO's
        "grpo": config.sft_share + rest * len(config.grpo_learning_rates),
    }
    trials = {
        "best": len(BEST_SHARES),
        "dpo": len(config.dpo_learning_rates),
        "rloo": len(config.rloo_learning_rates),
        "grpo": len(config.grpo_learning_rates),
    }
    rows = []
    for name, what in METHODS.items():
        time = duration(None if budget is None else shares[name] * budget)
        rows.append((name, what, str(trials.get(name, 1)), f"{shares[name]:.2f}", time))
    columns = ("method", "what it trains", "trials", "budgets", "time per seed, about")
    title = f"baselines of {recipe.name}, {num_seeds} seed(s); a budget is SteerLM's tokens"
    print_table(terminal.console(), title, columns, rows, words=2)
    first = [seconds[stage] for stage in ("train_attribute_model", "annotate")]
    if budget is not None and None not in first:
        once = sum(second for second in first if second is not None)
        total = duration(num_seeds * (once + budget * sum(shares.values())))
        terminal.say(f"attribute models and all methods, all seeds: about {total}, and the answers")
    return print_remarks(estimate, terminal.console())
