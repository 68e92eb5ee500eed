"""What turns hidden states into scores or logits computes in fp32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional

from steerlm.batching.shared_prompts import core_model


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


def _linear_in_fp32(layer: nn.Linear, states: Tensor) -> Tensor:
    # the weights may be those of the embeddings, too: these stay as they are
    bias = None if layer.bias is None else layer.bias.float()
    return functional.linear(states, layer.weight.float(), bias)


def _forward_in_fp32(head: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
    def run(states: Tensor) -> Tensor:
        with torch.autocast(states.device.type, enabled=False):
            return forward(states.float())

    head.forward = run
