"""Trainings that take a second: random examples, a Llama of two layers, no dropout unless asked for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForSequenceClassification, PreTrainedModel

from steerlm.attributes import AttributeSchema, output_names
from steerlm.batching.batches import EncodedExamples, RegressionExamples
from steerlm.config import TrainingSection
from steerlm.training.loop import train
from steerlm.training.trainer import SteerTrainer
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

torch.set_num_threads(1)

SCHEMA = AttributeSchema.preset("helpsteer")
TOKENIZER = byte_tokenizer(SCHEMA)


class Killed(Exception):
    """Stands for whatever ends a process."""


def section(**values: Any) -> TrainingSection:
    """Return training settings that learn fast, in fp32, validated every epoch."""
    defaults: dict[str, Any] = {
        "base_model": "none",
        "learning_rate": 1e-3,
        "lr_schedule": "linear",
        "warmup_steps": 2,
        "tokens_per_batch": 256,
        "precision": "fp32",
    }
    return TrainingSection(**{**defaults, **values})


def token_examples(count: int, seed: int = 0) -> EncodedExamples:
    """Return random examples of 10 to 39 tokens whose first three tokens are not trained."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(10, 40, count).tolist()
    return EncodedExamples((rng.integers(0, 250, n).tolist(), [False] * 3 + [True] * (n - 3)) for n in lengths)


def rated_examples(count: int, seed: int = 0) -> RegressionExamples:
    """Return random examples with five labels of which about half are missing."""
    rng = np.random.default_rng(seed)

    def row(n: int) -> tuple[list[int], list[float]]:
        labels = rng.integers(0, 5, len(SCHEMA)).astype(float)
        labels[rng.random(len(SCHEMA)) < 0.5] = np.nan
        return rng.integers(0, 250, n).tolist(), labels.tolist()

    return RegressionExamples([row(n) for n in rng.integers(10, 40, count).tolist()])


def language_model(dropout: float = 0.0) -> PreTrainedModel:
    config = tiny_llama_config(len(TOKENIZER))
    config.attention_dropout = dropout
    return random_model(config)


def regressor() -> PreTrainedModel:
    config = tiny_llama_config(len(TOKENIZER))
    config.num_labels = len(output_names(SCHEMA))
    config.pad_token_id = TOKENIZER.pad_token_id
    torch.manual_seed(0)
    return LlamaForSequenceClassification(config)


def run(
    config: TrainingSection, model: Any, examples: Any, out: Path, validation: Any = None, new_ids: Sequence[int] = ()
) -> dict[str, Any]:
    """Train on the examples; returns the summary."""
    regression = isinstance(examples, RegressionExamples)
    held_out = validation
    if held_out is None:
        held_out = rated_examples(12, 9) if regression else token_examples(12, 9)
    objective = "regression" if regression else "sft"
    schema = SCHEMA if regression else None
    return train(config, model, TOKENIZER, examples, held_out, objective, out, 7, schema, new_ids=new_ids)


def parameters(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of all weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the training before the optimizer step number `step` (from 1) of this process."""
    calls = itertools.count(1)
    check = SteerTrainer.stop_if_not_finite

    def die(self: SteerTrainer) -> None:
        check(self)
        if next(calls) == step:
            raise Killed

    monkeypatch.setattr(SteerTrainer, "stop_if_not_finite", die)


def logged(out: Path, key: str) -> Iterator[tuple[int, float]]:
    """Yield (step, value) of one kind of line in metrics.jsonl."""
    import orjson

    for line in (out / "metrics.jsonl").read_bytes().splitlines():
        row = orjson.loads(line)
        if key in row:
            yield row["step"], row[key]
