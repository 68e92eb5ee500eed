"""What commands share: checks that come before anything heavy is imported, and what is printed.

Standard library only at the top, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from steerlm.commands import named_models
from steerlm.commands.terminal import console
from steerlm.errors import UserError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from steerlm.attributes import AttributeSchema
    from steerlm.config import Recipe, TrainSftConfig
    from steerlm.results.findings import Finding
    from steerlm.runs import RunFolder
    from steerlm.storage.cluster import Cluster

ConfigT = TypeVar("ConfigT", bound="BaseModel")


# --- checks -----------------------------------------------------------------------------------------------------------


def at_least(option: str, value: float | None, least: float) -> None:
    """Refuse a number below `least`."""
    if value is not None and not value >= least:
        raise UserError(f"{option} must be at least {least}, got {value}")


def check_sampling(arguments: argparse.Namespace) -> None:
    """Refuse values that no answer can be drawn with."""
    at_least("--max-new-tokens", arguments.max_new_tokens, 1)
    at_least("--temperature", arguments.temperature, 0)
    at_least("--top-k", arguments.top_k, 0)


def needed(arguments: argparse.Namespace, name: str) -> Any:
    """Return the value of an option that a command without a recipe cannot do without."""
    value = getattr(arguments, name)
    if not value:
        raise UserError(f"--{name.replace('_', '-')} is missing; give it, or a recipe to work in its run folder")
    return value


def existing_file(path: Path, option: str) -> Path:
    """Return a path that is a file."""
    if path.is_dir():
        raise UserError(f"{option}: {path} is a folder, not a file")
    if not path.is_file():
        raise UserError(f"{option}: no such file: {path}")
    return path


def schema_of(text: str | None) -> AttributeSchema:
    """Return the schema that `--attributes` names.

    Raises:
        UserError: none is named, an unknown preset, or a file without a list of attributes.
    """
    from steerlm.attributes import PRESETS, AttributeSchema
    from steerlm.storage.files import read_yaml

    if text is None:
        raise UserError(
            f"--attributes is missing; give a preset ({', '.join(name.lower() for name in PRESETS)}) or a YAML file"
        )
    if text.upper() in PRESETS or not Path(text).suffix:
        return AttributeSchema.preset(text)
    rows = read_yaml(existing_file(Path(text), "--attributes"))
    # A recipe works as well as a bare list: its `attributes` section is the list.
    rows = rows.get("attributes") if isinstance(rows, dict) else rows
    if isinstance(rows, str):
        return AttributeSchema.preset(rows)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{text}: expected a list of attributes, each with a name")
    return AttributeSchema.from_dict(rows)


def named_files(texts: Sequence[str], option: str) -> dict[str, Path]:
    """Parse repeated NAME=PATH options; without a name the path's own name counts."""
    from steerlm.studies.names import require_distinct_names, tidy_name

    files: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        own = Path(text).name if Path(text).is_dir() else Path(text).name.split(".")[0]
        name = tidy_name(name if equals else own)
        if name in files:
            raise UserError(f"{option} {text!r}: the name {name!r} stands twice; give NAME=PATH with another name")
        files[name] = Path(path if equals else text)
    require_distinct_names(files, "names", f"name them otherwise with {option} NAME=PATH")
    return files


class Training(NamedTuple, Generic[ConfigT]):
    """What a training command was given in place of a recipe."""

    config: ConfigT
    train: Path
    validation: Path
    schema: AttributeSchema


def training_of(arguments: argparse.Namespace, model: type[ConfigT], stage: str) -> Training[ConfigT]:
    """Check what a training command was given in place of a recipe.

    Raises:
        UserError: something is missing, or a file or folder is not there.
    """
    from steerlm.commands.inputs import conversations_file

    base = named_models.base_model(needed(arguments, "base_model"))
    train, validation = (conversations_file(needed(arguments, name), f"--{name}") for name in ("train", "validation"))
    config = section_of(arguments.overrides, model, stage, base_model=base)
    return Training(config, train, validation, schema_of(arguments.attributes))


class Tuning(NamedTuple, Generic[ConfigT]):
    """What a further fine-tuning of a steerable model was given in place of a recipe."""

    config: ConfigT
    sft: TrainSftConfig
    model: Path
    attribute_model: Path | None
    data: Path
    validation: Path
    schema: AttributeSchema
    out: Path


