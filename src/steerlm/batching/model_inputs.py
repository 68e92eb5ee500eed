"""What a decoder is called with, from a padded batch: with a mask where it needs one, or without any padding."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from steerlm.batching.ragged_attention import RAGGED, line_up, plain_rows
from steerlm.batching.shared_prompts import shared_attention

_SMALL = 256
"""Hidden size up to which products on the CPU get round sizes: compiling a kernel for every size, about half a
millisecond for each, costs such a model more than some padding."""

_OUTPUTS = 64
"""The number of its outputs is then a multiple of this."""


class ModelInputs(NamedTuple):
    """Arguments of a decoder.

    Attributes:
        moved: where each of the B * T tokens of the padded batch is now; None: where it was.
        multiple: of this the number of outputs should be.
    """

    arguments: dict[str, object]
    moved: Tensor | None
    multiple: int = 1

    def places(self, positions: Tensor) -> Tensor:
        """Return where tokens are that were at b * T + t of the padded batch."""
        return positions if self.moved is None else self.moved[positions]


def model_inputs(batch: dict[str, Tensor], config: PreTrainedConfig, dtype: torch.dtype) -> ModelInputs:
    """Return what the model is called with."""
    attention = config._attn_implementation
    if attention == RAGGED:
        text = config.get_text_config()
        small = text.hidden_size <= _SMALL
        window = getattr(text, "sliding_window", None)  # most models have none
        windowed = window is not None and batch["input_ids"].shape[1] > window
        line = line_up(batch, plain_rows(dtype) and not windowed, round_up=small)
        arguments = {
            "input_ids": line.input_ids,
            "position_ids": line.position_ids,
            "pieces": line.pieces,
            # a mask of four dimensions goes through as it is: the model makes none
            "attention_mask": torch.empty(1, 1, 1, 1),
            "use_cache": False,
        }
        return ModelInputs(arguments, line.moved, _OUTPUTS if small else 1)
    # padding is on the right, where causal attention cannot see it: without a mask the kernels are faster
    arguments = {"input_ids": batch["input_ids"], "use_cache": False}
    if "ends" in batch:
        arguments["attention_mask"] = shared_attention(batch["ends"], attention, dtype)
        arguments["position_ids"] = batch["position_ids"]
    return ModelInputs(arguments, None)
