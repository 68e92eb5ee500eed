"""The weights of an export: loaded in the type that is asked for, with an adapter merged into them."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlm.checkpoint.models import (
    Precision,
    load_causal_lm,
    load_encoder,
    load_sequence_classifier,
    quiet,
    resize_embeddings,
)
from steerlm.errors import UserError, needs_extra
from steerlm.exporting.locating import Found
from steerlm.scorers.heads import HEAD_FILE
from steerlm.storage.files import read_json

Dtype = Literal["bfloat16", "float16", "float32"]


def load_merged(found: Found, tokenizer: PreTrainedTokenizerBase, dtype: Dtype) -> PreTrainedModel:
    """Load the model on the CPU, in one piece.

    An adapter (of QLoRA too) is added to the base model in the precision that the base model is stored in or better:
    in 32 bits, and rounded once at the end.
    """
    if found.is_adapter:
        model = _merged(found, tokenizer)
    else:
        # a half cannot hold all that bfloat16 can, so it is checked on the way
        precision: Precision = "bf16" if dtype == "bfloat16" else "fp32"
        if (found.weights / HEAD_FILE).is_file():
            model = load_encoder(found.weights, precision)
        else:
            load = load_causal_lm if found.info.kind == "sft" else load_sequence_classifier
            model = load(found.weights, precision=precision)
    model = model.to(getattr(torch, dtype))
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise UserError(f"{name} of {found.weights} does not fit into {dtype}; export with --dtype bfloat16")
    return model


def _merged(found: Found, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    with needs_extra("lora", f"the adapter in {found.weights}"):
        from peft import PeftModel, get_peft_model_state_dict

    base = str(read_json(found.weights / "adapter_config.json").get("base_model_name_or_path"))
    model: Any
    if found.info.kind == "sft":
        model = load_causal_lm(base, "fp32")
    else:
        model = load_sequence_classifier(base, found.info.schema, "fp32")
    resize_embeddings(model, tokenizer)
    try:
        with quiet(), warnings.catch_warnings():
            # peft still asks transformers by an old name
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            adapted = PeftModel.from_pretrained(model, found.weights)
    except (ValueError, RuntimeError, OSError) as error:
        text = str(error).strip().splitlines()[0]
        raise UserError(f"cannot put the adapter {found.weights} onto its base model {base!r}: {text}") from error
    # peft leaves out what has no place, and begins anew what is missing
    with safe_open(found.weights / "adapter_model.safetensors", "pt") as file:
        astray = sorted(set(file.keys()) ^ set(get_peft_model_state_dict(adapted, save_embedding_layers=False)))
    if astray:
        raise UserError(
            f"the adapter {found.weights} is for another base model than {base!r}: {len(astray)} tensors have no place "
            f"there, or are missing, for example {astray[0]}"
        )
    merged = adapted.merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    return merged
