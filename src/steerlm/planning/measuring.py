"""What this machine's devices do, measured when a plan is made: in a few seconds, on a CPU."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch

from steerlm.batching.ragged_attention import RAGGED
from steerlm.checkpoint.models import head_size
from steerlm.config import LoraSection
from steerlm.planning.architectures import Architecture

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_WIDEST = 2048
"""Wider layers are measured at this width: their speed hardly differs, and they might not fit."""
_ROWS, _LENGTH = 4, 256
_VOCABULARY = 8
_ENOUGH_S = 2.0
_COPY_BYTES = 128 * 2**20


def layer_speed(shape: Architecture | None, lora: LoraSection | None = None) -> float:
    """Return operations per second that the CPU reaches in training one layer of a model, with adapters or whole.

    It is computed as `training.trainer` computes it; so what small operations and Python cost is in it, and with
    adapters their own products, which are counted nowhere else.

    Args:
        shape: of the model; None: any.
        lora: adapters on frozen weights.
    """
    from transformers import AutoModelForCausalLM

    from steerlm.batching.model_inputs import model_inputs
    from steerlm.batching.shared_prompts import can_be_ragged, core_model
    from steerlm.checkpoint.adapters import add_lora
    from steerlm.checkpoint.models import autocast_bf16

    bf16 = autocast_bf16("auto")
    adapted = lora is not None and find_spec("peft") is not None
    config = _one_layer(shape)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if adapted and bf16 else torch.float32)
    parameters = sum(matrix.numel() for name, matrix in model.named_parameters() if ".layers." in name or ".h." in name)
    if lora is not None and adapted:
        model = add_lora(model, LoraSection(rank=lora.rank, dropout=lora.dropout), [], bf16)
    core = core_model(model).base_model
    if can_be_ragged(core, training=True):
        core.set_attn_implementation(RAGGED)
    batch = torch.ones(_ROWS, _LENGTH, dtype=torch.long)
    inputs = model_inputs({"input_ids": batch, "attention_mask": batch}, core.config, torch.float32).arguments

    def train() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            states = core(**inputs).last_hidden_state
        states.float().sum().backward()

    text = config.get_text_config()
    operations: float = 2.0 * parameters + 2.0 * _LENGTH * text.num_attention_heads * head_size(config)
    # frozen weights need no gradient
    return (2 if adapted else 3) * operations * _ROWS * _LENGTH / _fastest(train, 4)


def _one_layer(shape: Architecture | None) -> PretrainedConfig:
    """Return the configuration of a model of one layer: of the same kind where the kind is known to see the past only,
    else and where the layers are wider than is measured a Llama's."""
    from transformers import LlamaConfig

    from steerlm.batching.shared_prompts import CAUSAL

    if shape is not None and shape.config is not None and shape.hidden <= _WIDEST:
        config = copy.deepcopy(shape.config.get_text_config())
        if config.model_type in CAUSAL:
            for name, value in vars(config).items():
                if isinstance(value, list) and len(value) == shape.layers:
                    setattr(config, name, value[:1])
            config.num_hidden_layers = 1
            config.vocab_size = _VOCABULARY
            config.pad_token_id = None
            return config
    hidden, intermediate, query, key_value, heads = (
        (shape.hidden, shape.intermediate, shape.query, shape.key_value, shape.heads)
        if shape
        else (1024, 2816, 1024, 1024, 16)
    )
    head = query // heads
    scale = min(1.0, _WIDEST / hidden)
    keys = max(1, round(scale * key_value / head))
    return LlamaConfig(
        hidden_size=round(scale * hidden),
        intermediate_size=round(scale * intermediate),
        num_attention_heads=keys * (query // key_value),
        num_key_value_heads=keys,
        head_dim=head,
        num_hidden_layers=1,
        vocab_size=_VOCABULARY,
    )


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
    """Return the seconds of the fastest try; the first one warms up, and slow ones are not tried often."""
    best, began = math.inf, time.monotonic()
    for number in range(tries):
        started = time.monotonic()
        work()
        best = min(best, time.monotonic() - started)
        if number and time.monotonic() - began > _ENOUGH_S:
            break
    return best
