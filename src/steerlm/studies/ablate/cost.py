"""What an ablation is going to do and roughly what it costs, before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from steerlm.config import Recipe
from steerlm.planning.estimate import StageCost, plan
from steerlm.planning.printing import duration
from steerlm.reporting.terminal import print_table
from steerlm.studies.ablate.rungs import Rung, chosen_rungs, parent

_DATA = {
    "labelled": "the records that people labelled",
    "best": "those of them with the best human label",
    "all": "all records",
}
_LABELS = {None: "nothing", "human": "human labels", "predicted": "the attribute model's labels"}


def print_ablation_plan(recipe: Recipe, num_seeds: int, names: Sequence[str], console: Console) -> int:
    """Print the rungs with what each trains on and an upper bound of its time; returns the number of problems.

    Raises:
        UserError: see `chosen_rungs`.
    """
    rungs = chosen_rungs(names, recipe)
    estimate = plan(recipe)
    costs = {cost.stage: cost for cost in estimate.stages}
    columns = ("rung", "trains on", "conditioned on", "time per seed, at most")
    rows = [("train_attribute_model, annotate", "all records", "", _time(costs, "train_attribute_model"))]
    rows += [(r.name, _trains_on(r, rungs), _LABELS[r.labels], _time(costs, _stage(r))) for r in rungs]
    print_table(console, f"ablation of {recipe.name}, {num_seeds} seed(s)", columns, rows, words=3)
    known = [costs[_stage(rung)].seconds for rung in rungs] + [costs["train_attribute_model"].seconds]
    seconds = [second for second in known if second is not None]
    if len(seconds) == len(known):
        console.print(f"training, all rungs and seeds: at most {duration(num_seeds * sum(seconds))}, and the answers")
    for note in estimate.notes:
        console.print(f"note: {note}", markup=False)
    for problem in estimate.problems:
        console.print(f"problem: {problem}", markup=False)
    return len(estimate.problems)


def _stage(rung: Rung) -> str:
    return "bootstrap" if rung.name == "bootstrap" else "train_sft"


def _trains_on(rung: Rung, rungs: Sequence[Rung]) -> str:
    if rung.name == "bootstrap":
        return f"its own answers and all records, from the model of {parent(rungs).name}"
    return _DATA[rung.data]


def _time(costs: dict[str, StageCost], stage: str) -> str:
    seconds = costs[stage].seconds
    return "?" if seconds is None else duration(seconds)
