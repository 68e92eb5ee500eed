"""Which engine samples: the built-in one, vLLM, or OpenVINO GenAI."""

from __future__ import annotations

from pathlib import Path

from steerlm.checkpoint.models import Precision
from steerlm.config.section import EngineName
from steerlm.errors import UserError
from steerlm.generation.engine import load_engine
from steerlm.generation.requests import Engine


def open_engine(
    name: EngineName, path: str | Path, precision: Precision = "auto", batch_size: int = 64, devices: int = 1
) -> Engine:
    """Load a steerable checkpoint for sampling.

    Args:
        path: folder written by `train-sft` or `bootstrap`.
        precision: of the weights; auto = what the engine is fastest in, of bf16 and fp32, on this device.
        batch_size: most responses decoded together.
        devices: of this machine that share the model.

    Raises:
        UserError: the engine is not installed or cannot run the model; not a steerable checkpoint.
    """
    if name == "vllm":
        from steerlm.generation.vllm import load_vllm_engine

        return load_vllm_engine(path, precision, batch_size, devices)
    if name == "openvino":
        if devices > 1:
            raise UserError(f"devices_per_model: {devices}: OpenVINO computes on one device; set it to 1")
        from steerlm.generation.openvino import load_openvino_engine

        return load_openvino_engine(path, precision, batch_size)
    if devices > 1:
        from steerlm.generation.spread import SpreadEngine

        return SpreadEngine(Path(path), precision, batch_size, devices)
    return load_engine(path, precision, batch_size)
