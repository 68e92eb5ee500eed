"""What this machine's devices do, measured when a plan is made: in a second or two, on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from steerlm.planning.architectures import Architecture

_WIDEST = 2048
"""Wider layers are measured at this width: their speed hardly differs, and they might not fit."""
_ROWS, _LENGTH = 4, 256
_COPY_BYTES = 128 * 2**20


def layer_speed(shape: Architecture | None) -> float:
    """Return operations per second that the CPU reaches in training one layer of a model's shape.

    The layer is Llama's, computed as `training.trainer` computes it; so what small operations and Python cost is in it.

    Args:
        shape: of the model; None: any.
    """
    from transformers import LlamaConfig, LlamaModel

    from steerlm.batching.model_inputs import model_inputs
    from steerlm.batching.ragged_attention import RAGGED
    from steerlm.checkpoint.models import autocast_bf16

    hidden, intermediate, query, key_value, heads = (
        (shape.hidden, shape.intermediate, shape.query, shape.key_value, shape.heads)
        if shape
        else (1024, 2816, 1024, 1024, 16)
    )
    head = query // heads
    scale = min(1.0, _WIDEST / hidden)
    keys = max(1, round(scale * key_value / head))
    queries = keys * (query // key_value)
    config = LlamaConfig(
        hidden_size=round(scale * hidden),
        intermediate_size=round(scale * intermediate),
        num_attention_heads=queries,
        num_key_value_heads=keys,
        head_dim=head,
        num_hidden_layers=1,
        vocab_size=8,
        attn_implementation=RAGGED,
    )
    layer = LlamaModel(config)
    batch = torch.ones(_ROWS, _LENGTH, dtype=torch.long)
    inputs = model_inputs({"input_ids": batch, "attention_mask": batch}, config, torch.float32).arguments
    bf16 = autocast_bf16("auto")

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            states = layer(**inputs).last_hidden_state
        states.float().sum().backward()

    parameters = int(sum(matrix.numel() for matrix in layer.layers.parameters()))
    operations = 2.0 * parameters + 2.0 * _LENGTH * queries * head
    return 3 * operations * _ROWS * _LENGTH / _fastest(train, 4)


def matrix_speed(size: int) -> float:
    """Return bf16 operations per second of the GPU in products of square matrices."""
    a, b = torch.ones(2, size, size, dtype=torch.bfloat16, device="cuda")

    def multiply() -> None:
        torch.nn.functional.linear(a, b)
        torch.cuda.synchronize()

    return 2.0 * size**3 / _fastest(multiply, 6)


def copy_speed() -> float:
    """Return bytes per second that the CPU reads and writes."""
    source = torch.zeros(_COPY_BYTES, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2.0 * _COPY_BYTES / _fastest(lambda: target.copy_(source), 4)


def _fastest(work: Callable[[], object], tries: int) -> float:
    """Return the seconds of the fastest try."""
    best = math.inf
    for _ in range(tries):
        started = time.monotonic()
        work()
        best = min(best, time.monotonic() - started)
    return best
