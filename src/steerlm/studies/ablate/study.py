"""The paper's ablation ladder on any recipe (SteerLM, section 5.1 and table 4).

    steerlm ablate RECIPE --seeds 3

The rungs share what does not depend on a seed (data, split and, on the playground, world and base model) and, within a
seed, the attribute model and the annotation. Every rung fine-tunes the recipe's base model anew; `bootstrap` goes on
from the rung before it, as step 4 does.

    OUT/shared/prepare/…            (and playground/) once for all
    OUT/seed-N/train_attribute_model/  annotate/  <rung>/…    each with its done.json: a finished rung is not redone
    OUT/ablation.json  ablation.md  ablation.svg
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.config import AnnotateConfig, Recipe
from steerlm.conversation import read_conversations
from steerlm.errors import UserError, needs_extra
from steerlm.reporting.charts import ladders_file
from steerlm.reporting.studies import explain, ladder
from steerlm.results.codec import VERSION, from_json, to_json, write_result
from steerlm.results.studies import (
    AblationResult,
    MachineFacts,
    Measurement,
    RungCourse,
    RungDone,
    RungResult,
    RungTraining,
    StudyConditions,
    StudyDraws,
    StudySubject,
)
from steerlm.runs import Notify, RunFolder, StageRecord, environment
from steerlm.storage.files import write_text
from steerlm.storage.resumable import read_rows
from steerlm.storage.spending import spending
from steerlm.studies.ablate.measuring import Questions, measure_model, read_answers, read_questions
from steerlm.studies.ablate.rungs import Rung, chosen_rungs, is_labelled, parent, quality_names, write_records
from steerlm.studies.ablate.statistics import Answers, Judged, describe, gain


@dataclass(frozen=True)
class Climb:
    """What all rungs of one seed share."""

    run: RunFolder
    schema: AttributeSchema
    prepared: Path
    rungs: tuple[Rung, ...]
    questions: Questions
    quality: tuple[str, ...]
    notify: Notify

    @property
    def seed(self) -> int:
        return self.run.recipe.seed

    def annotated(self, rung: Rung) -> bool:
        """Whether a rung needs labels that people did not give: the attribute model's, or what is measured."""
        return rung.labels == "predicted" or (rung.labels == "human" and self.schema.learned != self.schema)

    def execute(self, name: str, work: Callable[[Path], Mapping[str, Any]]) -> StageRecord:
        """Run one part in its own folder unless it is done."""
        return self.run.execute(name, work, self.notify, f"seed {self.seed}: {name}")


def ablate(recipe: Recipe, num_seeds: int, names: Sequence[str], out: Path, notify: Notify) -> AblationResult:
    """Climb the ladder with several seeds.

    Args:
        recipe: its run folder must be `out/shared` (see `in_folder`); its seed is the first one.
        out: see the module's docstring. Called again after an interruption it goes on; rungs and seeds may be added.
    """
    rungs = rungs_to_climb(recipe, names, out)
    quality = quality_names(recipe)
    shared = shared_run(recipe, out)
    shared.open()
    prepared = prepare_shared(shared, notify)
    rungs, notes = possible_rungs(rungs, prepared, recipe)
    prompts = recipe.evaluate.prompts or prepared / "validation.jsonl"
    schema = shared.schema
    questions = read_questions(recipe.evaluate, prompts, schema, quality, recipe.seed)
    done = {}
    for seed in range(recipe.seed, recipe.seed + num_seeds):
        run = seed_run(shared.recipe, out, seed)
        done[seed] = climb_rungs(Climb(run, schema, prepared, rungs, questions, quality, notify))
    results = _results(recipe, schema, rungs, questions, quality, done, out, notes)
    write_result(out / "ablation.json", results)
    write_text(out / "ablation.md", f"# Ablation: {recipe.name}\n\n{ladder(results)}\n{explain(results)}")
    write_text(out / "ablation.svg", ladders_file(results.rungs))
    return results


def rungs_to_climb(recipe: Recipe, names: Sequence[str], out: Path) -> tuple[Rung, ...]:
    """Return the rungs that `ablate` is to climb, as far as can be said before anything is computed.

    Raises:
        UserError: they cannot be climbed: by the recipe, the folder, or for want of a package.
    """
    with needs_extra("report", "steerlm ablate"):  # asked before hours of training, not after
        import matplotlib  # noqa: F401
    if recipe.train_attribute_model is None or recipe.schema_.learned is None:
        raise UserError(
            "steerlm ablate compares people's labels with an attribute model's: the recipe needs a section "
            "train_attribute_model, and an attribute that nothing measures"
        )
    quality_names(recipe)  # refuses a recipe that does not say what quality is
    shared_run(recipe, out).check()
    return chosen_rungs(names, recipe)


def shared_run(recipe: Recipe, out: Path) -> RunFolder:
    """Return the folder of what all seeds share; the section `baselines` does not concern it."""
    assert recipe.run_dir == out / "shared"
    return RunFolder(recipe.model_copy(update={"baselines": None}))


