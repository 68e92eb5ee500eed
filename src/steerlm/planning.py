"""`steerlm run --dry-run`: validate all that can be validated without computing, and estimate what a run costs.

Parameters come from the model built on the meta device (no weights are read), tokens from a sample of the
data, time from 6 FLOPs (training) or 2 FLOPs (scoring, sampling) per parameter and token over the measured
matrix speed of this machine's device, at an assumed utilisation.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from steerlm.attributes import AttributeSchema
from steerlm.config import PlaygroundConfig, Recipe, TrainingSection
from steerlm.conversation import BadRecords, Conversation
from steerlm.errors import UserError
from steerlm.sources import read_source
from steerlm.stages.prepare import inspect_source

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SAMPLE = 256
_UTILISATION = 0.3
_CHARACTERS_PER_TOKEN = 4.0
_BYTES_PER_PARAMETER_TRAINED = 16  # fp32 weight, gradient and two Adam moments


@dataclass(frozen=True)
class StageCost:
    """What one stage is estimated to need. Sizes in tokens, parameters, GiB and seconds; None = unknown."""

    stage: str
    tokens: int | None
    parameters: int | None
    memory_gib: float | None
    seconds: float | None


@dataclass
class Plan:
    """The outcome of a dry run: `problems` stop a run, `notes` do not."""

    stages: list[StageCost] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataSize:
    """Estimated size of the training data."""

    records: int
    tokens_per_record: float

    @property
    def tokens(self) -> int:
        """Tokens of one pass."""
        return round(self.records * self.tokens_per_record)


def plan(recipe: Recipe) -> Plan:
    """Validate the recipe's inputs and estimate each stage's cost.

    Args:
        recipe: the resolved recipe (its own validation happened when it was loaded).

    Returns:
        The plan; nothing is written and no weights are read.
    """
    result = Plan()
    schema = recipe.schema_
    data = _inspect_data(recipe, schema, result)
    flops = _device_flops()
    if recipe.playground is not None and data is not None:
        size = _playground_parameters(recipe.playground)
        result.stages.append(
            _training_cost("playground", size, data.tokens * recipe.playground.pretrain_epochs, 16384, flops)
        )
    for stage, section in (("train_attribute_model", recipe.train_attribute_model), ("train_sft", recipe.train_sft)):
        parameters = _check_model(stage, section, recipe, result)
        tokens = None if data is None else data.tokens * section.epochs
        if tokens is not None and section.max_steps > 0:
            step = section.tokens_per_batch * section.gradient_accumulation_steps
            tokens = min(tokens, section.max_steps * step)
        result.stages.append(_training_cost(stage, parameters, tokens, section.tokens_per_batch, flops, section))
        if stage == "train_attribute_model":
            tokens = None if data is None else data.tokens
            result.stages.append(_inference_cost("annotate", parameters, tokens, flops))
        elif recipe.bootstrap is not None:
            result.stages.append(_bootstrap_cost(recipe, data, parameters, flops))
    if recipe.evaluate.prompts is not None and not _made_by_run(recipe, recipe.evaluate.prompts):
        _check_prompts(recipe.evaluate.prompts, result)
    return result


def _made_by_run(recipe: Recipe, path: Path) -> bool:
    return recipe.run_dir in path.parents


def _inspect_data(recipe: Recipe, schema: AttributeSchema, result: Plan) -> DataSize | None:
    if recipe.playground is not None:
        world = recipe.playground
        records = world.num_prompts * world.responses_per_prompt
        result.notes.append("the playground's data do not exist yet: their size is taken from the recipe")
        return DataSize(records, 80.0)
    records, tokens, known = 0, 0.0, True
    for source in recipe.prepare.sources:
        if source.hub is not None and not Path(source.hub).exists():
            result.notes.append(f"{source.name}: {source.hub} is on the hub and is not read in a dry run")
            known = False
            continue
        bad = BadRecords() if recipe.prepare.skip_bad_records else None
        seen = inspect_source(source, schema, None)
        if seen["first_error"] and (bad is None or not seen["complete"]):
            result.problems.append(str(seen["first_error"]))
            continue
        if seen["bad"]:
            result.notes.append(
                f"{source.name}: {seen['bad']} bad record(s) would be skipped, first: {seen['first_error']}"
            )
        sample = list(itertools.islice(read_source(source, schema, bad), _SAMPLE)) if seen["records"] else []
        records += seen["records"]
        tokens += seen["characters"] / _CHARACTERS_PER_TOKEN
        _check_template(source.name, sample, result)
    return DataSize(records, tokens / max(records, 1)) if records and known else None


def _check_template(source: str, sample: list[Conversation], result: Plan) -> None:
    if not any(conversation.assistant_turns for conversation in sample):
        result.problems.append(f"{source}: none of the first {len(sample)} records has an assistant turn to train on")


def _check_prompts(path: Path, result: Plan) -> None:
    from steerlm.conversation import read_conversations

    try:
        count = sum(1 for _ in read_conversations(path))
    except UserError as error:
        result.problems.append(str(error))
        return
    if count < 2:
        result.problems.append(f"{path} holds {count} prompts; evaluation needs at least 2")


def _check_model(stage: str, section: TrainingSection, recipe: Recipe, result: Plan) -> int | None:
    """Read the model's config (and tokenizer where it is on this machine) and count its parameters."""
    if recipe.playground is not None and _made_by_run(recipe, Path(section.base_model)):
        return _playground_parameters(recipe.playground)
    from transformers import AutoConfig

    local = Path(section.base_model).exists()
    try:
        # The cache only: a dry run does not wait for a network.
        config = AutoConfig.from_pretrained(section.base_model, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        if local:
            result.problems.append(f"{stage}.base_model {section.base_model}: {str(error).splitlines()[0]}")
        elif section.base_model.startswith((".", "/")) or section.base_model.count("/") != 1:
            result.problems.append(f"{stage}.base_model {section.base_model}: no such folder")
        else:
            result.notes.append(
                f"{stage}.base_model {section.base_model} is not on this machine and is left out of the estimate; "
                f"fetch its description with: hf download {section.base_model} config.json"
            )
        return None
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and section.max_length > context:
        result.problems.append(f"{stage}.max_length {section.max_length} is above the model's context of {context}")
    if local:
        _check_tokenizer(stage, section, recipe, result)
    return count_parameters(config)


def _check_tokenizer(stage: str, section: TrainingSection, recipe: Recipe, result: Plan) -> None:
    from steerlm.checkpoint.models import load_tokenizer
    from steerlm.conversation import Message
    from steerlm.template import ConversationEncoder, install_template

    try:
        tokenizer = load_tokenizer(section.base_model)
        install_template(tokenizer, section.template, recipe.schema_)
        encoder = ConversationEncoder(tokenizer, recipe.schema_)
        encoder.conversation([Message("user", "ping"), Message("assistant", "pong", recipe.schema_.defaults)])
    except UserError as error:
        result.problems.append(f"{stage}: {error}")


def count_parameters(config: PretrainedConfig) -> int:
    """Return the number of parameters of the causal language model (or encoder) that `config` describes."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    body = int(sum(parameter.numel() for parameter in model.parameters()))
    tied = getattr(config, "tie_word_embeddings", True)
    return body if tied else body + int(config.vocab_size * config.hidden_size)


def _playground_parameters(world: PlaygroundConfig) -> int:
    return 12 * world.num_layers * world.hidden_size**2 + 1024 * world.hidden_size


def _device_flops() -> float:
    """Measure this machine's bf16 matrix speed in FLOP/s (well under a second)."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8192 if device == "cuda" else 1024
    a = torch.ones(size, size, dtype=torch.bfloat16, device=device)
    for _ in range(2):
        a @ a
    if device == "cuda":
        torch.cuda.synchronize()
    started, repeats = time.monotonic(), 10
    for _ in range(repeats):
        a @ a
    if device == "cuda":
        torch.cuda.synchronize()
    return 2.0 * size**3 * repeats / (time.monotonic() - started)


def _training_cost(
    stage: str,
    parameters: int | None,
    tokens: float | None,
    batch: int,
    flops: float,
    section: TrainingSection | None = None,
) -> StageCost:
    if parameters is None:
        return StageCost(stage, None if tokens is None else round(tokens), None, None, None)
    if section is not None and section.lora is not None:
        per_parameter = 0.6 if section.lora.quantize_4bit else 2.0
        memory = parameters * per_parameter * 1.05
    else:
        memory = float(parameters) * _BYTES_PER_PARAMETER_TRAINED
    # Activations: about 34 values of 2 bytes per token and hidden unit and layer (Korthikanti et al. 2022),
    # written through the parameter count (12 h^2 per layer) to stay independent of the architecture.
    width = max((parameters / 12 / 24) ** 0.5, 64.0)
    memory += batch * width * 24 * (4 if section is not None and section.gradient_checkpointing else 34) * 2
    seconds = None if tokens is None else 6.0 * parameters * tokens / (flops * _UTILISATION)
    return StageCost(stage, None if tokens is None else round(tokens), parameters, memory / 2**30, seconds)


def _inference_cost(stage: str, parameters: int | None, tokens: float | None, flops: float) -> StageCost:
    if parameters is None or tokens is None:
        return StageCost(stage, None if tokens is None else round(tokens), parameters, None, None)
    return StageCost(
        stage, round(tokens), parameters, parameters * 4 / 2**30, 2.0 * parameters * tokens / (flops * _UTILISATION)
    )


def _bootstrap_cost(recipe: Recipe, data: DataSize | None, parameters: int | None, flops: float) -> StageCost:
    assert recipe.bootstrap is not None
    config = recipe.bootstrap
    if data is None:
        return StageCost("bootstrap", None, parameters, None, None)
    prompts = data.records if config.num_prompts is None else min(config.num_prompts, data.records)
    sampled = prompts * config.samples_per_prompt * min(config.max_new_tokens, data.tokens_per_record) * config.rounds
    trained = sampled * (1 + config.mix_original) * (config.epochs or recipe.train_sft.epochs)
    training = _training_cost(
        "bootstrap", parameters, trained, recipe.train_sft.tokens_per_batch, flops, recipe.train_sft
    )
    seconds = None
    if training.seconds is not None and parameters is not None:
        # Decoding reads every weight per token: an order of magnitude less efficient than training.
        seconds = training.seconds + 2.0 * parameters * sampled / (flops * _UTILISATION / 10)
    return StageCost("bootstrap", round(sampled + trained), parameters, training.memory_gib, seconds)


def print_plan(result: Plan, console: Console) -> None:
    """Print the estimate as a table, then notes and problems."""
    table = Table(title="estimate (order of magnitude)")
    for column in ("stage", "tokens", "parameters", "memory", "time"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for cost in result.stages:
        table.add_row(
            cost.stage,
            "?" if cost.tokens is None else f"{cost.tokens:,}",
            "?" if cost.parameters is None else f"{cost.parameters / 1e6:,.1f} M",
            "?" if cost.memory_gib is None else f"{cost.memory_gib:,.1f} GiB",
            "?" if cost.seconds is None else duration(cost.seconds),
        )
    console.print(table)
    for note in result.notes:
        console.print(f"note: {note}", markup=False)
    for problem in result.problems:
        console.print(f"problem: {problem}", markup=False)
    console.print(
        "no problem found" if not result.problems else f"{len(result.problems)} problem(s); nothing was computed"
    )


def duration(seconds: float) -> str:
    """Return a time for people: seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
