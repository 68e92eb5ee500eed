"""How many responses the free memory has room for: what decodes them keeps keys and values of every token."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from steerlm.storage.spending import free_memory

_SHARE = 0.9
"""Of the free memory; the rest is for what a step computes."""
_COPIES = 2
"""A cache is copied into a new one when rows enter or leave."""


def affordable(model: PreTrainedModel, most: int, longest: int, spread: int = 1) -> int:
    """Return how many rows of up to `longest` tokens to decode at once: at least 1, at most `most`.

    Args:
        model: what decodes; on its device.
        longest: tokens of the longest prompt and response.
        spread: processes that hold a part of the model each, this one among them; all return the same.
    """
    free = free_memory(model.device)
    if free is None:
        return most
    fitting = int(free * _SHARE / (_COPIES * longest * cache_bytes_per_token(model, spread)))
    if spread > 1:
        least = torch.tensor(fitting, device=model.device)
        torch.distributed.all_reduce(least, torch.distributed.ReduceOp.MIN)
        fitting = int(least)
    return max(1, min(most, fitting))


def cache_bytes_per_token(model: PreTrainedModel, spread: int = 1) -> float:
    """Return the bytes that keys and values of one token take in all layers of one process."""
    text = model.config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    values = 2 * int(text.num_hidden_layers) * int(heads) * int(width)
    return float(values * model.dtype.itemsize) / spread
