"""The linear head of an attribute model as a file beside the weights: `head.safetensors`.

One output per attribute on the common scale; where several sources rate an attribute, one per source as well, which
predicts what that source would have said; and for each of them an output that says how far off it may be.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from steerlm.attributes import Attribute
from steerlm.scorers.features import Readout

HEAD_FILE = "head.safetensors"
FROZEN = "frozen"
"""Folder beside the weights: the base model as it was before it was tuned, where the head reads that, too."""
LEAST_SPREAD = 0.25
"""The spread of a prediction is at least this share of the usual one."""


class Output(NamedTuple):
    """What one output of a head says.

    Attributes:
        source: whose ratings it predicts; None: the common scale.
        category: of which it is the logit; None: the attribute is ordinal, the output on the unit scale.
    """

    attribute: str
    source: str | None = None
    category: str | None = None


@dataclass(frozen=True)
class Head:
    """A linear head and what it reads.

    Attributes:
        outputs: what each of the O outputs says.
        weight: (O, F) fp32.
        bias: (O,) fp32.
        spread_weight: (O, F): the usual distance of a label from the prediction, on the unit scale.
        spread_bias: (O,).
        spread_floor: (O,): the least that a spread may be.
        readout: what is read of the model; None: the last token of a decoder.
    """

    outputs: tuple[Output, ...]
    weight: Tensor
    bias: Tensor
    spread_weight: Tensor
    spread_bias: Tensor
    spread_floor: Tensor
    readout: Readout | None

    def __call__(self, features_N_F: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs and spreads (N, O), in fp32."""
        features_N_F = features_N_F.float()
        outputs = torch.nn.functional.linear(features_N_F, self.weight, self.bias)
        spreads = torch.nn.functional.linear(features_N_F, self.spread_weight, self.spread_bias)
        return outputs, torch.maximum(spreads, self.spread_floor)

    def to(self, device: torch.device) -> Head:
        tensors = {name: getattr(self, name).to(device) for name in _TENSORS}
        return Head(self.outputs, readout=self.readout, **tensors)

    def columns(self, attribute: Attribute, source: str | None) -> list[int]:
        """Return the outputs of an attribute: those of the source where it has its own, else the common ones."""
        mine = [i for i, output in enumerate(self.outputs) if output.attribute == attribute.name]
        own = [i for i in mine if self.outputs[i].source == source]
        return own or [i for i in mine if self.outputs[i].source is None]

    def to_bytes(self) -> bytes:
        """Return the content of `head.safetensors`."""
        described = {"outputs": self.outputs, "readout": None if self.readout is None else asdict(self.readout)}
        tensors = {name: getattr(self, name).contiguous().cpu() for name in _TENSORS}
        # one key: the format keeps several in an order of chance, and a fingerprint is of the bytes
        return bytes(save(tensors, {"head": json.dumps(described)}))


_TENSORS = ("weight", "bias", "spread_weight", "spread_bias", "spread_floor")


def load_head(folder: Path) -> Head | None:
    """Read the head of a model folder; None where it has none of its own (the weights hold it)."""
    path = folder / HEAD_FILE
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in _TENSORS}
    # earlier heads have a key for each
    described = json.loads(metadata.get("head", "null")) or {key: json.loads(text) for key, text in metadata.items()}
    readout = described["readout"]
    outputs = tuple(Output(*row) for row in described["outputs"])
    read = None if readout is None else Readout(readout["pooling"], tuple(readout["layers"]))
    return Head(outputs, readout=read, **tensors)