def seed_run(recipe: Recipe, out: Path, seed: int) -> RunFolder:
    run = RunFolder(recipe.model_copy(update={"run_dir": out / f"seed-{seed}", "seed": seed}))
    run.open()
    return run


def prepare_shared(shared: RunFolder, notify: Notify) -> Path:
    """Do what comes before step 1, once for all seeds; returns the folder of the prepared data."""
    from steerlm.playground import build
    from steerlm.stages.prepare.stage import prepare

    recipe = shared.recipe
    parts: list[tuple[str, Callable[[Path], Mapping[str, Any]]]] = []
    if (world := recipe.playground) is not None:
        parts.append(("playground", lambda folder: build(world, recipe.schema_, folder, recipe.seed)))
    how = recipe.prepare, recipe.schema_
    parts.append(("prepare", lambda folder: prepare(*how, folder, recipe.seed, recipe.train_sft)))
    for name, work in parts:
        shared.execute(name, work, notify)
    return shared.stage("prepare")


def possible_rungs(rungs: tuple[Rung, ...], prepared: Path, recipe: Recipe) -> tuple[tuple[Rung, ...], list[str]]:
    """Leave out the rung that adds data where there are no more, and say so."""
    labelled = unlabelled = 0
    for record in read_conversations(prepared / "train.jsonl", recipe.schema_):
        labelled += is_labelled(record)
        unlabelled += not is_labelled(record)
    if not labelled:
        raise UserError(f"{prepared / 'train.jsonl'} holds no human label: there is nothing to ablate")
    if unlabelled:
        return rungs, []
    left = tuple(rung for rung in rungs if rung.name != "more")
    if not any(rung.labels == "predicted" for rung in left if rung.name != "bootstrap"):
        left = tuple(rung for rung in left if rung.name != "bootstrap")
    if left == rungs:
        return rungs, []
    return left, ["every training record is labelled by people: the rung `more` would equal `predicted`"]


@dataclass(frozen=True)
class RungRecord:
    """A rung that is done with one seed."""

    seconds: float
    done: RungDone


def climb_rungs(climb: Climb) -> dict[str, RungRecord]:
    """Train and measure every rung with one seed."""
    from steerlm.stages.annotate.stage import annotate
    from steerlm.stages.train_attribute_model.stage import train_attribute_model

    recipe, seed, run = climb.run.recipe, climb.seed, climb.run
    learning, annotating = recipe.train_attribute_model, recipe.annotate or AnnotateConfig()
    schema, learned = climb.schema, climb.schema.learned
    assert learning is not None
    assert learned is not None
    train, validation = climb.prepared / "train.jsonl", climb.prepared / "validation.jsonl"
    climb.execute(
        "train_attribute_model",
        lambda out: train_attribute_model(learning, train, validation, learned, out, seed, schema),
    )
    if any(map(climb.annotated, climb.rungs)):
        data, model = [train, validation], run.paths.attribute_model
        climb.execute("annotate", lambda out: annotate(annotating, data, model, out, schema=schema))
    found = {}
    for rung in climb.rungs:
        record = climb.execute(rung.name, functools.partial(_rung, climb, rung))
        found[rung.name] = RungRecord(record["seconds"], from_json(RungDone, record["summary"]))
    return found


def _rung(climb: Climb, rung: Rung, out: Path) -> Mapping[str, object]:
    recipe = climb.run.recipe
    annotator = climb.run.paths.attribute_model
    with spending() as cost:
        model, training = _bootstrap(climb, out, annotator) if rung.name == "bootstrap" else _train(climb, rung, out)
    training = dataclasses.replace(training, seconds=cost.seconds, peak_memory_mib=cost.peak_memory_mib)
    measured = measure_model(recipe.evaluate, model, climb.questions, climb.schema, annotator, out, seed=climb.seed)
    done: Mapping[str, object] = to_json(RungDone(training, measured))
    return done


def _train(climb: Climb, rung: Rung, out: Path) -> tuple[Path, RungCourse]:
    from steerlm.stages.train_sft import train_sft

    recipe = climb.run.recipe
    source = climb.run.stage("annotate") if climb.annotated(rung) else climb.prepared
    data, human = {}, rung.labels == "human"
    for name in ("train.jsonl", "validation.jsonl"):
        data[name] = out / "data" / name
        found = write_records(source / name, data[name], rung.data, climb.schema, climb.quality, human)
        if not found and name == "validation.jsonl" and rung.data == "best":
            # too few held-out records to have a best one: the labelled ones pick the weights
            write_records(source / name, data[name], "labelled", climb.schema, climb.quality, human)
    config = recipe.train_sft.model_copy(
        update={"conditioning": rung.labels is not None, "labels": rung.labels or "predicted"}
    )
    summary = train_sft(
        config,
        data["train.jsonl"],
        data["validation.jsonl"],
        climb.schema,
        out / "train",
        climb.seed,
        recipe.prepare.sources,
    )
    return out / "train" / "model", _course(summary, "base model")


