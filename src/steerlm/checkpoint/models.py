"""Load and save models and tokenizers; every checkpoint carries its attribute schema.

A checkpoint is an ordinary Hugging Face folder plus `steerlm.json` (`CheckpointInfo`). Weights are read from
safetensors only, and code from a checkpoint is never run.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.initialization import no_init_weights
from transformers.utils import logging as hf_logging

from steerlm.attributes import AttributeSchema, output_names
from steerlm.checkpoint.info import INFO_FILE as INFO_FILE
from steerlm.checkpoint.info import CheckpointInfo as CheckpointInfo
from steerlm.checkpoint.info import load_info as load_info
from steerlm.checkpoint.info import save_info as save_info
from steerlm.checkpoint.weights import check_weights, whole_folder
from steerlm.checkpoint.weights import fingerprint as fingerprint
from steerlm.errors import UserError, needs_extra
from steerlm.native import RECORD, ending_ids

log = logging.getLogger(__name__)

Precision = Literal["auto", "bf16", "fp32"]

_WIDE = 512
"""Hidden size from which sampling on a CPU with bf16 units is faster in bf16: 1.2 to 2 times as fast; narrow models are
slower in it, a batch of one most of all."""

_ROWS = 8192
"""Of a table of embeddings, copied at a time."""

# On the CPU oneDNN, and PyTorch on top of it, keep the kernels for the last 1,024 sizes of products, which hold several
# hundred MB. A small model's batches, of round sizes (`batching.model_inputs`), need 200 or so; of those of others few
# are used again. Both look here when they are first used.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "256")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Hugging Face's log to errors, and its progress bars to terminals."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    if not sys.stderr.isatty():
        hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def autocast_bf16(precision: Precision) -> bool:
    """Return whether training computes in bf16 (autocast over fp32 weights); auto = where the device has it."""
    if precision == "fp32":
        return False
    if torch.cuda.is_available():
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        if precision == "bf16" and not supported:
            raise UserError(f"precision: bf16 is not supported by {torch.cuda.get_device_name()}; use precision: fp32")
        return bool(supported)
    units = bool(torch.cpu._is_avx512_bf16_supported())
    if precision == "bf16" and not units and platform.machine() in ("x86_64", "AMD64"):
        _warn_of_emulation()
    return precision == "bf16" or units


@functools.cache
def _warn_of_emulation() -> None:
    log.warning(
        "precision: bf16 takes many times as long as fp32 on this CPU, which has no instructions for bf16; "
        "precision: auto takes fp32 here"
    )


def inference_dtype(precision: Precision) -> torch.dtype:
    """Return the dtype of weights for generation and scoring; auto = bf16 on a GPU that has it, fp32 on the CPU."""
    if precision == "auto" and not torch.cuda.is_available():
        return torch.float32
    return torch.bfloat16 if autocast_bf16(precision) else torch.float32


def samples_in_bf16(hidden_size: int) -> bool:
    """Return whether a model of this width samples in bf16 by itself: where the device has it, on a CPU if wide."""
    return autocast_bf16("auto") and (torch.cuda.is_available() or hidden_size >= _WIDE)


def sampling_precision(precision: Precision, name_or_path: str | Path) -> Precision:
    """Return the precision of the weights that sample, in place of auto what this device is faster in."""
    if precision != "auto" or not autocast_bf16("auto"):
        return precision
    return "bf16" if samples_in_bf16(load_config(name_or_path).get_text_config().hidden_size) else "fp32"


def default_device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator if accelerator is not None else torch.device("cpu")


def _resolve(name_or_path: str | Path, weights: bool = True) -> str:
    """Return the name to load, after checks on a local folder."""
    name = os.fspath(name_or_path)
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder} is not a Hugging Face checkpoint: it has no config.json")
        if weights:
            check_weights(folder)
    elif name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise UserError(f"no such model folder: {name}")
    return name


def _explain(name: str, error: Exception) -> UserError:
    text = str(error).strip().splitlines()
    here = "" if Path(name).exists() else "; no folder here is called so"
    return UserError(f"cannot load {name!r}: {text[0] if text else type(error).__name__}{here}")


def load_config(name_or_path: str | Path, **changes: object) -> PreTrainedConfig:
    """Load the configuration of a model, with some values changed.

    Raises:
        UserError: there is none, or transformers does not know the kind of model.
    """
    name = _resolve(name_or_path, weights=False)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, **changes)
    except (OSError, ValueError, KeyError) as error:
        raise _explain(name, error) from error
    assert isinstance(config, PreTrainedConfig)
    return config


def context_length(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the most tokens a model can read: its positions, or fewer where the tokenizer says so.

    RoBERTa's positions start behind its padding id, so that only the tokenizer knows the right number.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)  # some models have no limit
    limit = int(tokenizer.model_max_length)
    return limit if positions is None else min(limit, int(positions))


def head_size(config: PreTrainedConfig) -> int:
    """Return how wide an attention head of a model is, which some configurations leave to be computed."""
    text = config.get_text_config()
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a hub id or a local folder, which may be that of an adapter."""
    name = os.fspath(name_or_path)
    if not (Path(name) / "tokenizer_config.json").is_file():
        name = _resolve(name_or_path, weights=False)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _explain(name, error) from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def load_causal_lm(
    name_or_path: str | Path, precision: Precision = "fp32", quantize_4bit: bool = False, spread: int = 1
) -> PreTrainedModel:
    """Load a causal language model, on the CPU (4 bit, and a part: on the default device).

    Args:
        precision: of the weights; fp32 is what full fine-tuning wants, auto what generation wants.
        quantize_4bit: whether to quantise it (QLoRA).
        spread: over so many processes, this one of them (`storage.ranks`), each of which gets its part.

    Raises:
        UserError: missing, cut short, not safetensors, not a causal language model (a masked one will not do), or
            weights missing in it.
    """
    name = _resolve(name_or_path)
    if weights_come_from_rank_0() and not quantize_4bit:
        return _without_weights(AutoModelForCausalLM, name, inference_dtype(precision), {})
    how: dict[str, object] = _spread(name, spread)
    if quantize_4bit:
        how = {"quantization_config": _four_bit(), "device_map": {"": default_device()}}
    model, missing = _with_weights(AutoModelForCausalLM, name, inference_dtype(precision), how)
    if missing:
        raise UserError(
            f"{name!r} lacks {len(missing)} weights of a causal language model (for example {missing[0]}): "
            "it is another kind of model"
        )
    if type(model.config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(model.config, "is_decoder", True):
        raise UserError(
            f"{name!r} is an encoder ({model.config.model_type}): its tokens see those after them, so that it cannot "
            "learn to write; take a causal language model"
        )
    return model


def weights_come_from_rank_0() -> bool:
    """Return whether this process gets its weights from rank 0 when FSDP shards them, and so need not read any.

    `accelerate launch` says so with `fsdp_cpu_ram_efficient_loading: true`; otherwise every process of a node holds the
    whole model in main memory for a moment.
    """
    fsdp, spread = (
        os.environ.get(key, "false").lower() in ("true", "1")
        for key in ("ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")
    )
    return fsdp and spread and os.environ.get("RANK", "0") != "0"


def _without_weights(kind: Any, name: str, dtype: torch.dtype, changes: Mapping[str, object]) -> PreTrainedModel:
    """Return a model whose parameters nobody writes to; they take no memory. Its buffers are real, nobody sends any."""
    config = load_config(name, **changes)
    with no_init_weights():
        model = kind.from_config(config, dtype=dtype)
    assert isinstance(model, PreTrainedModel)
    return model


def load_sequence_classifier(
    name_or_path: str | Path,
    schema: AttributeSchema | None = None,
    precision: Precision = "fp32",
    spread: int = 1,
) -> PreTrainedModel:
    """Load an encoder or decoder with a regression head (one linear layer), on the CPU.

    Args:
        schema: where given, a fresh head with one output per ordinal attribute and per category
            (`attributes.output_names`) is put on the backbone; None loads the head that is stored.
        precision: of the weights; fp32 for training, auto for scoring.
        spread: as of `load_causal_lm`.

    Raises:
        UserError: missing, cut short, not safetensors, or (without a schema) a checkpoint without a head.
    """
    name = _resolve(name_or_path)
    head: dict[str, object] = {}
    if schema is not None:
        names = output_names(schema)
        head = {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {label: i for i, label in enumerate(names)},
            "problem_type": "regression",
        }
    if weights_come_from_rank_0():
        return _without_weights(AutoModelForSequenceClassification, name, inference_dtype(precision), head)
    fresh = {**head, "ignore_mismatched_sizes": True} if head else _spread(name, spread)
    model, missing = _with_weights(AutoModelForSequenceClassification, name, inference_dtype(precision), fresh)
    if schema is None and missing:
        raise UserError(f"{name!r} has no trained head (missing: {missing[0]})")
    return model


def _spread(name: str, count: int) -> dict[str, object]:
    """Return what makes a loader read one process's part of a model.

    Raises:
        UserError: a model that cannot be cut into so many parts.
    """
    if count == 1:
        return {}
    from transformers.distributed import DistributedConfig

    text = load_config(name).get_text_config()
    heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
    if not text.base_model_tp_plan:
        raise UserError(
            f"devices_per_model: {name!r} ({text.model_type}) has no plan for tensor parallelism in transformers; "
            "set it to 1, or use engine: vllm"
        )
    if heads % count:
        raise UserError(f"devices_per_model: {count} does not divide the {heads} key-value heads of {name!r}")
    return {"distributed_config": DistributedConfig(tp_size=count)}


def _with_weights(
    kind: Any, name: str, dtype: torch.dtype, more: Mapping[str, object]
) -> tuple[PreTrainedModel, list[str]]:
    """Return a model, and the names of its weights that the checkpoint lacks."""
    try:
        with quiet():
            model, report = kind.from_pretrained(
                name, output_loading_info=True, dtype=dtype, use_safetensors=True, trust_remote_code=False, **more
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _explain(name, error) from error
    assert isinstance(model, PreTrainedModel)
    return model, sorted(report["missing_keys"])


def is_encoder(name_or_path: str | Path) -> bool:
    """Return whether a model is one whose tokens see those after them (BERT and its kin), by its configuration.

    Raises:
        UserError: there is none.
    """
    config = load_config(name_or_path)
    masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder
    return masked and not getattr(config, "is_decoder", False)


def load_encoder(name_or_path: str | Path, precision: Precision = "fp32", spread: int = 1) -> PreTrainedModel:
    """Load an encoder (or a decoder) without a head, on the CPU; `spread` as of `load_causal_lm`.

    Raises:
        UserError: missing, cut short, or not safetensors.
    """
    name = _resolve(name_or_path)
    parts = _spread(name, spread)
    try:
        with quiet():
            model = AutoModel.from_pretrained(
                name, dtype=inference_dtype(precision), use_safetensors=True, trust_remote_code=False, **parts
            )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _explain(name, error) from error
    assert isinstance(model, PreTrainedModel)
    return model


def _four_bit() -> Any:
    with needs_extra("qlora", "lora.quantize_4bit"):
        import bitsandbytes  # noqa: F401
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def resize_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, num_new: int = 0) -> None:
    """Give the model a row for every token, and those of new tokens the mean of the others; set its pad id.

    A model may have more rows than its tokenizer had tokens: nobody trained those, and new tokens land on them first.
    A new token for a level of an attribute is read as the mean of two names, the attribute's and the level's.

    Args:
        tokenizer: may have unused ids, so that it needs more rows than it has tokens.
        num_new: how many of its tokens, those with the highest ids, the model does not know yet.
    """
    old = model.get_input_embeddings().weight.shape[0]
    ids = sorted(tokenizer.get_vocab().values())
    rows = ids[-1] + 1
    if rows > old:
        # Hugging Face draws the rows around the mean; the mean itself needs no random numbers
        model.resize_token_embeddings(rows, mean_resizing=False)
    first = min([int(old), *ids[len(ids) - num_new :]])
    if rows > first:
        with torch.no_grad():
            for module in (model.get_input_embeddings(), model.get_output_embeddings()):
                if module is not None:
                    weight = module.weight
                    weight[first:rows] = _mean_row(weight[:first]).to(weight.dtype)
                    bias = getattr(module, "bias", None)
                    if bias is not None:
                        bias[first:rows] = bias[:first].float().mean().to(bias.dtype)
            read = model.get_input_embeddings().weight
            levels: Mapping[str, Sequence[str]] = (tokenizer.init_kwargs.get(RECORD) or {}).get("levels", {})
            for token, names in levels.items():
                if (row := tokenizer.convert_tokens_to_ids(token)) >= first:
                    words = (tokenizer(name, add_special_tokens=False)["input_ids"] for name in names)
                    means = [read[ids].float().mean(dim=0) for ids in words]
                    read[row] = torch.stack(means).mean(dim=0).to(read.dtype)
    model.config.pad_token_id = tokenizer.pad_token_id


def _mean_row(weight: torch.Tensor) -> torch.Tensor:
    """Return the mean of the rows in fp32, piece by piece: a copy of a large vocabulary in fp32 is the most memory that
    training with adapters on weights in bf16 would ever take."""
    return torch.stack([rows.float().sum(dim=0) for rows in torch.split(weight, _ROWS)]).sum(dim=0) / len(weight)


def save_model(
    folder: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    info: CheckpointInfo,
    card: str,
    files: Mapping[str, bytes] | None = None,
    parts: Mapping[str, PreTrainedModel] | None = None,
) -> None:
    """Write a checkpoint folder that appears whole or not at all.

    Args:
        folder: where; an existing folder is replaced.
        tokenizer: with its template; what ends a response ends generation.
        files: further files by name.
        parts: further models, each in a folder of that name.
    """
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.eos_token_id = ending_ids(tokenizer)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = True
    with whole_folder(Path(folder)) as partial, quiet():
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        for name, content in (files or {}).items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_bytes(content)
        for name, part in (parts or {}).items():
            part.save_pretrained(partial / name)
        save_info(partial, info)
