"""What single steps of a recipe need on given devices with given data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.config import (
    BootstrapConfig,
    ContrastConfig,
    EvaluateConfig,
    PlaygroundConfig,
    Recipe,
    RefineConfig,
    ReinforceConfig,
    TrainAttributeModelConfig,
    TrainingSection,
)
from steerlm.planning.architectures import Architecture
from steerlm.planning.devices import Machines
from steerlm.planning.inputs import DataSize
from steerlm.planning.memory import (
    PROCESS,
    RESERVED,
    Step,
    StepMemory,
    largest_batch,
    sampling_memory,
    scoring_memory,
    sequences_that_fit,
    training_memory,
)
from steerlm.planning.speed import sampling_seconds, scoring_seconds, training_seconds
from steerlm.runs import tuning_stages

_LEAST_BATCH = 1024
_MEASURING_S = 1e-4
"""Seconds per token that measures take; a tagger takes about twice that, a classifier more."""


class Spread(NamedTuple):
    """How a model that scores or samples lies on devices: on how many, and how many of a node would be enough."""

    devices: int
    enough: int | None


@dataclass(frozen=True)
class StageCost:
    """What one step needs; None = unknown.

    Attributes:
        stage: its name.
        tokens: computed in all.
        parameters: of its model; 0: it has none.
        memory: at its peak, per device.
        seconds: its time.
        largest_batch: the largest `tokens_per_batch` that fits, a multiple of 1,024 or of a smaller own batch; None
            for steps that do not train, and where none fits.
        fits: whether `memory` fits a device.
        spread: of steps that score or sample.
    """

    stage: str
    tokens: int | None
    parameters: int | None
    memory: StepMemory | None = None
    seconds: float | None = None
    largest_batch: int | None = None
    fits: bool | None = None
    spread: Spread | None = None

    @property
    def memory_gib(self) -> float | None:
        """Peak memory per device."""
        return None if self.memory is None else self.memory.gib


def _fits_only(section: TrainAttributeModelConfig, shape: Architecture) -> bool:
    """Return whether a head is all that is fitted."""
    return section.fits_head and (shape.encoder if section.head_only is None else section.head_only)


def labelling_bodies(section: TrainAttributeModelConfig, shape: Architecture | None) -> int:
    """Return how many models label: a tuned one is read beside the one it started from."""
    return 1 if shape is None or not section.fits_head or _fits_only(section, shape) else 2


class Estimator:
    """Costs of single steps on given devices with given data."""

    def __init__(self, machines: Machines, data: DataSize, sized: bool):
        self.machines = machines
        self.data = data
        self.sized = sized
        self.notes: list[str] = []
        device = machines.device
        self.bf16 = not device.cpu or _cpu_trains_in_bf16()
        self.room = device.memory_gib * (1 - RESERVED)

    def step(self, section: TrainingSection, head: bool) -> Step:
        """Return how the batches of a section are trained."""
        return Step(
            section=section,
            head=head,
            shards=self.machines.count if section.sharded else 1,
            cpu=self.machines.device.cpu,
            bf16=self.bf16 and section.precision != "fp32",
            mean_length=min(self.data.length, section.max_length),
            response_share=self.data.response_share,
        )

    def training(self, stage: str, section: TrainingSection, shape: Architecture | None, head: bool) -> StageCost:
        """Cost of a training stage."""
        tokens = None
        if self.sized:
            tokens = self.data.tokens * section.epochs
        if section.max_steps > 0:
            whole = section.max_steps * section.gradient_accumulation_steps
            limit = float(whole * section.tokens_per_batch * self.machines.count)
            tokens = limit if tokens is None else min(tokens, limit)
        if shape is None:
            return StageCost(stage, None if tokens is None else round(tokens), None)
        step = self.step(section, head)
        memory = training_memory(shape, step, section.tokens_per_batch)
        seconds = None
        if tokens is not None:
            seconds = training_seconds(shape, step, self.machines, tokens, section.tokens_per_batch)
        return StageCost(
            stage,
            None if tokens is None else round(tokens),
            shape.parameters if head else shape.parameters_without_head,
            memory,
            seconds,
            largest_batch(shape, step, self.machines.device.memory_gib, min(_LEAST_BATCH, section.tokens_per_batch)),
            memory.gib <= self.room,
        )

    def labels(self, section: TrainAttributeModelConfig, shape: Architecture | None, head: bool) -> StageCost:
        """Cost of the attribute model: its head in closed form reads the data once, fine-tuning trains on them."""
        if shape is None or not _fits_only(section, shape):
            return self.training("train_attribute_model", section, shape, head)
        read = self.annotation(shape, section.tokens_per_batch)
        return replace(read, stage="train_attribute_model", parameters=shape.parameters_without_head)

    def playground(self, world: PlaygroundConfig) -> StageCost:
        """Cost of pretraining the base model of the playground."""
        from steerlm.planning.inputs import playground_shape

        section = TrainingSection(
            base_model="playground", tokens_per_batch=world.tokens_per_batch, epochs=world.pretrain_epochs
        )
        return self.training("playground", section, playground_shape(world), True)

    def spread(
        self, shape: Architecture, devices: int, memory_of: Callable[[int], StepMemory]
    ) -> tuple[Spread, StepMemory, bool]:
        """Return how a model lies on `devices`, what each of them needs (`memory_of`), and whether that can be."""

        def fits(count: int) -> bool:
            whole = count <= self.machines.per_node and shape.key_value_heads % count == 0
            return whole and memory_of(count).gib <= self.room

        enough = next((count for count in range(1, self.machines.per_node + 1) if fits(count)), None)
        return Spread(devices, enough), memory_of(devices), fits(devices)

    def annotation(
        self,
        shape: Architecture | None,
        tokens_per_batch: int,
        bodies: int = 1,
        devices: int = 1,
        precision: str = "auto",
    ) -> StageCost:
        """Cost of labelling all data with a model, or with one and the model it was tuned from."""
        tokens = self.data.tokens if self.sized else None
        if shape is None:
            return StageCost("annotate", tokens, None)

        cpu = self.machines.device.cpu
        width = _weight_bytes(precision, not cpu)

        def memory_of(count: int) -> StepMemory:
            one = scoring_memory(shape, tokens_per_batch, width, cpu, count)
            return replace(one, weights=bodies * one.weights)

        spread, memory, fits = self.spread(shape, devices, memory_of)
        seconds = None
        if tokens is not None:
            seconds = bodies * scoring_seconds(shape, self.machines, tokens, self.data.length, devices)
        return StageCost("annotate", tokens, shape.parameters, memory, seconds, None, fits, spread)

    def measuring(self, schema: AttributeSchema) -> StageCost:
        """Cost of labelling all data without an attribute model: measures need no model at all."""
        tokens = self.data.tokens if self.sized else None
        seconds = None if tokens is None else tokens * _MEASURING_S
        classifiers = sorted({a.classifier.model for a in schema if a.classifier is not None})
        if classifiers:
            self.notes.append(
                f"annotate: memory and time of the classifier {', '.join(classifiers)} are left out of the estimate"
            )
            return StageCost("annotate", tokens, None, None, seconds)
        memory = StepMemory(0, 0, 0, 0, 0, 0, process=PROCESS if self.machines.device.cpu else 0.0)
        return StageCost("annotate", tokens, 0, memory, seconds, fits=memory.gib <= self.room)

    def sampling(
        self,
        stage: str,
        config: BootstrapConfig | EvaluateConfig | RefineConfig | ReinforceConfig,
        shape: Architecture,
        judge: int,
        answers: float,
        lanes: float = 1,
        reading: Callable[[int], StepMemory] | None = None,
    ) -> tuple[StageCost, float]:
        """Return the cost of sampling answers to the data's prompts, and their tokens; `judge` waits beside it.

        Args:
            lanes: prompts that a token is drawn from, on average.
            reading: memory of a pass over the answers that follows on the same devices, by their number.
        """
        prompt = self.data.tokens_per_record * (1 - self.data.response_share)
        answer = min(float(config.max_new_tokens), self.data.tokens_per_record * self.data.response_share)
        cpu, length = self.machines.device.cpu, prompt + config.max_new_tokens
        engine = "local" if isinstance(config, ReinforceConfig) else config.engine
        if engine != "local":
            self.notes.append(
                f"{stage}: cache and time are those of the engine local, the weights' precision that of {engine}"
            )
        precision = config.precision if isinstance(config, EvaluateConfig) else "auto"
        by_itself = {"local": not cpu or _cpu_samples_in_bf16(shape.hidden), "vllm": not cpu, "openvino": False}
        width = _weight_bytes(precision, by_itself[engine])

        def together(count: int) -> int:
            def memory_of(sequences: int) -> StepMemory:
                return sampling_memory(shape, sequences, length, width, cpu, count, judge)

            return sequences_that_fit(config.batch_size, self.room, memory_of)

        def heaviest(count: int) -> StepMemory:
            drawing = sampling_memory(shape, together(count), length, width, cpu, count, judge)
            return drawing if reading is None else max(drawing, reading(count), key=lambda one: one.total)

        devices = 1 if isinstance(config, ReinforceConfig) else config.devices_per_model
        spread, memory, fits = self.spread(shape, devices, heaviest)
        if fits and together(devices) < config.batch_size:
            self.notes.append(
                f"{stage}: memory has room for {together(devices)} of batch_size {config.batch_size} sequences at once"
            )
        seconds = sampling_seconds(
            shape, self.machines, answers * lanes, prompt, answer, together(devices), width, devices
        )
        tokens = answers * (prompt + answer)
        return StageCost(stage, round(tokens), shape.parameters, memory, seconds, None, fits, spread), tokens

    def bootstrap(
        self, config: BootstrapConfig, sft: TrainingSection, shape: Architecture | None, scorer: Architecture | None
    ) -> StageCost:
        """Cost of sampling, scoring and the second fine-tuning."""
        if shape is None:
            return StageCost("bootstrap", None, None)
        records = self.data.records
        prompts = min(config.num_prompts or records, records) if self.sized else config.num_prompts
        if prompts is None:
            return StageCost("bootstrap", None, shape.parameters)
        answers = float(prompts * config.samples_per_prompt * config.rounds)
        judge = 0 if scorer is None else scorer.parameters
        lanes = _prompts_per_token(config.guidance)
        cost, sampled = self.sampling("bootstrap", config, shape, judge, answers, lanes)
        assert cost.memory is not None
        assert cost.seconds is not None
        # how many answers a filter lets pass is not known: all of them at most
        kept = answers * config.most_kept() / config.samples_per_prompt
        if config.mode == "nearest":  # a round trains what the rounds before it kept as well
            kept *= (config.rounds + 1) / 2
        # every round mixes anew, at most all records
        mixed = min(kept * config.mix_original, records * config.rounds) if self.sized else kept * config.mix_original
        trained = (kept + mixed) * self.data.tokens_per_record * (config.epochs or sft.epochs)
        step = self.step(sft, True)
        again = training_memory(shape, step, sft.tokens_per_batch)
        seconds = cost.seconds + training_seconds(shape, step, self.machines, trained, sft.tokens_per_batch)
        if scorer is not None:
            seconds += scoring_seconds(scorer, self.machines, sampled, self.data.length, config.devices_per_model)
        return self.then_training(cost, sampled + trained, seconds, again)

    def then_training(self, cost: StageCost, tokens: float, seconds: float, again: StepMemory) -> StageCost:
        """Return the cost of a step that samples (`cost`) and then trains, which needs `again`."""
        assert cost.memory is not None
        return replace(
            cost,
            tokens=round(tokens),
            memory=max(cost.memory, again, key=lambda one: one.total) if cost.fits else cost.memory,
            seconds=seconds,
            fits=bool(cost.fits) and again.gib <= self.room,
        )

    def refinement(
        self, config: RefineConfig, sft: TrainingSection, shape: Architecture | None, scorer: Architecture | None
    ) -> StageCost:
        """Cost of sampling, scoring, two passes for likelihoods, and training on groups that hold their prompt once."""
        records = self.data.records
        prompts = min(config.num_prompts or records, records) if self.sized else config.num_prompts
        if shape is None or prompts is None or config.groups is not None:
            return StageCost("refine", None, None if shape is None else shape.parameters)
        requests = prompts * config.requests_per_prompt * config.rounds
        answers = float(requests * config.samples_per_prompt)
        prompt = self.data.tokens_per_record * (1 - self.data.response_share)
        answer = min(float(config.max_new_tokens), self.data.tokens_per_record * self.data.response_share)
        group = prompt + config.samples_per_prompt * answer
        # a group is never taken apart, however small the budget
        budget = max(config.tokens_per_batch or sft.tokens_per_batch, math.ceil(group))
        judge, likelihoods = 0 if scorer is None else scorer.parameters, self.likelihoods(shape, budget)
        cost, sampled = self.sampling("refine", config, shape, judge, answers, reading=likelihoods)
        assert cost.memory is not None
        assert cost.seconds is not None
        trained = requests * group * config.epochs
        step = self.step(sft, True)
        again = training_memory(shape, step, budget)
        seconds = cost.seconds + training_seconds(shape, step, self.machines, trained, budget)
        scored = sampled + 2 * requests * group
        seconds += scoring_seconds(shape, self.machines, scored, self.data.length, config.devices_per_model)
        return self.then_training(cost, sampled + trained, seconds, again)

    def likelihoods(self, shape: Architecture, budget: int) -> Callable[[int], StepMemory]:
        """Return what saying how likely answers are needs, by the number of devices: the weights are in fp32."""
        return partial(scoring_memory, shape, budget, 4.0, self.machines.device.cpu)

    def contrast(self, config: ContrastConfig, sft: TrainingSection, shape: Architecture | None) -> StageCost:
        """Cost of two passes over pairs of answers, one of them training: at most what the data's answers make."""
        if shape is None or not self.sized:
            return StageCost("contrast", None, None if shape is None else shape.parameters)
        prompt = self.data.tokens_per_record * (1 - self.data.response_share)
        pair = prompt + 2 * self.data.tokens_per_record * self.data.response_share
        # how many answers a prompt has is not known: two each make a pair of every other record, under two goals
        tokens = self.data.records * pair
        step = self.step(sft, True)
        budget = config.tokens_per_batch or sft.tokens_per_batch
        devices = config.devices_per_model
        spread, memory, fits = self.spread(shape, devices, self.likelihoods(shape, budget))
        seconds = training_seconds(shape, step, self.machines, tokens * config.epochs, budget)
        seconds += scoring_seconds(shape, self.machines, tokens, self.data.length, devices)
        reading = StageCost("contrast", None, shape.parameters, memory, seconds, None, fits, spread)
        total = tokens * (1 + config.epochs)
        return self.then_training(reading, total, seconds, training_memory(shape, step, budget))

    def reinforcement(self, config: ReinforceConfig, sft: TrainingSection, shape: Architecture | None) -> StageCost:
        """Cost of sampling, scoring, the reference's pass, and training on every answer with its prompt."""
        if shape is None:
            return StageCost("reinforce", None, None)
        answers = float(config.steps * config.batch_size)
        cost, sampled = self.sampling("reinforce", config, shape, 0, answers)
        assert cost.seconds is not None
        step = self.step(sft, True)
        budget = math.ceil(sampled / config.steps)
        seconds = cost.seconds + scoring_seconds(shape, self.machines, 2 * sampled, self.data.length)
        seconds += training_seconds(shape, step, self.machines, sampled, budget)
        return self.then_training(cost, 2 * sampled, seconds, training_memory(shape, step, budget))

    def guidance(self, recipe: Recipe, shape: Architecture | None) -> StageCost:
        """Cost of sampling the answers of all strengths; any but 1 reads two prompts per token."""
        config = recipe.tune_guidance
        assert config is not None
        if shape is None:
            return StageCost("tune_guidance", None, None)
        levels = sum(len(attribute.levels) for attribute in recipe.schema_.ordinal)
        lanes = [_prompts_per_token(strength) for strength in config.strengths]
        answers = float(config.num_prompts * recipe.evaluate.samples_per_prompt * levels * len(lanes))
        return self.sampling("tune_guidance", recipe.evaluate, shape, 0, answers, sum(lanes) / len(lanes))[0]

    def evaluation(self, recipe: Recipe, shape: Architecture | None, scorer: Architecture | None) -> StageCost:
        """Cost of sampling the answers of all sweeps, once per model."""
        config = recipe.evaluate
        if shape is None or config.num_prompts is None:
            return StageCost("evaluate", None, None if shape is None else shape.parameters)
        levels = sum(len(attribute.levels) for attribute in recipe.schema_)
        models = len(tuning_stages(recipe))
        answers = float(config.num_prompts * config.samples_per_prompt * levels * len(config.settings) * models)
        tuned = config.guidance is None and recipe.tune_guidance is not None
        # of the models only the last one has been tuned
        lanes = 1 + 1 / models if tuned else _prompts_per_token(config.guidance)
        judge = 0 if scorer is None else scorer.parameters
        return self.sampling("evaluate", config, shape, judge, answers, lanes)[0]


def _cpu_samples_in_bf16(hidden_size: int) -> bool:
    from steerlm.checkpoint.models import samples_in_bf16

    return samples_in_bf16(hidden_size)


def _cpu_trains_in_bf16() -> bool:
    from steerlm.checkpoint.models import autocast_bf16

    return autocast_bf16("auto")


def _weight_bytes(precision: str, bf16: bool) -> float:
    """Return the bytes of a weight that scores or samples; `bf16`: whether `auto` means that."""
    return 2.0 if precision == "bf16" or (precision == "auto" and bf16) else 4.0


def _prompts_per_token(guidance: float | Mapping[str, float] | None) -> int:
    """Return how many prompts a token is drawn from: a dial that counts neither 0 nor 1 needs two."""
    strengths = guidance.values() if isinstance(guidance, Mapping) else [guidance]
    return 1 if all(strength in (None, 0, 1) for strength in strengths) else 2
