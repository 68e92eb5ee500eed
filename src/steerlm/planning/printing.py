"""A plan as a table for people."""

from __future__ import annotations

from rich.console import Console

from steerlm.planning.estimate import CostPlan
from steerlm.planning.stage_costs import StageCost
from steerlm.reporting.terminal import print_table


def print_plan(result: CostPlan, console: Console, price_per_gpu_hour: float | None = None) -> int:
    """Print the estimate as a table, then notes and problems; returns 1 where there are problems, else 0.

    Args:
        result: the plan.
        console: where to.
        price_per_gpu_hour: adds what each step costs, in whatever currency it is.
    """
    columns = ["stage", "tokens", "model", "memory", "fits", "max batch", "time"]
    rows = [_row(cost, result, price_per_gpu_hour) for cost in result.stages]
    total = result.seconds
    if len(result.stages) > 1 and total is not None:
        money = [] if price_per_gpu_hour is None else [_money(total, result, price_per_gpu_hour)]
        rows.append(["all", "", "", "", "", "", _about(result) + duration(total), *money])
    title = f"estimate for {result.machines}; memory per device"
    print_table(console, title, columns + ([] if price_per_gpu_hour is None else ["cost"]), rows)
    return print_remarks(result, console)


def print_remarks(result: CostPlan, console: Console) -> int:
    """Print notes and problems; returns 0 exactly where it says that there is no problem, else 1."""
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    for finding in result.findings:
        console.print(f"warning: {finding}", markup=False)
    for problem in result.problems:
        console.print(f"problem: {problem}", markup=False)
    if result.problems:
        console.print(f"{len(result.problems)} problem(s); nothing was computed")
        return 1
    console.print("no problem found")
    return 0


def _row(cost: StageCost, result: CostPlan, price: float | None) -> list[str]:
    about = _about(result)
    cells = [
        cost.stage,
        "?" if cost.tokens is None else _short(cost.tokens),
        "?" if cost.parameters is None else _short(cost.parameters) if cost.parameters else "none",
        "?" if cost.memory_gib is None else f"{about}{cost.memory_gib:,.1f} GiB",
        {None: "?", True: "yes", False: "no"}[cost.fits],
        "" if cost.largest_batch is None else f"{cost.largest_batch:,}",
        "?" if cost.seconds is None else about + duration(cost.seconds),
    ]
    if price is not None:
        cells.append("?" if cost.seconds is None else _money(cost.seconds, result, price))
    return cells


def _about(result: CostPlan) -> str:
    """Return the mark of figures that come from a data sheet."""
    return "~" if result.machines.estimated else ""


def _short(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:,.1f} {unit}"
    return str(number)


def _money(seconds: float, result: CostPlan, price: float) -> str:
    return f"{_about(result)}{seconds / 3600 * result.machines.count * price:,.2f}"


def duration(seconds: float | None) -> str:
    """Return a time for people: seconds, minutes or hours; None = not known."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
