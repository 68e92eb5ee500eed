"""Run the stages of a recipe in order, skip what is done, resume what is not (SteerLM, figure 2).

    steerlm run playground

Stages meet only in files; this module is the one place that knows which file goes where.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from steerlm.config import Recipe
from steerlm.errors import UserError
from steerlm.runs import Notify, RunFolder, StageRecord, recipe_stages, tuning_stages
from steerlm.storage.cluster import Cluster

log = logging.getLogger(__name__)


def run_recipe(
    recipe: Recipe, *, redo_from: str | None = None, notify: Notify | None = None, force: bool = False
) -> RunFolder:
    """Run every stage of the recipe that is not done yet, then write the report.

    A plain model (`train_sft.conditioning: false`) is not evaluated: it has no dials.

    Args:
        recipe: the resolved recipe.
        redo_from: name of a stage to start again from; its results and the later ones are deleted.
        notify: progress callback.
        force: go on where the attribute model or its labels can teach a dial nothing.

    Returns:
        The finished run's folder.

    Raises:
        UserError: see `RunFolder.open`, the stages, and what `Finding.blocks`.
    """
    from steerlm.reporting.report import write_report
    from steerlm.scorers.dials import check_dials
    from steerlm.stages.label import check_judge

    check_dials(recipe.schema_)
    folder = RunFolder(recipe)
    if "label" in recipe_stages(recipe) and folder.done("label") is None:
        check_judge(recipe.label, recipe.run_dir / "judge")
    with folder.lock():
        folder.open(redo_from)
        for stage in recipe_stages(recipe):
            if stage != "evaluate" or recipe.train_sft.conditioning:
                record = _run(folder, stage, notify)
                teaches = stage != "train_attribute_model" or recipe.train_sft.labels == "predicted"
                if teaches and not force:
                    _refuse_in_vain(stage, record["summary"])
        write_report(folder.path)
    return folder


def run_stage(recipe: Recipe, stage: str, notify: Notify | None = None, cluster: Cluster | None = None) -> StageRecord:
    """Run one stage of the recipe in its run folder; the stages before it must be done.

    Args:
        recipe: the resolved recipe.
        notify: progress callback.
        cluster: where `annotate`, `bootstrap` and `refine` work; None = in this process.

    Raises:
        UserError: the recipe has no such section, or an earlier stage is not done.
    """
    stages = recipe_stages(recipe)
    if stage not in stages:
        raise UserError(f"the recipe {recipe.name!r} has no section {stage!r}")
    folder = RunFolder(recipe)
    with folder.lock():
        folder.open()
        for earlier in stages[: stages.index(stage)]:
            if folder.done(earlier) is None:
                command = earlier.replace("_", "-")
                raise UserError(f"stage {earlier!r} of {folder.path} is not done; run `steerlm {command} RECIPE` first")
        return _run(folder, stage, notify, cluster)


def _run(folder: RunFolder, stage: str, notify: Notify | None, cluster: Cluster | None = None) -> StageRecord:
    work = _WORK[stage] if cluster is None else partial(_ON_CLUSTER[stage], cluster=cluster)
    return folder.execute(stage, lambda out: work(folder, out), notify)


def _refuse_in_vain(stage: str, summary: Mapping[str, Any]) -> None:
    """Raise before hours are spent on dials that can learn nothing.

    Raises:
        UserError: naming the attributes, their figures and what would help.
    """
    from steerlm.results.findings import findings_of_stage

    found = [finding for finding in findings_of_stage(stage, summary) if finding.blocks]
    if found:
        raise UserError("\n".join([*map(str, found), "`--force` goes on all the same"]))


def _playground(run: RunFolder, out: Path) -> Mapping[str, Any]:
    from steerlm.playground import build

    assert run.recipe.playground is not None
    return build(run.recipe.playground, run.recipe.schema_, out, run.recipe.seed)


def _prepare(run: RunFolder, out: Path) -> Mapping[str, Any]:
    from steerlm.results.findings import nobody_says, rated_by_people
    from steerlm.stages.prepare.stage import prepare

    report = prepare(run.recipe.prepare, run.recipe.schema_, out, run.recipe.seed, run.recipe.train_sft)
    silent = [name for name in rated_by_people(run.recipe) if not report["labelled"][name]]
    if silent:
        raise UserError(nobody_says(silent, [source.name for source in run.recipe.prepare.sources]))
    return report


def _label(run: RunFolder, out: Path) -> Mapping[str, Any]:
    from steerlm.stages.label import label

    def agree(cost: str) -> bool:
        print(cost, file=sys.stderr, flush=True)
        return True

    return label(run.recipe.label, run.schema, run.paths.splits("prepare"), out, run.path / "judge", agree)


def _train_attribute_model(run: RunFolder, out: Path) -> Mapping[str, Any]:
    from steerlm.stages.train_attribute_model.stage import train_attribute_model

    config, schema = run.recipe.train_attribute_model, run.schema
    assert config is not None
    assert schema.learned is not None
    sources = run.recipe.prepare.sources
    return train_attribute_model(config, *run.taught, schema.learned, out, _seed(run, config), schema, sources)


def _annotate(run: RunFolder, out: Path, cluster: Cluster | None = None) -> Mapping[str, Any]:
    from steerlm.stages.annotate.stage import annotate

    assert run.recipe.annotate is not None
    return annotate(run.recipe.annotate, run.taught, run.annotator, out, cluster, run.schema)


def _train_sft(run: RunFolder, out: Path) -> Mapping[str, Any]:
    from steerlm.stages.train_sft import train_sft

    config = run.recipe.train_sft
    _warn_of_old_cuts(run, config.max_length)
    return train_sft(
        config,
        *run.labelled,
        run.schema,
        out,
        _seed(run, config),
        run.recipe.prepare.sources,
    )


def _warn_of_old_cuts(run: RunFolder, max_length: int) -> None:
    """Say that levels were cut for records of another length than is trained on."""
    prepared = run.done("prepare")
    cut_for = None if prepared is None else prepared["summary"].get("dials", {}).get("max_length")
    if cut_for not in (None, max_length):
        log.warning(
            "levels were cut on turns of up to %s tokens, and train_sft.max_length is %s by now; cut them anew with "
            "--from prepare",
            cut_for,
            max_length,
        )


def _bootstrap(run: RunFolder, out: Path, cluster: Cluster | None = None) -> Mapping[str, Any]:
    from steerlm.stages.bootstrap.stage import bootstrap

    assert run.recipe.bootstrap is not None
    data, validation = run.labelled
    return bootstrap(
        run.recipe.bootstrap,
        sft=run.recipe.train_sft,
        sft_model=run.paths.model("train_sft"),
        attribute_model=run.annotator,
        data=data,
        validation=validation,
        schema=run.schema,
        out=out,
        seed=run.recipe.seed,
        sources=run.recipe.prepare.sources,
        cluster=cluster,
    )


def _refine(run: RunFolder, out: Path, cluster: Cluster | None = None) -> Mapping[str, Any]:
    from steerlm.stages.refine.stage import refine

    return _tune(run, out, "refine", partial(refine, cluster=cluster))


def _contrast(run: RunFolder, out: Path) -> Mapping[str, Any]:
    from steerlm.stages.contrast.stage import contrast

    return _tune(run, out, "contrast", contrast)


def _reinforce(run: RunFolder, out: Path) -> Mapping[str, Any]:
    from steerlm.stages.reinforce.stage import reinforce

    return _tune(run, out, "reinforce", reinforce)


def _tune(run: RunFolder, out: Path, stage: str, work: Callable[..., Mapping[str, Any]]) -> Mapping[str, Any]:
    """Run a stage that trains the steerable model before it further."""
    data, validation = run.labelled
    return work(
        getattr(run.recipe, stage),
        sft=run.recipe.train_sft,
        steerable_model=_model_before(run, stage),
        attribute_model=run.annotator,
        data=data,
        validation=validation,
        schema=run.schema,
        out=out,
        seed=run.recipe.seed,
    )


def _model_before(run: RunFolder, stage: str) -> Path:
    """Return the steerable model that a stage starts from."""
    stages = tuning_stages(run.recipe)
    return run.paths.model(stages[stages.index(stage) - 1])


def _tune_guidance(run: RunFolder, out: Path) -> Mapping[str, Any]:
    from steerlm.stages.tune_guidance import TuningRun, spare_prompts, tune_guidance

    config, evaluation, seed = run.recipe.tune_guidance, run.recipe.evaluate, run.recipe.seed
    assert config is not None
    model = list(final_models(run).values())[-1]
    prompts = spare_prompts(run.paths.splits("prepare")[1], run.schema, evaluation, seed, config.num_prompts)
    return tune_guidance(TuningRun(config, evaluation, model, run.schema, run.annotator, seed), prompts, out)


def _evaluate(run: RunFolder, out: Path) -> Mapping[str, Any]:
    from steerlm.stages.evaluate.stage import evaluate

    config, annotator = run.recipe.evaluate, run.annotator
    if annotator is not None and "annotate" not in run.stages:  # it labelled nothing, and only measures
        config = config.model_copy(update={"attribute_models": (*config.attribute_models, annotator)})
        annotator = None
    prompts = config.prompts or run.paths.splits("prepare")[1]
    return evaluate(
        config,
        final_models(run),
        prompts,
        run.schema,
        out,
        seed=run.recipe.seed,
        annotator=annotator,
        annotated=run.labelled if "annotate" in run.stages else (),
    )


def final_models(run: RunFolder) -> dict[str, Path]:
    """Return the steerable models that a run produces, in the order of the steps."""
    return {stage: run.paths.model(stage) for stage in tuning_stages(run.recipe)}


def _seed(run: RunFolder, config: Any) -> int:
    return run.recipe.seed if config.init_seed is None else int(config.init_seed)


_WORK: dict[str, Callable[[RunFolder, Path], Mapping[str, Any]]] = {
    "playground": _playground,
    "prepare": _prepare,
    "label": _label,
    "train_attribute_model": _train_attribute_model,
    "annotate": _annotate,
    "train_sft": _train_sft,
    "bootstrap": _bootstrap,
    "refine": _refine,
    "contrast": _contrast,
    "reinforce": _reinforce,
    "tune_guidance": _tune_guidance,
    "evaluate": _evaluate,
}
_ON_CLUSTER = {"annotate": _annotate, "bootstrap": _bootstrap, "refine": _refine}