def tuning_of(arguments: argparse.Namespace, model: type[ConfigT], stage: str) -> Tuning[ConfigT]:
    """Check what a further fine-tuning was given in place of a recipe; `--set train_sft.FIELD` says how to train.

    Raises:
        UserError: something is missing, is not there, or is a model of another kind.
    """
    from steerlm.commands.inputs import conversations_file
    from steerlm.config import TrainSftConfig
    from steerlm.scorers.dials import without_own_measures

    out = needed(arguments, "out")
    start, info = named_models.steerable_model(needed(arguments, "sft_model"), "--sft-model")
    schema = without_own_measures(info.schema)  # a checkpoint's own functions are never called
    scorer = None
    if schema.learned is not None:
        scorer = named_models.attribute_model(needed(arguments, "attribute_model"), "--attribute-model")
    data, validation = (conversations_file(needed(arguments, name), f"--{name}") for name in ("data", "validation"))
    for_sft = [pair for pair in arguments.overrides if pair.startswith("train_sft.")]
    own = [pair for pair in arguments.overrides if pair not in for_sft]
    config = section_of(own, model, stage)
    sft = section_of(for_sft, TrainSftConfig, "train_sft", base_model=str(start), template=info.template)
    return Tuning(config, sft, start, scorer, data, validation, schema, out)


def tune(
    arguments: argparse.Namespace, model: type[ConfigT], stage: str, load: Callable[[], Callable[..., Summary]]
) -> int:
    """Run a further fine-tuning of a steerable model on the files named in place of a recipe; `load` imports it."""
    given = tuning_of(arguments, model, stage)

    def work() -> Summary:
        return load()(
            given.config,
            sft=given.sft,
            steerable_model=given.model,
            attribute_model=given.attribute_model,
            data=given.data,
            validation=given.validation,
            schema=given.schema,
            out=given.out,
            seed=arguments.seed,
        )

    return run_alone(stage, given.out, work)


def use_threads(count: int | None) -> None:
    """Take up `--threads`: numerical libraries read it when they are loaded, and pass it on to their workers."""
    at_least("--threads", count, 1)
    if count is not None:
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(count))


# --- recipes and sections ---------------------------------------------------------------------------------------------


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Load the recipe with `--set` applied."""
    from steerlm.config import load_recipe, parse_overrides

    return load_recipe(arguments.recipe, parse_overrides(arguments.overrides))


def section_of(pairs: Sequence[str], model: type[ConfigT], stage: str, **given: Any) -> ConfigT:
    """Build a stage's section from `--set` alone; a field may be named as in a recipe, with the section before it."""
    from steerlm.config import apply_overrides, parse_overrides, validate

    section = stage.replace("-", "_") + "."
    overrides = {key.removeprefix(section): value for key, value in parse_overrides(pairs).items()}
    return validate(model, apply_overrides(given, overrides), stage)


def study_of(arguments: argparse.Namespace) -> tuple[Recipe, Path]:
    """Return the recipe of a study around a run, moved into the study's folder, and that folder.

    Raises:
        UserError: an unusable recipe, or one that names files which are not there.
    """
    from steerlm.config import parse_overrides
    from steerlm.studies.ablate.rungs import in_folder

    at_least("--seeds", arguments.seeds, 1)
    recipe, out = in_folder(arguments.recipe, parse_overrides(arguments.overrides), arguments.out)
    check_recipe_files(recipe, ["prepare", "train_attribute_model", "train_sft", "bootstrap", "evaluate"])
    return recipe, out


def check_recipe_files(recipe: Recipe, stages: Sequence[str], redo_from: str | None = None) -> None:
    """Refuse a recipe that names files which are not there, as far as stages that are not done need them.

    Raises:
        UserError: with the key of the recipe.
    """
    from steerlm.config import files_of

    run = recipe.run_dir
    redone = stages[stages.index(redo_from) :] if redo_from in stages else []
    waiting = [stage for stage in stages if stage in redone or not (run / stage / "done.json").is_file()]
    models: list[tuple[str, str]] = []
    if "train_attribute_model" in waiting and recipe.train_attribute_model is not None:
        models.append(("train_attribute_model.base_model", recipe.train_attribute_model.base_model))
    if "train_sft" in waiting:
        models.append(("train_sft.base_model", recipe.train_sft.base_model))
    if "evaluate" in waiting:
        models += [("evaluate.classifiers", classifier.model) for classifier in recipe.evaluate.classifiers]
    for key, model in models:
        if run not in Path(model).parents:
            named_models.base_model(model, key)
    for key, path in files_of(recipe, waiting):
        if not path.exists():
            raise UserError(f"{key}: no such file or folder: {path}")


# --- one stage --------------------------------------------------------------------------------------------------------

Summary = Mapping[str, Any]


