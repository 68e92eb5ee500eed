"""What a checkpoint says about itself: `steerlm.json`, beside the weights in an ordinary Hugging Face folder.

How strongly its dials count by themselves stands in a file of its own, `guidance.json`: it is chosen after training and
changes nothing that the weights are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from steerlm.attributes import AttributeSchema
from steerlm.errors import UserError, did_you_mean, shell_word
from steerlm.storage.files import write_json

INFO_FILE = "steerlm.json"
GUIDANCE_FILE = "guidance.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """What `steerlm.json` says about a checkpoint.

    Attributes:
        kind: `sft` (steerable model), or the form of an attribute model: `regression` or `generative`.
        template: name of the chat template in its tokenizer.
        conditioning: False for a plain SFT baseline, which knows no attributes.
        label_statistics: of the training labels: combinations with counts, histograms and means.
        provenance: base model, data and recipe section; nothing that differs between two equal runs.
        strengths: how strongly a dial counts that is turned away from its default, where `steerlm tune-guidance` chose
            something else than 1.
    """

    kind: Literal["sft", "regression", "generative"]
    schema: AttributeSchema
    template: str
    conditioning: bool = True
    label_statistics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    strengths: Mapping[str, float] = field(default_factory=dict)


def save_info(folder: str | Path, info: CheckpointInfo) -> None:
    write_json(
        Path(folder) / INFO_FILE,
        {
            "format": 1,
            "kind": info.kind,
            "schema": info.schema.to_dict(),
            "template": info.template,
            "conditioning": info.conditioning,
            "label_statistics": dict(info.label_statistics),
            "provenance": dict(info.provenance),
        },
    )
    if info.strengths:
        save_strengths(folder, info.strengths)


def save_strengths(folder: str | Path, strengths: Mapping[str, float]) -> None:
    """Write how strongly dials count that are turned away from their default."""
    write_json(Path(folder) / GUIDANCE_FILE, {"format": 1, "strengths": dict(strengths)})


def load_info(folder: str | Path) -> CheckpointInfo:
    """Read `steerlm.json` of a checkpoint folder."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no such checkpoint folder: {folder}")
    path = folder / INFO_FILE
    if not path.is_file() and (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} is an adapter; give the folder `model` of its training, which it is merged into, or what "
            f"`steerlm export {shell_word(folder)} --out FOLDER` makes of it"
        )
    if not path.is_file():
        raise UserError(
            f"{folder} is not a steerlm checkpoint: it has no {INFO_FILE}; "
            "give the folder `model` that train-sft, bootstrap or train-attribute-model wrote"
        )
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        kind, template = raw["kind"], raw["template"]
        schema = AttributeSchema.from_dict(raw["schema"])
        conditioning = bool(raw["conditioning"])
        statistics, provenance = dict(raw["label_statistics"]), dict(raw["provenance"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, UserError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); restore it or train the model again") from None
    if kind not in ("sft", "regression", "generative"):
        raise UserError(f"{path}: kind {kind!r} is not one of sft, regression, generative")
    return CheckpointInfo(kind, schema, template, conditioning, statistics, provenance, _strengths(folder, schema))


def _strengths(folder: Path, schema: AttributeSchema) -> dict[str, float]:
    path = folder / GUIDANCE_FILE
    if not path.is_file():
        return {}
    try:
        said = dict(json.loads(path.read_text(encoding="utf-8"))["strengths"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, or run `steerlm tune-guidance` again") from None
    for name, strength in said.items():
        if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 <= strength < math.inf:
            raise UserError(f"{path}: the strength of {name} must be a number from 0, got {strength!r}")
        if name not in schema:
            raise UserError(f"{path}: {name!r} is no attribute of the model: {did_you_mean(name, schema.names)}")
    return {name: float(strength) for name, strength in said.items() if strength != 1}
