"""`steerlm plan` and `steerlm run --dry-run`: what every step of a recipe needs on given devices.

Validates all that can be validated without computing (`planning.inputs`), then applies the written-down model
(docs/planning.md): memory from the shape of the model and the batch, time from operations and bytes moved.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from steerlm.config import Recipe, TrainingSection, scoring_tokens
from steerlm.errors import UserError
from steerlm.planning.devices import Machines, this_machine
from steerlm.planning.findings import Findings
from steerlm.planning.inputs import (
    DataSize,
    assumed_data,
    check_answers,
    check_files,
    check_labels,
    check_model,
    check_prompts,
    check_scorers,
    inspect_data,
    made_by_run,
    sampled_lengths,
)
from steerlm.planning.speed import DECODE_UTILISATION, LINK_UTILISATION, UTILISATION
from steerlm.planning.stage_costs import Estimator, StageCost, labelling_bodies
from steerlm.results.findings import Finding, few_steps, too_long, unmeasured
from steerlm.runs import recipe_stages
from steerlm.scorers.measures import MeasureScorer, measure


@dataclass
class CostPlan:
    """The outcome: `problems` stop a run, `notes` do not; by `findings` it would learn nothing."""

    machines: Machines
    stages: list[StageCost] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """Time of all steps; None where one is unknown."""
        known = [cost.seconds for cost in self.stages if cost.seconds is not None]
        return sum(known) if len(known) == len(self.stages) else None


def plan(recipe: Recipe, machines: Machines | None = None, tokens: int | None = None) -> CostPlan:
    """Validate the recipe's inputs and estimate what each step needs.

    Args:
        recipe: the resolved recipe (its own validation happened when it was loaded).
        machines: to plan for; None: this machine, a CPU being measured.
        tokens: of one pass over the training data, where it cannot be read here; None: it is read.

    Returns:
        The plan; nothing is written and no weights are read.
    """
    found = Findings()
    data = inspect_data(recipe, recipe.schema_, found) if tokens is None else assumed_data(tokens)
    stages = recipe_stages(recipe)
    looks = {
        stage: check_model(stage, section, recipe, found)
        for stage, section in (
            ("train_attribute_model", recipe.train_attribute_model),
            ("train_sft", recipe.train_sft),
        )
        if section is not None and stage in stages
    }
    shapes = {stage: look.shape for stage, look in looks.items()}
    check_answers(recipe, looks["train_sft"].context, found)
    if machines is None:
        machines = this_machine(shapes["train_sft"] or shapes.get("train_attribute_model"), recipe.train_sft.lora)
    if recipe.evaluate.prompts is not None and not made_by_run(recipe, recipe.evaluate.prompts):
        check_prompts(recipe.evaluate.prompts, found)
    check_files(recipe, found)
    check_scorers(recipe, found)
    result = CostPlan(machines, [], found.problems, found.notes)
    worker = Estimator(machines, data or assumed_data(0), data is not None)
    if recipe.playground is not None:
        result.stages.append(worker.playground(recipe.playground))
    attribute_model, model = shapes.get("train_attribute_model"), shapes["train_sft"]
    if (learned := recipe.train_attribute_model) is not None and "train_attribute_model" in stages:
        head = learned.kind == "generative"
        result.stages.append(worker.labels(learned, attribute_model, head))
        if recipe.annotate is not None:
            tokens = recipe.annotate.tokens_per_batch or scoring_tokens(worker.machines.device.cpu, head)
            bodies, devices = labelling_bodies(learned, attribute_model), recipe.annotate.devices_per_model
            precision = recipe.annotate.precision
            result.stages.append(worker.annotation(attribute_model, tokens, bodies, devices, precision))
    elif "annotate" in stages:
        result.stages.append(worker.measuring(recipe.schema_))
    result.stages.append(worker.training("train_sft", recipe.train_sft, model, True))
    if recipe.bootstrap is not None:
        result.stages.append(worker.bootstrap(recipe.bootstrap, recipe.train_sft, model, attribute_model))
    if recipe.refine is not None:
        result.stages.append(worker.refinement(recipe.refine, recipe.train_sft, model, attribute_model))
    if recipe.contrast is not None:
        result.stages.append(worker.contrast(recipe.contrast, recipe.train_sft, model))
    if recipe.reinforce is not None:
        result.stages.append(worker.reinforcement(recipe.reinforce, recipe.train_sft, model))
    if recipe.tune_guidance is not None:
        result.stages.append(worker.guidance(recipe, model))
    if recipe.train_sft.conditioning:
        result.stages.append(worker.evaluation(recipe, model, attribute_model))
    if recipe.grow is not None and recipe.bootstrap is not None:
        growing = recipe.bootstrap.model_copy(update={"rounds": recipe.grow.rounds})
        growth = worker.bootstrap(growing, recipe.train_sft, model, attribute_model)
        result.stages.append(replace(growth, stage="grow"))
    if data is not None:
        contexts = {stage: look.context for stage, look in looks.items()}
        result.findings += _signs(recipe, data, machines, contexts)
        result.notes += _unread(recipe, data, contexts)
    result.notes += worker.notes + _remarks(recipe, machines)
    result.problems += [_misfit(cost, machines) for cost in result.stages if cost.fits is False]
    return result


def _unmeasured(recipe: Recipe) -> list[str]:
    """Return the dials that nothing in the recipe measures, as far as it can be told without loading a model."""
    config = recipe.evaluate
    if config.measure == "playground" or config.attribute_models or "train_attribute_model" in recipe_stages(recipe):
        return []
    judged = () if config.judge is None else config.judge.attributes or recipe.schema_.names
    known = {*judged, *(name for classifier in config.classifiers for name in classifier.labels.values())}
    if config.measure == "text":
        known.update(MeasureScorer("text", measure).attributes)
    return [attribute.name for attribute in recipe.schema_ if attribute.learned and attribute.name not in known]


def _signs(recipe: Recipe, data: DataSize, machines: Machines, contexts: Mapping[str, int | None]) -> Iterator[Finding]:
    """Yield what says before a run that it will learn nothing."""
    section = recipe.train_sft
    sampled = None
    with contextlib.suppress(UserError):  # what is wrong with the tokenizer is one of the problems
        sampled = sampled_lengths(section, recipe, data, contexts["train_sft"])
    if sampled is not None and sampled.records:
        data = replace(data, tokens_per_record=sum(sampled.records) / len(sampled.records))
    steps = planned_steps(section, data, recipe.prepare.validation_fraction, machines.count)
    yield from few_steps("train_sft", steps, planned=True)
    yield from check_labels(data)
    if sampled is not None:
        longest = max(sampled.too_long, default=None)
        yield from too_long("train_sft", len(sampled.too_long), len(sampled.records), sampled.most, longest)
    if section.conditioning:
        yield from unmeasured(_unmeasured(recipe))


def _unread(recipe: Recipe, data: DataSize, contexts: Mapping[str, int | None]) -> Iterator[str]:
    """Yield how many of the records looked at are too long for the attribute model."""
    section = recipe.train_attribute_model
    if section is None or "train_attribute_model" not in contexts:
        return
    with contextlib.suppress(UserError):
        sampled = sampled_lengths(section, recipe, data, contexts["train_attribute_model"])
        if sampled is not None and sampled.too_long:
            yield (
                f"the attribute model reads {sampled.most} tokens: {len(sampled.too_long)} of the first "
                f"{len(sampled.records)} records are longer even without their earlier turns, and get no label of it"
            )


def planned_steps(section: TrainingSection, data: DataSize, held_out: float = 0.0, devices: int = 1) -> int:
    """Return about how many optimizer steps a training makes.

    Args:
        section: of the training.
        data: all of it.
        held_out: share of the data that is not trained on.
        devices: how many share a step.
    """
    if section.max_steps > 0:
        return section.max_steps
    together = max(1.0, section.tokens_per_batch / max(1.0, data.tokens_per_record))
    batches = data.records * (1 - held_out) * section.epochs / together
    return max(1, math.ceil(batches / (section.gradient_accumulation_steps * devices)))


def _remarks(recipe: Recipe, machines: Machines) -> list[str]:
    notes = []
    device = machines.device
    if machines.estimated:
        notes.append(
            f"~ estimated from the data sheet of {device.name}, which nobody here has measured: training and "
            f"scoring = operations / ({UTILISATION} x {device.flops / 1e12:,.0f} TFLOP/s), decoding = "
            f"bytes read / ({DECODE_UTILISATION} x {device.bandwidth / 1e12:.2f} TB/s), sharding = bytes sent / "
            f"({LINK_UTILISATION} x {machines.slowest_link / 1e9:,.0f} GB/s), memory = the sums of docs/planning.md"
        )
    if machines.count > 1:
        notes.append(
            "annotate, evaluate and the sampling of later steps are planned on all devices at once, each model on as "
            "many of them as devices_per_model says (docs/cluster.md); one model alone takes as many times longer as "
            "there would be models"
        )
        for stage in ("train_attribute_model", "train_sft"):
            section: TrainingSection | None = getattr(recipe, stage)
            if section is not None and not section.sharded:
                notes.append(f"{stage}: every device holds the whole model; fsdp: true spreads it over all of them")
    return notes


def _misfit(cost: StageCost, machines: Machines) -> str:
    """Return what to do about a step that does not fit."""
    if cost.stage.startswith("train") and cost.largest_batch is None:
        remedy = (
            "not even the smallest batch fits; use gradient_checkpointing: true, fsdp: true with more devices, or lora"
        )
    elif cost.stage.startswith("train"):
        remedy = (
            f"does not fit; set tokens_per_batch: {cost.largest_batch} and raise gradient_accumulation_steps to match "
            "(the result stays the same)"
        )
    elif cost.memory is not None and cost.memory.gradients > 0:
        remedy = "its fine-tuning does not fit, as train_sft"
    elif cost.stage == "reinforce":
        remedy = "the model does not fit one device, and this step does not spread it"
    elif cost.spread is None or cost.spread.enough is None:
        remedy = "the model does not fit the devices of one node, however it is spread"
    elif cost.spread.devices > machines.per_node:
        remedy = f"devices_per_model: {cost.spread.devices} is more than the {machines.per_node} of a node"
    elif cost.spread.enough <= cost.spread.devices:
        remedy = (
            f"devices_per_model: {cost.spread.devices} does not divide the model's heads; {cost.spread.enough} does"
        )
    else:
        remedy = (
            f"the model does not fit {cost.spread.devices} device(s); set {cost.stage}.devices_per_model: "
            f"{cost.spread.enough}"
        )
    return f"{cost.stage}: {remedy}"
