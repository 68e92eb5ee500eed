"""What there is to export: a checkpoint, an adapter or a finished run, and the results that belong to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.info import INFO_FILE, CheckpointInfo, load_info
from steerlm.checkpoint.weights import fingerprint
from steerlm.errors import UserError, shell_word
from steerlm.results.evaluation import Evaluation, evaluation_file
from steerlm.runs import TUNING, RunPaths
from steerlm.storage.files import read_json, read_yaml

_ADAPTER = "adapter_config.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Found:
    """What is exported.

    Attributes:
        described: folder with the tokenizer and `steerlm.json`; for an adapter the model that training wrote beside it.
        results: its evaluation: `results` and the name of the model in it; None = there is none.
        report: the held-out report of an attribute model; None = there is none.
    """

    weights: Path
    is_adapter: bool
    described: Path
    info: CheckpointInfo
    run: Path | None
    results: tuple[Evaluation, str] | None
    report: Mapping[str, Any] | None

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The run's recipe as it was; empty without a run."""
        path = None if self.run is None else self.run / "recipe.yaml"
        return {} if path is None else yaml.safe_load(path.read_text(encoding="utf-8"))


def find(model: Path, attribute_model: bool, results: Path | None) -> Found:
    """Find the model to export and what belongs to it.

    Args:
        model: a checkpoint, an adapter, or a finished run folder.
        results: a `results.json` of `steerlm evaluate`; None = the run's own, if its last evaluation was of this model.

    Raises:
        UserError: no such folder, nothing to export in it, an unfinished run, a kind that cannot be exported, or
            results of another model.
    """
    if not model.is_dir():
        raise UserError(f"no such folder: {model}; give a checkpoint, an adapter or a run folder")
    run = model if RunPaths(model).recipe.is_file() else None
    weights = model if run is None else model_of_run(run, attribute_model)
    is_adapter = (weights / _ADAPTER).is_file()
    described = _described(weights) if is_adapter else weights
    if not is_adapter and not (weights / INFO_FILE).is_file() and (weights / "model" / INFO_FILE).is_file():
        raise UserError(f"{weights} is the folder of a step, not a checkpoint; give {weights / 'model'}")
    info = load_info(described)
    _check_kind(weights, info, attribute_model)
    run = run or _run_of(weights)
    report = None
    if info.kind != "sft":
        path = weights.parent / "report.json"
        report = read_json(path) if path.is_file() else None
        if results is not None:
            raise UserError(f"--results belongs to steerable models, and {weights} is an attribute model; leave it out")
        return Found(weights, is_adapter, described, info, run, None, report)
    return Found(weights, is_adapter, described, info, run, _results(described, run, results), _labels_report(run))


def base_model(info: CheckpointInfo) -> str:
    """Return the model that training began from, followed through checkpoints of ours as far as they are there."""
    base = str(info.provenance.get("base_model", "?"))
    seen = set()
    while base not in seen and (Path(base) / INFO_FILE).is_file():
        seen.add(base)
        base = str(load_info(base).provenance.get("base_model", "?"))
    return base


