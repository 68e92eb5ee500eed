"""An attribute model that vLLM computes: for large models on GPUs, several of which may share one.

vLLM's pooling runner knows one kind of scorer, a linear head on the last token of a decoder. Conversations go in as
ids and its outputs come back as numbers, so vLLM neither loads the tokenizer nor sees any text; it plans its batches
by itself, and what is asked in one call is computed together.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from steerlm.batching.shared_prompts import Ids
from steerlm.checkpoint.models import (
    Precision,
    context_length,
    fingerprint,
    is_encoder,
    load_config,
    load_info,
    load_tokenizer,
)
from steerlm.checkpoint.served import served_architectures, vllm_settings
from steerlm.checkpoint.weights import check_weights
from steerlm.errors import UserError, needs_extra
from steerlm.scorers.attribute_models import LoadedAttributeModel, by_classifier, describe_folder
from steerlm.scorers.heads import HEAD_FILE
from steerlm.template.conversation_encoder import ConversationEncoder

_ALL_AT_ONCE = 1 << 40
"""Tokens that are handed over together: however many there are."""


def load_vllm_attribute_model(path: Path, precision: Precision = "auto", devices: int = 1) -> LoadedAttributeModel:
    """Start vLLM on an attribute model.

    Args:
        path: folder that `train-attribute-model` wrote.
        precision: of the weights; auto = bf16 on a GPU that has it. The head computes in fp32.
        devices: of this machine that share the model.

    Raises:
        UserError: vLLM is not installed; no attribute model, or one that vLLM cannot compute.
    """
    info = load_info(path)
    if reason := _beyond_vllm(path, info.kind):
        raise UserError(f"engine: vllm cannot score with {path}: {reason}; use engine: local")
    check_weights(path)
    with needs_extra("vllm", "the engine vllm"):
        from vllm import LLM
        from vllm.config import PoolerConfig
    tokenizer, config = load_tokenizer(path), load_config(path)
    max_length = min(context_length(config, tokenizer), int(info.provenance["max_length"]))
    llm = LLM(
        **vllm_settings(path, precision, max_length, devices),
        runner="pooling",
        # as they are: they are no logits
        pooler_config=PoolerConfig(use_activation=False),
        hf_overrides={"architectures": served_architectures(config.architectures)},
    )

    def read(rows: list[list[Ids]]) -> Tensor:
        prompts = [{"prompt_token_ids": ids.tolist()} for row in rows for ids in row]
        return torch.tensor([output.outputs.probs for output in llm.classify(prompts, use_tqdm=False)])

    return LoadedAttributeModel(
        schema=info.schema,
        fingerprint=fingerprint(path),
        label=describe_folder(path),
        encoder=ConversationEncoder(tokenizer, info.schema),
        max_length=max_length,
        device=torch.device("cpu"),
        autocast=False,
        cuts=info.label_statistics.get("cut_points", {}),
        forward=by_classifier(read, info),
        sharing=None,
        tokens_per_batch=_ALL_AT_ONCE,
    )


def _beyond_vllm(path: Path, kind: str) -> str | None:
    """Return why vLLM cannot compute an attribute model."""
    if kind == "sft":
        return "it is a steerable model, not an attribute model"
    if kind == "generative":
        return "it writes its labels"
    if (path / HEAD_FILE).is_file():
        return (
            "its head reads more than the last token of the last layer (train_attribute_model.readout: last, lora, "
            "fsdp and deepspeed make one that vLLM knows)"
        )
    if is_encoder(path):
        return "it is an encoder"
    return None