def checked_recipe(arguments: argparse.Namespace, stage: str) -> Recipe:
    """Load the recipe of `steerlm STAGE RECIPE`, which names files that are there."""
    recipe = recipe_of(arguments)
    check_recipe_files(recipe, [stage])
    return recipe


def run_in_recipe(recipe: Recipe, stage: str, cluster: Cluster | None = None) -> int:
    """`steerlm STAGE RECIPE`: one stage in the recipe's run folder."""
    from steerlm.pipeline import run_stage

    run_stage(recipe, stage, notifier(recipe.run_dir), cluster)
    return 0


@contextlib.contextmanager
def opened_run(recipe: Recipe) -> Iterator[RunFolder]:
    """Open the run folder of a recipe, locked meanwhile."""
    from steerlm.runs import RunFolder

    folder = RunFolder(recipe)
    with folder.lock():
        folder.open()
        yield folder


def finished_models(folder: RunFolder) -> dict[str, Path]:
    """Return the steerable models of a finished run, in the order of the steps."""
    from steerlm.pipeline import final_models

    models = final_models(folder)
    for stage in models:
        if folder.done(stage) is None:
            raise UserError(f"stage {stage!r} of {folder.path} is not done; run `steerlm run RECIPE` first")
    return models


def run_alone(stage: str, out: Path, work: Callable[[], Summary]) -> int:
    """`steerlm STAGE --flags`: run one stage on explicit files; `work` imports and does what is heavy.

    Raises:
        UserError: `out` holds what another command wrote; see also `held_folder`.
    """
    from steerlm.commands.summaries import print_summary
    from steerlm.runs import is_main_process
    from steerlm.storage.files import read_json, write_json

    done = out / "done.json"
    if (out / "recipe.yaml").is_file():
        raise UserError(f"--out: {out} is the folder of a run; give another one, or the recipe in place of the flags")
    if done.is_file() and (other := read_json(done).get("stage")) not in (stage, stage.replace("-", "_")):
        raise UserError(f"--out: {out} holds what `steerlm {str(other).replace('_', '-')}` wrote; give another folder")
    with held_folder(out):
        summary = work()
        if not is_main_process():  # the first one records and tells
            return 0
        write_json(done, {"stage": stage.replace("-", "_"), "summary": summary})
    found = print_summary(stage.replace("-", "_"), summary, out)
    console().print(f"{_mark(found)} {stage.replace('_', '-')}: {out}")
    return 0


@contextlib.contextmanager
def held_folder(out: Path) -> Iterator[None]:
    """Make a folder for the work in it, and hold it meanwhile; a new one that is left empty goes again.

    Raises:
        UserError: `out` is a file, or another process holds it.
    """
    from steerlm.runs import is_main_process
    from steerlm.storage.locks import held

    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {out} is a file; give a folder")
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    try:
        with held(out / "lock", _busy(out)) if is_main_process() else contextlib.nullcontext():
            yield
    except BaseException:
        if new and all(path.name == "lock" for path in out.iterdir()):
            shutil.rmtree(out)
        raise


def held_beside(out: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a folder that work replaces as a whole, by a file beside it: one within would go with what it replaces.

    Raises:
        UserError: another process holds it.
    """
    from steerlm.storage.locks import held

    whole = Path(os.path.abspath(out))  # "." has no name
    return held(whole.with_name(f".{whole.name}.lock"), _busy(out))


def _busy(out: Path) -> str:
    return f"another process is writing to {out}; wait for it or give another --out"


def notifier(run_dir: Path) -> Callable[[str, Mapping[str, Any] | None], None]:
    """Return what says that a stage of a run starts (no record), is done already, or is done: then what it left out
    and found. Only a stage that found nothing gets a tick."""
    from steerlm.commands.summaries import findings_of, print_steering, print_summary
    from steerlm.runs import is_main_process

    def notify(stage: str, record: Mapping[str, Any] | None) -> None:
        if not is_main_process():
            return
        if record is None:
            console().print(f"[bold]→[/bold] {stage}")
            return
        summary, out = record["summary"], run_dir / stage
        found = findings_of(stage, summary, out)
        if record["skipped"]:
            console().print(f"{_mark(found)} [dim]{stage}: already done[/dim]")
            if stage == "evaluate":
                print_steering(out)
        else:
            console().print(f"{_mark(found)} {stage}  {record['seconds']:.0f} s")
            print_summary(stage, summary, out)

    return notify


def _mark(found: Sequence[Finding]) -> str:
    return "[yellow]![/yellow]" if found else "[green]✓[/green]"
