"""What a linear head of an attribute model reads: pooled hidden states of the response, and how long it is.

An encoder was trained to be read in a certain way (its sentence-transformers configuration says how); where nothing
says so, the mean over tokens holds most. The mean is taken over the response, whose tokens have seen the dialogue, and
in several layers: the last one of a sentence encoder knows what is said, the middle ones more of how. Each of these
vectors is scaled to length 1. A decoder is read at its last token, which is what `*ForSequenceClassification` and
servers for it do. B rows, T tokens, H hidden size, F features.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class Readout:
    """What is read of an encoder.

    Attributes:
        pooling: `mean` of the response, or `cls`, the first token.
        layers: hidden states, counted from 0, the embeddings.
    """

    pooling: Pooling
    layers: tuple[int, ...]

    @staticmethod
    def of(base_model: str) -> Readout:
        """Return how an encoder is best read, by its sentence-transformers configuration where it has one."""
        depth = int(AutoConfig.from_pretrained(base_model, trust_remote_code=False).num_hidden_layers)
        file = Path(base_model) / "1_Pooling" / "config.json"
        said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        pooling: Pooling = "cls" if said.get("pooling_mode_cls_token") else "mean"
        return Readout(pooling, tuple(sorted({depth - (depth * part) // 6 for part in range(4)})))

    def read(self, hidden_states: Sequence[Tensor], ids_B_T: Tensor, mask_B_T: Tensor, control: Tensor) -> Tensor:
        """Return features (B, F) in fp32: a vector per layer, the logarithms of the tokens of response, dialogue and
        markup, and the share of distinct tokens in the response.

        Args:
            hidden_states: (B, T, H) of the embeddings and every layer.
            ids_B_T: what the encoder read.
            mask_B_T: 1 where there is a token.
            control: ids that no text has, which enclose the response.
        """
        present_B_T = mask_B_T.bool()
        markup_B_T = present_B_T & torch.isin(ids_B_T, control)
        response_B_T = last_response(present_B_T & ~markup_B_T)
        weight_B_T = response_B_T.float()
        if self.pooling == "cls":
            weight_B_T = torch.zeros_like(weight_B_T)
            weight_B_T[:, 0] = 1
        vectors = [
            nn.functional.normalize(torch.einsum("bth,bt->bh", hidden_states[layer].float(), weight_B_T), dim=-1)
            for layer in self.layers
        ]
        said_B = response_B_T.sum(1)
        counts = [torch.log1p(mask.sum(1).float()) for mask in (response_B_T, present_B_T, markup_B_T)]
        distinct_B = _distinct(ids_B_T, response_B_T) / said_B.clamp(min=1)
        return torch.cat([*vectors, torch.stack([*counts, distinct_B], dim=-1)], dim=-1)


def last_response(text_B_T: Tensor) -> Tensor:
    """Return where the last run of tokens that are no markup stands (B, T)."""
    place_T = torch.arange(text_B_T.shape[1], device=text_B_T.device)
    last_B = torch.where(text_B_T, place_T, -1).amax(dim=1, keepdim=True)
    before_B = torch.where(~text_B_T & (place_T < last_B), place_T, -1).amax(dim=1, keepdim=True)
    return (place_T > before_B) & (place_T <= last_B)


def _distinct(ids_B_T: Tensor, where_B_T: Tensor) -> Tensor:
    """Count the distinct tokens (B,)."""
    ordered_B_T = torch.where(where_B_T, ids_B_T, -1).sort(dim=1).values
    changes_B = (ordered_B_T[:, 1:] != ordered_B_T[:, :-1]).sum(1) + 1
    return changes_B - (ordered_B_T[:, 0] < 0).long()
