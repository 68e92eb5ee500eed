"""What the subcommands do once their arguments are parsed: glue between `cli` and the stages."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from steerlm.attributes import PRESETS, AttributeSchema
from steerlm.cli import parse_overrides
from steerlm.config import (
    AnnotateConfig,
    BootstrapConfig,
    EvaluateConfig,
    PrepareConfig,
    TrainAttributeModelConfig,
    TrainSftConfig,
    load_recipe,
    validate,
)
from steerlm.conversation import read_conversations
from steerlm.errors import UserError
from steerlm.storage.cluster import chosen_cluster
from steerlm.storage.files import read_yaml, write_json

console = Console()


def run(arguments: argparse.Namespace) -> int:
    """`steerlm run RECIPE`."""
    from steerlm.runs import STAGES
    from steerlm.storage.spending import peak_memory_mib

    recipe = load_recipe(arguments.recipe, parse_overrides(arguments.overrides))
    redo_from = arguments.redo_from.replace("-", "_") if arguments.redo_from else None
    if redo_from is not None and redo_from not in STAGES:
        raise UserError(f"--from {arguments.redo_from!r} is not a stage; stages: {', '.join(STAGES)}")
    if arguments.dry_run:
        from steerlm.planning.estimate import plan
        from steerlm.planning.printing import print_plan

        estimate = plan(recipe)
        print_plan(estimate, console)
        return 1 if estimate.problems else 0
    _quiet()
    from steerlm.pipeline import final_models, run_recipe

    console.print(
        f"[bold]{recipe.name}[/bold]  {recipe.description.strip().splitlines()[0] if recipe.description else ''}"
    )
    folder = run_recipe(recipe, redo_from=redo_from, notify=_notify)
    _print_steering(folder.path)
    model = list(final_models(folder).values())[-1]
    console.print(f"\nreport   {folder.path / 'report.html'}")
    last = recipe.schema_.attributes[-1]
    dial = f" --{last.name} {last.levels[-1]}" if recipe.train_sft.conditioning else ""
    console.print(f"chat     steerlm chat {model}{dial}", highlight=False)
    console.print(f"serve    steerlm serve {model}", highlight=False)
    if (peak := peak_memory_mib()) is not None:
        console.print(f"[dim]peak memory of this process {peak} MiB[/dim]")
    return 0


def stage_of_recipe(arguments: argparse.Namespace, stage: str) -> int:
    """`steerlm STAGE RECIPE`: one stage in the recipe's run folder."""
    recipe = load_recipe(arguments.recipe, parse_overrides(arguments.overrides))
    _quiet()
    from steerlm.pipeline import run_stage

    if stage == "evaluate" and arguments.suite is not None:
        from steerlm.commands.evaluate_ import run_suite_of_recipe

        run_suite_of_recipe(recipe, arguments.suite, arguments.prompts, console)
    else:
        on_cluster = stage in ("annotate", "bootstrap")
        run_stage(recipe, stage, _notify, chosen_cluster(arguments.ray, arguments.workers) if on_cluster else None)
    if stage == "evaluate":
        from steerlm.reporting.report import write_report

        if arguments.suite is None:
            _print_steering(recipe.run_dir)
        console.print(f"report   {write_report(recipe.run_dir)}")
    return 0


def standalone(arguments: argparse.Namespace, stage: str) -> int:
    """`steerlm STAGE --flags`: one stage on explicit files, without a recipe."""
    if stage == "playground":
        raise UserError("steerlm playground needs a recipe: steerlm playground playground")
    _quiet()
    section = stage.replace("-", "_") + "."  # a field may be named as in a recipe
    options = {key.removeprefix(section): value for key, value in parse_overrides(arguments.overrides).items()}
    out = _needed(arguments, "out")
    out.mkdir(parents=True, exist_ok=True)
    summary = _STANDALONE[stage](arguments, options, out)
    write_json(out / "done.json", {"stage": stage, "summary": summary})
    console.print(f"[green]✓[/green] {stage}: {out}")
    return 0


def _prepare(arguments: argparse.Namespace, options: dict[str, Any], out: Path) -> Mapping[str, Any]:
    from steerlm.stages.prepare.stage import prepare

    sources: list[dict[str, str]] = []
    for text in arguments.source:
        source_format, colon, path = text.partition(":")
        if not colon:
            raise UserError(f"--source {text!r} is not of the form FORMAT:PATH, for example messages:chats.jsonl")
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(path).resolve().name.split(".")[0]) or "data"
        taken = [source["name"] for source in sources]
        sources.append(
            {"name": name if name not in taken else f"{name}-{len(taken)}", "format": source_format, "path": path}
        )
    config = validate(PrepareConfig, {"sources": sources, **options}, "prepare")
    return prepare(config, _schema(arguments), out, arguments.seed)


def _train_attribute_model(arguments: argparse.Namespace, options: dict[str, Any], out: Path) -> dict[str, Any]:
    from steerlm.stages.train_attribute_model.stage import train_attribute_model

    config = validate(TrainAttributeModelConfig, _with_base(arguments, options), "train-attribute-model")
    train, validation = _needed(arguments, "train"), _needed(arguments, "validation")
    return train_attribute_model(config, train, validation, _schema(arguments), out, arguments.seed)


