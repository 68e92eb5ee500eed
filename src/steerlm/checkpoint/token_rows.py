"""Rows of control tokens trained beside LoRA adapters, as a small table in place of a changed embedding.

peft puts the trained rows into a copy of the whole embedding in every pass, and its gradient is one of the whole
embedding again: of a vocabulary of 262,144 tokens each is 0.7 GB. Here the table is looked up beside the frozen
weights. What is trained, saved and merged is peft's own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

ROWS = "trainable_tokens_delta"
"""What the names of the tables hold."""


class OutputLayer(NamedTuple):
    """The output layer of a language model.

    Attributes:
        ids: tokens, in ascending order, whose rows are replaced,
        rows: by these.
    """

    linear: nn.Linear
    ids: Sequence[int] = ()
    rows: Tensor | None = None


def look_rows_up(adapted: Any) -> None:
    """Let every layer with trained rows compute with the table beside its frozen weight."""
    for layer in _layers(adapted):
        layer.forward = functools.partial(_forward, layer, layer.forward)


def output_layer(core: Any) -> OutputLayer | None:
    """Return the output layer of a model, which may have trained rows; None: it is of another kind."""
    head = core.get_output_embeddings()
    if isinstance(head, nn.Linear):
        return OutputLayer(head)
    layers = list(_layers(head))
    if len(layers) != 1 or not isinstance(layers[0].base_layer, nn.Linear):
        return None
    ids, rows = _table(layers[0])
    order = sorted(range(len(ids)), key=lambda i: ids[i])
    if order != list(range(len(ids))):
        rows = rows[order]
    return OutputLayer(layers[0].base_layer, sorted(ids), rows)


def _layers(module: nn.Module) -> Any:
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    return (layer for layer in module.modules() if isinstance(layer, TrainableTokensLayer))


def _table(layer: Any) -> tuple[list[int], Tensor]:
    (name,) = layer.active_adapters
    return list(layer.token_indices[name]), layer.trainable_tokens_delta[name]


def _forward(layer: Any, original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    base = layer.base_layer
    if layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        result: Tensor = original(x, *args, **kwargs)
        return result
    ids, rows_K_H = _table(layer)
    ids_K = torch.tensor(ids, device=x.device)
    if isinstance(base, nn.Linear):
        logits: Tensor = base(x)
        return logits.index_copy(-1, ids_K, functional.linear(x.to(rows_K_H.dtype), rows_K_H).to(logits.dtype))
    embedded = base(x)
    ascending_K, order_K = ids_K.sort()
    place = torch.searchsorted(ascending_K, x).clamp(max=len(ids) - 1)
    rows = functional.embedding(order_K[place], rows_K_H)
    scale = layer._get_embed_scale()
    if scale is not None:
        rows = rows * scale
    return torch.where((ascending_K[place] == x)[..., None], rows.to(embedded.dtype), embedded)
