"""What a decoder is called with, from a padded batch: with a mask where it needs one, or without any padding."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from steerlm.training.ragged_attention import RAGGED, line_up
from steerlm.training.shared_prompts import shared_attention


class ModelInputs(NamedTuple):
    """Arguments of a decoder.

    Attributes:
        arguments: by name.
        moved: where each of the B * T tokens of the padded batch is now; None: where it was.
    """

    arguments: dict[str, Any]
    moved: Tensor | None

    def places(self, positions: Tensor) -> Tensor:
        """Return where tokens are that were at b * T + t of the padded batch."""
        return positions if self.moved is None else self.moved[positions]


def model_inputs(batch: dict[str, Tensor], attention: str, dtype: torch.dtype) -> ModelInputs:
    """Return what the model is called with.

    Args:
        batch: of `collating.pad_layouts`, on the model's device.
        attention: the model's implementation of it.
        dtype: the model computes in.
    """
    if attention == RAGGED:
        line = line_up(batch)
        arguments = {
            "input_ids": line.input_ids,
            "position_ids": line.position_ids,
            "pieces": line.pieces,
            # a mask of four dimensions goes through as it is: the model makes none
            "attention_mask": torch.empty(1, 1, 1, 1),
            "use_cache": False,
        }
        return ModelInputs(arguments, line.moved)
    # padding is on the right, where causal attention cannot see it: without a mask the kernels are faster
    arguments = {"input_ids": batch["input_ids"], "use_cache": False}
    if "ends" in batch:
        arguments["attention_mask"] = shared_attention(batch["ends"], attention, dtype)
        arguments["position_ids"] = batch["position_ids"]
    return ModelInputs(arguments, None)
