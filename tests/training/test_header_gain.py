"""What the probe of headers makes of the losses of its batches, with a trainer that reads losses off the targets."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from steerlm.batching.batches import IGNORED, Example
from steerlm.training.header_gain import _losses


def test_every_example_gets_the_losses_of_its_own_tokens() -> None:
    generator = np.random.default_rng(0)
    examples = []
    for length in (9, 4, 17, 2, 12, 30, 5):
        ids = generator.integers(1, 50, length).astype(np.int32)
        trained = generator.random(length) < 0.5
        trained[-1] = True
        examples.append(Example(ids, np.where(trained, ids, np.int32(IGNORED))))
    batches = []

    def response_losses(model: Any, inputs: dict[str, torch.Tensor], apart: bool) -> torch.Tensor:
        assert apart
        batches.append(len(inputs["input_ids"]))
        return torch.cat([inputs["targets"].float() / 7, torch.zeros(3)])  # as much as fills up a round number

    trainer: Any = SimpleNamespace(
        validation_plan=SimpleNamespace(tokens_per_batch=40),
        pad_id=0,
        model_wrapped=None,
        _prepare_inputs=lambda inputs: inputs,
        compute_loss_context_manager=contextlib.nullcontext,
        response_losses=response_losses,
    )
    losses_N, tokens_N = _losses(trainer, examples)
    targets = [example.labels[1:][example.labels[1:] != IGNORED] for example in examples]
    np.testing.assert_allclose(losses_N, [target.sum() / 7 for target in targets], rtol=1e-6)
    np.testing.assert_array_equal(tokens_N, [len(target) for target in targets])
    assert sum(batches) == len(examples)
    assert len(batches) < len(examples)