def _annotate(arguments: argparse.Namespace, options: dict[str, Any], out: Path) -> dict[str, Any]:
    from steerlm.stages.annotate.stage import annotate

    config = validate(AnnotateConfig, options, "annotate")
    cluster = chosen_cluster(arguments.ray, arguments.workers)
    return annotate(config, _needed(arguments, "data"), _needed(arguments, "model"), out, cluster)


def _train_sft(arguments: argparse.Namespace, options: dict[str, Any], out: Path) -> dict[str, Any]:
    from steerlm.stages.train_sft import train_sft

    config = validate(TrainSftConfig, _with_base(arguments, options), "train-sft")
    train, validation = _needed(arguments, "train"), _needed(arguments, "validation")
    return train_sft(config, train, validation, _schema(arguments), out, arguments.seed)


def _bootstrap(arguments: argparse.Namespace, options: dict[str, Any], out: Path) -> dict[str, Any]:
    from steerlm.checkpoint.models import load_info
    from steerlm.stages.bootstrap.stage import bootstrap

    sft_model = _needed(arguments, "sft_model")
    info = load_info(sft_model)
    sft_options = {key.removeprefix("train_sft."): v for key, v in options.items() if key.startswith("train_sft.")}
    own = {key: v for key, v in options.items() if not key.startswith("train_sft.")}
    sft_options |= {"base_model": arguments.base_model or str(sft_model), "template": info.template}
    return bootstrap(
        validate(BootstrapConfig, own, "bootstrap"),
        sft=validate(TrainSftConfig, sft_options, "bootstrap: train_sft"),
        sft_model=sft_model,
        attribute_model=_needed(arguments, "attribute_model"),
        data=_needed(arguments, "data"),
        validation=_needed(arguments, "validation"),
        schema=info.schema,
        out=out,
        seed=arguments.seed,
        cluster=chosen_cluster(arguments.ray, arguments.workers),
    )


def _evaluate(arguments: argparse.Namespace, options: dict[str, Any], out: Path) -> dict[str, Any]:
    from steerlm.commands.evaluate_ import run_evaluate

    return run_evaluate(arguments, validate(EvaluateConfig, options, "evaluate"), out, console)


_STANDALONE = {
    "prepare": _prepare,
    "train_attribute_model": _train_attribute_model,
    "annotate": _annotate,
    "train_sft": _train_sft,
    "bootstrap": _bootstrap,
    "evaluate": _evaluate,
}


def report(arguments: argparse.Namespace) -> int:
    """`steerlm report RUN`."""
    from steerlm.reporting.report import write_report

    if not arguments.run_dir.is_dir():
        raise UserError(f"no such run folder: {arguments.run_dir}")
    console.print(f"report   {write_report(arguments.run_dir, arguments.ablation)}")
    return 0


def check(arguments: argparse.Namespace) -> int:
    """`steerlm check RUN --require "humor.spearman>=0.9"`."""
    from steerlm.commands.evaluate_ import run_check

    return run_check(arguments, console)


