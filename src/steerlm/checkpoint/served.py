"""A checkpoint as vLLM is started on it, for sampling or for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from steerlm.checkpoint.models import Precision, inference_dtype

_SERVED_AS = {"Gemma3TextForSequenceClassification": "Gemma3ForSequenceClassification"}
"""Architectures under the names by which vLLM finds their language models (`Gemma3ForCausalLM`)."""


def served_architectures(architectures: Sequence[str] | None) -> list[str]:
    """Return a checkpoint's architectures under the names by which vLLM finds them; transformers goes by the type."""
    return [_SERVED_AS.get(name, name) for name in architectures or ()]


def vllm_settings(path: Path, precision: Precision, context: int | None, devices: int) -> dict[str, object]:
    """Return the settings of `vllm.LLM` that do not depend on what it is for: ids in, no code of the checkpoint's.

    Args:
        precision: of the weights; auto = bf16 on a GPU that has it.
        context: most tokens of a sequence; None: as the model says.
        devices: of this machine that share the model.
    """
    settings: dict[str, object] = {
        "model": str(path),
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "dtype": "bfloat16" if inference_dtype(precision) == torch.bfloat16 else "float32",
        "max_model_len": context,
        "enable_prefix_caching": True,
        "seed": 0,
    }
    if devices > 1:
        settings["tensor_parallel_size"] = devices
    return settings