def _bootstrap(climb: Climb, out: Path, attribute_model: Path) -> tuple[Path, RungCourse]:
    from steerlm.stages.bootstrap.stage import bootstrap

    recipe, start = climb.run.recipe, parent(climb.rungs)
    assert recipe.bootstrap is not None
    before = climb.run.stage(start.name)
    report = bootstrap(
        recipe.bootstrap,
        sft=recipe.train_sft,
        sft_model=before / "train" / "model",
        attribute_model=attribute_model,
        data=before / "data" / "train.jsonl",
        validation=before / "data" / "validation.jsonl",
        schema=climb.schema,
        out=out / "bootstrap",
        seed=climb.seed,
        sources=recipe.prepare.sources,
    )
    rounds = [_course(row["training"], start.name) for row in report["rounds"]]
    training = dataclasses.replace(
        rounds[-1],
        steps=sum(row.steps for row in rounds),
        bootstrapped=report["rounds"][-1]["kept"],
        spent_tokens=sum(row.spent_tokens for row in rounds),
        sampled_tokens=sum(
            sample["num_tokens"]
            for number in range(1, recipe.bootstrap.rounds + 1)
            for row in read_rows(out / "bootstrap" / f"round-{number}" / "samples.jsonl")
            for sample in row["samples"]
        ),
    )
    return out / "bootstrap" / "model", training


def _course(summary: Mapping[str, Any], starts_from: str) -> RungCourse:
    """Return what a rung trained on and for how long, from the summary of `train_sft`; without time and memory."""
    learned = summary["train"]
    return RungCourse(
        records=learned["records"],
        tokens=learned["tokens"],
        trained_tokens=learned["trained_tokens"],
        spent_tokens=round(learned["tokens"] * summary["epochs"]),
        sampled_tokens=0,
        epochs=summary["epochs"],
        steps=summary["steps"],
        best_step=summary["best_step"],
        validation_loss=summary["validation_loss"],
        starts_from=starts_from,
        seconds=0.0,
        peak_memory_mib=None,
    )


def _results(
    recipe: Recipe,
    schema: AttributeSchema,
    rungs: Sequence[Rung],
    questions: Questions,
    quality: tuple[str, ...],
    done: Mapping[int, Mapping[str, RungRecord]],
    out: Path,
    notes: Sequence[str],
) -> AblationResult:
    """Put the figures of all rungs and seeds together."""
    conditions = conditions_of(recipe, next(iter(done.values()))[rungs[0].name].done.measured)
    judged = Judged(schema, conditions.headline, quality)
    rows: dict[str, RungResult] = {}
    below: dict[str, Answers] = {}
    for number, rung in enumerate(rungs):
        answers = {seed: read_answers(out / f"seed-{seed}" / rung.name) for seed in done}
        versus = {name: gain(before, answers, judged) for name, before in below.items()}
        records = {seed: stages[rung.name] for seed, stages in done.items()}
        rows[rung.name] = RungResult(
            adds=rung.adds,
            data=rung.data,
            labels=rung.labels,
            paper=rung.paper,
            steerable=rung.labels is not None,
            training=[RungTraining(seed=seed, course=record.done.training) for seed, record in records.items()],
            seconds=[record.seconds for record in records.values()],
            figures=describe(answers, judged),
            gain=versus[rungs[number - 1].name] if number else None,
            versus=versus,
        )
        below[rung.name] = answers
    return AblationResult(
        version=VERSION,
        subject=subject_of(recipe, schema, questions, quality, list(done)),
        settings=draws_of(recipe),
        conditions=conditions,
        notes=list(notes),
        rungs=rows,
    )


def subject_of(
    recipe: Recipe, schema: AttributeSchema, questions: Questions, quality: Sequence[str], seeds: Sequence[int]
) -> StudySubject:
    first = schema[quality[0]]
    return StudySubject(
        recipe=recipe.name,
        seeds=seeds,
        attributes=schema,
        quality_attributes=list(quality),
        quality_scale=[first.maximum, first.minimum],
        best_setting=dict(questions.best),
        prompts=len(questions.prompts),
        swept=len(questions.swept),
    )


def draws_of(recipe: Recipe) -> StudyDraws:
    """Say how answers are drawn."""
    return from_json(StudyDraws, recipe.evaluate.model_dump(mode="json"))


def conditions_of(recipe: Recipe, measured: Measurement) -> StudyConditions:
    """Say how models are trained and who measures them."""
    return StudyConditions(
        training=recipe.train_sft.model_dump(mode="json", exclude={"base_model"}),
        scorers=measured.scorers,
        headline=measured.headline,
        environment=from_json(MachineFacts, environment()),
    )
