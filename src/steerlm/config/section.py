"""What all sections of a recipe have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

EngineName = Literal["local", "vllm", "openvino"]
"""What samples: the built-in engine, vLLM (extra `vllm`) or OpenVINO GenAI (extra `openvino`)."""

DevicesPerModel = Annotated[
    int,
    Field(ge=1, description="Devices of a node that share the model; more than 1 for one that fits no single device."),
]
"""The same key in every section that scores or samples."""


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
