"""What a linear head of an attribute model reads: pooled hidden states of the response, and how long it is.

An encoder was trained to be read in a certain way (its sentence-transformers configuration says how); where nothing
says so, the mean over tokens holds most. The mean is taken over the response, whose tokens have seen the dialogue, and
in several layers: the last one of a sentence encoder knows what is said, the middle ones more of how. Each of these
vectors is scaled to length 1; beside them stand sums, in which what a response holds several times counts several
times. Of a decoder the sums are read, in layers from the embeddings to the last, and what its last token knows. B rows,
T tokens, H hidden size, F features.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from steerlm.checkpoint.models import load_config

Pooling = Literal["mean", "cls", "sum", "last"]
States = Sequence[Tensor] | Mapping[int, Tensor]
"""Hidden states (B, T, H) by layer."""

_WIDEST = 4096
"""Most features of a decoder, where more than one layer is read: solving for them takes the cube of their number."""


@dataclass(frozen=True)
class Readout:
    """What is read of an encoder or a decoder.

    Attributes:
        pooling: one or more, with + between them: per layer the `mean` of the response and `cls`, the first token,
            both of length 1, and its `sum`; of the last of the layers the `last` token.
        layers: hidden states, counted from 0, the embeddings.
    """

    pooling: str
    layers: tuple[int, ...]

    @staticmethod
    def of(base_model: str, causal: bool = False) -> Readout:
        """Return how a model is best read, an encoder by its sentence-transformers configuration where it has one."""
        config = load_config(base_model).get_text_config()
        depth = int(config.num_hidden_layers)
        if causal:
            parts = max(1, min(4, _WIDEST // int(config.hidden_size) - 1))
            return Readout(
                "sum+last", tuple(sorted({depth - depth * part // max(1, parts - 1) for part in range(parts)}))
            )
        file = Path(base_model) / "1_Pooling" / "config.json"
        said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        pooling: Pooling = "cls" if said.get("pooling_mode_cls_token") else "mean"
        return Readout(f"{pooling}+sum", tuple(sorted({depth - (depth * part) // 6 for part in range(4)})))

    def places(self) -> list[str]:
        """Return what each vector is, for people."""
        named = {"mean": "mean of layer", "cls": "first token of layer", "sum": "sum of layer"}
        found = []
        for pooling in self.pooling.split("+"):
            layers = self.layers[-1:] if pooling == "last" else self.layers
            found += [f"{named.get(pooling, 'last token of layer')} {layer}" for layer in layers]
        return found

    def read(self, hidden_states: States, ids_B_T: Tensor, mask_B_T: Tensor, control: Tensor) -> Tensor:
        """Return features (B, F) in fp32: the vectors, the logarithms of the tokens of response, dialogue and markup,
        and the share of distinct tokens in the response.

        Args:
            hidden_states: of the embeddings and every layer, or those that are read.
            ids_B_T: what the model read, padded on the right.
            mask_B_T: 1 where there is a token.
            control: ids that no text has, which enclose the response.
        """
        with torch.autocast(ids_B_T.device.type, enabled=False):
            return self._read(hidden_states, ids_B_T, mask_B_T, control)

    def tokens(self, ids_B_T: Tensor, mask_B_T: Tensor, control: Tensor) -> Tensor:
        """Return whose states of a decoder's last layer are read (B, T); arguments as of `read`."""
        present_B_T = mask_B_T.bool()
        read_B_T = last_response(present_B_T & ~torch.isin(ids_B_T, control))
        read_B_T[torch.arange(len(read_B_T), device=read_B_T.device), _last(present_B_T)] = True
        return read_B_T

    def _read(self, hidden_states: States, ids_B_T: Tensor, mask_B_T: Tensor, control: Tensor) -> Tensor:
        present_B_T = mask_B_T.bool()
        markup_B_T = present_B_T & torch.isin(ids_B_T, control)
        response_B_T = last_response(present_B_T & ~markup_B_T)
        vectors: list[Tensor] = []
        for pooling in self.pooling.split("+"):
            if pooling == "last":
                last_B = _last(present_B_T)
                rows_B = torch.arange(len(last_B), device=last_B.device)
                vectors.append(hidden_states[self.layers[-1]][rows_B, last_B].float())
                continue
            weight_B_T = response_B_T.float()
            if pooling == "cls":
                weight_B_T = torch.zeros_like(weight_B_T)
                weight_B_T[:, 0] = 1
            for layer in self.layers:
                vector_B_H = torch.einsum("bth,bt->bh", hidden_states[layer].float(), weight_B_T)
                vectors.append(vector_B_H if pooling == "sum" else nn.functional.normalize(vector_B_H, dim=-1))
        said_B = response_B_T.sum(1)
        counts = [torch.log1p(mask.sum(1).float()) for mask in (response_B_T, present_B_T, markup_B_T)]
        distinct_B = _distinct(ids_B_T, response_B_T) / said_B.clamp(min=1)
        return torch.cat([*vectors, torch.stack([*counts, distinct_B], dim=-1)], dim=-1)


def _last(present_B_T: Tensor) -> Tensor:
    """Return the place of the last token (B,)."""
    return present_B_T.sum(1).sub(1).clamp(min=0)


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