def ablate(arguments: argparse.Namespace) -> int:
    """`steerlm ablate RECIPE`."""
    from steerlm.studies.ablate.rungs import in_folder

    recipe, out = in_folder(arguments.recipe, parse_overrides(arguments.overrides), arguments.out)
    if arguments.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {arguments.seeds}")
    if arguments.dry_run:
        from steerlm.studies.ablate.cost import print_ablation_plan

        return 1 if print_ablation_plan(recipe, arguments.seeds, arguments.rungs, console) else 0
    _quiet()
    from steerlm.studies.ablate.study import ablate as climb

    climb(recipe, arguments.seeds, arguments.rungs, out, _notify)
    console.print((out / "ablation.md").read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    console.print(f"results  {out / 'ablation.json'}")
    return 0


def judge(arguments: argparse.Namespace) -> int:
    """`steerlm judge`."""
    from steerlm.scorers.llm.client import Endpoint, JudgeClient
    from steerlm.studies.judge import study as stage
    from steerlm.studies.judge.printing import confirm, print_results

    out: Path | None = arguments.out
    if out is None:
        raise UserError("--out is missing; give the folder to write to")
    files = _named_files(arguments.answers, "--answers")
    systems = stage.read_systems(files)
    if arguments.reviews:
        schema = _schema(arguments) if arguments.attributes else None
        results = stage.analyse(
            arguments.reviews, systems, out, baseline=arguments.baseline, reparse=arguments.reparse, schema=schema
        )
        print_results(results, out, console)
        return 0
    protocol = arguments.protocol
    if protocol is None or not systems:
        raise UserError("give --protocol and --answers NAME=FILE per system, or stored judgements with --reviews")
    questions = stage.questions_for(arguments.questions, list(files.values()), arguments.references)
    schema = _schema(arguments) if protocol == "rubric" else None
    asks = stage.build_asks(protocol, questions, systems, arguments.baseline, schema)
    client = JudgeClient(
        Endpoint.from_environment(arguments.base_url, arguments.model),
        out / "replies.jsonl",
        arguments.max_in_flight,
        arguments.temperature,
        arguments.reasoning,
        arguments.max_tokens,
    )
    if bare := stage.without_reference(protocol, questions):
        console.print(f"{len(bare)} questions are judged without the reference answers of MT-bench (--references)")
    cost = client.estimate([ask.prompt for ask in asks])
    if not confirm(cost, arguments.price_in, arguments.price_out, arguments.dry_run, arguments.yes, console):
        return 0
    results = stage.run_judge(asks, questions, systems, client, out, arguments.baseline)
    print_results(results, out, console)
    return 1 if results["counts"]["failed"] or not results["counts"]["parsed"] else 0


def _named_files(texts: list[str], option: str) -> dict[str, Path]:
    """Parse repeated NAME=FILE options; without a name the file's own name counts."""
    from steerlm.studies.names import require_distinct_names, tidy_name

    files: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        name = tidy_name(name if equals else Path(text).name.split(".")[0])
        if name in files:
            raise UserError(f"{option} {text!r}: {name!r} stands twice; name the systems with NAME=FILE")
        files[name] = Path(path if equals else text)
    require_distinct_names(files, "systems", f"name them otherwise with {option} NAME=FILE")
    return files


def baselines(arguments: argparse.Namespace) -> int:
    """`steerlm baselines RECIPE`."""
    from steerlm.studies.ablate.rungs import in_folder

    recipe, out = in_folder(arguments.recipe, parse_overrides(arguments.overrides), arguments.out)
    if arguments.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {arguments.seeds}")
    _quiet()
    from steerlm.studies.baselines.study import baselines as train

    train(recipe, arguments.seeds, out, _notify)
    text = (out / "baselines.md").read_text(encoding="utf-8")
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    console.print(f"results  {out / 'baselines.json'}")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """`steerlm compare NAME=WHERE NAME=WHERE …`."""
    _quiet()
    from steerlm.commands.compare_ import run_compare

    return run_compare(arguments, console)


def chat(arguments: argparse.Namespace, rest: list[str]) -> int:
    """`steerlm chat MODEL --humor 3`."""
    _quiet()
    from steerlm.chat import main_loop

    return main_loop(
        arguments.model,
        rest,
        attribute_model=arguments.attribute_model,
        system=arguments.system,
        max_new_tokens=arguments.max_new_tokens,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        seed=arguments.seed,
    )


def export(arguments: argparse.Namespace) -> int:
    """`steerlm export MODEL --out FOLDER`."""
    _quiet()
    from steerlm.commands.export import run_export

    return run_export(arguments, console)


def export_nemo(arguments: argparse.Namespace) -> int:
    """`steerlm export-nemo DATA OUT`."""
    from steerlm.sources.nemo import export_nemo as export

    schema = _schema(arguments)
    count = export(read_conversations(arguments.data, schema), schema, arguments.out)
    console.print(f"{count} conversations written to {arguments.out}")
    return 0


def _schema(arguments: argparse.Namespace) -> AttributeSchema:
    text = arguments.attributes
    if text is None:
        raise UserError(
            f"--attributes is missing; give a preset ({', '.join(p.lower() for p in PRESETS)}) or a YAML file"
        )
    if text.upper() in PRESETS or not Path(text).suffix:
        return AttributeSchema.preset(text)
    if not Path(text).is_file():
        raise UserError(f"--attributes: no such file: {text}")
    rows = read_yaml(Path(text))
    # A recipe works as well as a bare list: its `attributes` section is the list.
    rows = rows.get("attributes") if isinstance(rows, dict) else rows
    if isinstance(rows, str):
        return AttributeSchema.preset(rows)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{text}: expected a list of attributes, each with a name")
    return AttributeSchema.from_dict(rows)


def _needed(arguments: argparse.Namespace, name: str) -> Any:
    value = getattr(arguments, name)
    if not value:
        raise UserError(f"--{name.replace('_', '-')} is missing; give it, or a recipe to work in its run folder")
    return value


def _with_base(arguments: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    return {"base_model": _needed(arguments, "base_model"), **options}


def _notify(stage: str, record: dict[str, Any] | None) -> None:
    if record is None:
        console.print(f"[bold]→[/bold] {stage}")
    elif record["skipped"]:
        console.print(f"[dim]✓ {stage}: already done[/dim]")
    else:
        console.print(f"[green]✓[/green] {stage}  {record['seconds']:.0f} s")


def _print_steering(run_dir: Path) -> None:
    from steerlm.reporting.report import steering_table
    from steerlm.results.evaluation import read_evaluation

    results = read_evaluation(run_dir)
    rows = [] if results is None else steering_table(results)
    if not rows:
        return
    table = Table(title="requested against obtained, on held-out prompts")
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*row.values())
    console.print(table)


def _quiet() -> None:
    """Keep third-party chatter off the terminal; their warnings and errors stay."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
