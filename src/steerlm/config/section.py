"""What all sections of a recipe have in common."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

EngineName = Literal["local", "vllm", "openvino"]
"""What samples: the built-in engine, vLLM (extra `vllm`) or OpenVINO GenAI (extra `openvino`)."""


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys and numbers that are not finite are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
