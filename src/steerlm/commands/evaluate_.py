"""What `steerlm evaluate` without a recipe, its `--suite` and `steerlm check` do once their arguments are parsed."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from steerlm.attributes import AttributeSchema
from steerlm.config import EvaluateConfig, Recipe
from steerlm.errors import UserError
from steerlm.results.evaluation import SuiteName
from steerlm.runs import RunFolder


def run_check(arguments: argparse.Namespace, console: Console) -> int:
    """`steerlm check RUN`: 0 where every demand holds, 1 with the rows that fail."""
    from steerlm.results.check import check, parse_requirement

    rows = check(
        arguments.run_dir,
        [parse_requirement(text) for text in arguments.require],
        arguments.max_leak,
        arguments.compare,
        arguments.model,
        arguments.scorer,
    )
    failing = [row for row in rows if not row.holds]
    compared = "estimates" if arguments.compare == "estimate" else "the unfavourable ends of the 95 % intervals"
    if not failing:
        console.print(
            f"[green]✓[/green] {len(rows)} of {len(rows)} demands hold (compared: {compared})", highlight=False
        )
        return 0
    table = Table(title=f"{len(failing)} of {len(rows)} demands do not hold (compared: {compared})")
    columns = ("figure", "demand", "found", *(["why"] if any(row.reason for row in failing) else []))
    for column in columns:
        # a log of CI is narrow, and a figure cut short would be no use
        table.add_column(column, no_wrap=column != "why", overflow="fold")
    for row in failing:
        table.add_row(*(row.what, row.demand, row.found, row.reason)[: len(columns)])
    console.print(table, highlight=False, markup=False)
    return 1


def run_evaluate(arguments: argparse.Namespace, config: EvaluateConfig, out: Path, console: Console) -> dict[str, Any]:
    """`steerlm evaluate --model NAME=PATH …`: without a recipe; returns the summary."""
    from steerlm.checkpoint.models import load_info
    from steerlm.reporting.report import write_report
    from steerlm.stages.evaluate.stage import evaluate

    models: dict[str, Path] = {}
    for text in arguments.model:
        name, equals, path = text.partition("=")
        name, path = (name, path) if equals else (Path(text).name, text)
        if name in models:
            raise UserError(f"--model: the name {name!r} stands twice; give NAME=PATH with another name")
        models[name] = Path(path)
    if not models:
        raise UserError("--model is missing; give one or more NAME=PATH")
    schema = load_info(next(iter(models.values()))).schema
    if arguments.suite is not None:
        asked = arguments.prompts
        seed, annotator = arguments.seed, arguments.annotator
        run_suite(config, arguments.suite, models, asked, schema, out, console, seed=seed, annotator=annotator)
        summary: dict[str, Any] = {"suite": arguments.suite}
    elif arguments.prompts is None:
        raise UserError("--prompts is missing; give it, or a recipe to work in its run folder")
    else:
        prompts = Path(arguments.prompts)
        seed, annotator = arguments.seed, arguments.annotator
        summary = evaluate(config, models, prompts, schema, out, seed=seed, annotator=annotator)
    console.print(f"report   {write_report(out)}")
    return summary


def run_suite_of_recipe(recipe: Recipe, name: SuiteName, prompts: str | None, console: Console) -> None:
    """`steerlm evaluate RECIPE --suite NAME`: on the models of a finished run, into its evaluation's folder."""
    from steerlm.pipeline import final_models

    folder = RunFolder(recipe)
    with folder.lock():
        folder.open()
        models = final_models(folder)
        for stage in models:
            if folder.done(stage) is None:
                raise UserError(f"stage {stage!r} of {folder.path} is not done; run `steerlm run RECIPE` first")
        prompts = prompts or (recipe.evaluate.toxicity_prompts if name == "toxicity" else None)
        annotator = folder.stage("train_attribute_model") / "model"
        out = folder.stage("evaluate") / "suites" / name
        schema, seed = recipe.schema_, recipe.seed
        run_suite(recipe.evaluate, name, models, prompts, schema, out, console, seed=seed, annotator=annotator)


def run_suite(
    config: EvaluateConfig,
    name: SuiteName,
    models: Mapping[str, Path],
    prompts: str | None,
    schema: AttributeSchema,
    out: Path,
    console: Console,
    *,
    seed: int,
    annotator: Path | None,
) -> None:
    """Run a suite and print its scores beside the paper's."""
    from steerlm.reporting.suites import suite_table
    from steerlm.stages.evaluate.stage import evaluate_suite

    results = evaluate_suite(config, name, models, prompts, schema, out, seed=seed, annotator=annotator)
    header, *rows = suite_table(results)
    table = Table(title=f"{name}: mean score, 0 to 1, per level asked for")
    for column in header:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)
