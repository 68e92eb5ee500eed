"""What turns hidden states into scores or logits computes in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from steerlm.batching.shared_prompts import core_model

_LIKELIEST = 256
"""Tokens that may be drawn, and those that are likely behind one of several prompts that are mixed."""


def head_in_fp32(model: Any) -> None:
    """Let what turns hidden states into scores or logits compute in fp32, whatever the rest of the model computes in.

    In bf16 a score of about 1 is one of few: the next one is 1/128 away.
    """
    core = core_model(model)
    output = core.get_output_embeddings()
    if isinstance(output, nn.Linear) and isinstance(output.weight, DTensor):
        # spread over devices, its own forward gathers the logits; tied, the weights stay those of the embeddings
        if output.weight is not core.get_input_embeddings().weight:
            _forward_in_fp32(output.float(), output.forward)
    elif isinstance(output, nn.Linear):
        _forward_in_fp32(output, lambda states: _linear_in_fp32(output, states))
    elif output is None:
        for head in core.children():
            if head is not core.base_model:
                _forward_in_fp32(head.float(), head.forward)


def likeliest_in_fp32(model: Any) -> None:
    """Let a model in bf16 give the logits of each position's likeliest tokens in fp32.

    In bf16 logits of 16 to 32 are an eighth apart, which guidance multiplies. An output layer in fp32 would take twice
    the memory and, on a CPU, most of the time that bf16 saves.
    """
    layer = model.get_output_embeddings()
    if not isinstance(layer, nn.Linear) or isinstance(layer.weight, DTensor) or layer.weight.dtype != torch.bfloat16:
        return

    def run(states: Tensor) -> Tensor:
        logits = functional.linear(states, layer.weight, layer.bias).float()
        tokens = logits.topk(min(_LIKELIEST, logits.shape[-1]), dim=-1, sorted=False).indices
        exact = (layer.weight[tokens].float() @ states.float()[..., None]).squeeze(-1)
        if layer.bias is not None:
            exact += layer.bias[tokens]
        return logits.scatter_(-1, tokens, exact)

    _replace_forward(layer, run)


def _replace_forward(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
    module.forward = forward


def _linear_in_fp32(layer: nn.Linear, states: Tensor) -> Tensor:
    # the weights may be those of the embeddings, too: these stay as they are
    bias = None if layer.bias is None else layer.bias.float()
    return functional.linear(states, layer.weight.float(), bias)


def _forward_in_fp32(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
    def run(states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return forward(states.float())

    _replace_forward(head, run)