def is_hub_id(name: str) -> bool:
    """Whether a name is one of the hub's (`org/name`) and no folder here."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name).exists()


def model_of_run(run: Path, attribute_model: bool = False) -> Path:
    """Return the final steerable model of a finished run, or its attribute model.

    Raises:
        UserError: the run is not finished, or its recipe has no such model.
    """
    recipe = read_yaml(RunPaths(run).recipe)
    wanted = "train_attribute_model"
    if not attribute_model:
        wanted = next((stage for stage in reversed(TUNING) if recipe.get(stage) is not None), "train_sft")
    if RunPaths(run).done(wanted).is_file():
        return RunPaths(run).model(wanted)
    if attribute_model and _learns_nothing(recipe):
        raise UserError(
            f"the run in {run} has no attribute model: its recipe trains none; give one of another run, or leave the "
            "option out"
        )
    done = RunPaths(run).finished()
    last = next((RunPaths(run).model(stage) for stage in reversed(TUNING) if stage in done), None)
    instead = "a checkpoint in place of the run" if last is None or attribute_model else str(last)
    raise UserError(
        f"the run in {run} is not finished: {wanted} is not done (done: {', '.join(done) or 'nothing'}); "
        f"`steerlm run RECIPE` goes on with it, or give {instead}"
    )


def offers_attribute_model(run: Path) -> bool:
    """Whether a run has an attribute model that can be exported."""
    paths = RunPaths(run)
    return paths.done("train_attribute_model").is_file() and load_info(paths.attribute_model).kind == "regression"


def _learns_nothing(recipe: Mapping[str, Any]) -> bool:
    """Whether a resolved recipe leaves its attribute model out: no section, or no attribute that needs one."""
    rows = recipe.get("attributes")
    measured = isinstance(rows, list) and AttributeSchema.from_dict(rows).learned is None
    return recipe.get("train_attribute_model") is None or measured


def _described(adapter: Path) -> Path:
    """Return the folder with the schema and tokenizer of an adapter: its own, or the model that training wrote."""
    # adapters lie in STAGE/adapter and STAGE/checkpoints/checkpoint-N, the model in STAGE/model
    places = [adapter, adapter.parent / "model", adapter.parent.parent / "model"]
    for place in places:
        if (place / INFO_FILE).is_file():
            return place
    raise UserError(
        f"{adapter} is an adapter without {INFO_FILE}, and there is no model of its training beside it "
        f"({places[1]}): its attributes are not known; copy {INFO_FILE} and the tokenizer's files of that training "
        "into the adapter's folder"
    )


def _check_kind(weights: Path, info: CheckpointInfo, attribute_model: bool) -> None:
    if info.kind == "generative":
        raise UserError(
            f"{weights} is a generative attribute model, which no other server can score with: vLLM's pooling runner "
            "needs a regression head. Train one with kind: regression, or push the folder as it is, for steerlm"
        )
    if info.kind == "sft" and attribute_model:
        raise UserError(
            f"--attribute-model: {weights} is a steerable model; give the run folder, or the folder `model` that "
            "train-attribute-model wrote"
        )
    if info.kind == "sft" and not info.conditioning:
        raise UserError(f"{weights} is a plain SFT baseline without dials: push the folder as it is")


def _run_of(weights: Path) -> Path | None:
    """Return the run folder that a checkpoint lies in: STAGE/model, STAGE/adapter or STAGE/checkpoints/checkpoint-N."""
    for folder in list(weights.resolve().parents)[1:3]:
        if RunPaths(folder).recipe.is_file():
            return folder
    return None


def _results(described: Path, run: Path | None, given: Path | None) -> tuple[Evaluation, str] | None:
    """Return the evaluation of this very model, known by its fingerprint."""
    path = given
    if given is not None and given.is_dir():
        places = [given / "results.json", RunPaths(given).results]
        path = next((place for place in places if place.is_file()), places[0])
    elif given is None and run is not None:
        path = RunPaths(run).results
    if path is None or not path.is_file():
        if given is None:
            return None
        raise UserError(f"--results: no such file: {path}; `steerlm evaluate` writes it")
    try:
        results = evaluation_file(path)
    except UserError as error:
        raise UserError(f"--results: {error}") from None
    mine = fingerprint(described)
    for name, model in results.models.items():
        if model.fingerprint == mine:
            return results, name
    if given is None:
        return None
    raise UserError(
        f"--results: {path} is the evaluation of other models ({', '.join(results.models)}), not of {described}; "
        f"evaluate it: steerlm evaluate --model {shell_word(f'NAME={described}')} --prompts FILE --out FOLDER"
    )


def _labels_report(run: Path | None) -> Mapping[str, Any] | None:
    """Return how good the attribute model was that labelled a run's data."""
    path = None if run is None else RunPaths(run).report("train_attribute_model")
    return None if path is None or not path.is_file() else read_json(path)
