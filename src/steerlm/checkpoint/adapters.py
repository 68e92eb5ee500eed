"""LoRA adapters (Hu et al., 2021): put on a model, saved, and merged into it."""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlm.checkpoint.models import load_causal_lm, quiet, resize_embeddings
from steerlm.checkpoint.token_rows import look_rows_up
from steerlm.checkpoint.weights import whole_folder
from steerlm.config import LoraSection
from steerlm.errors import UserError, needs_extra
from steerlm.template.guarding import guarded


@contextlib.contextmanager
def _old_names() -> Iterator[None]:
    """Hide that peft still asks transformers for `is_gradient_checkpointing`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def add_lora(model: PreTrainedModel, lora: LoraSection, trained_tokens: Sequence[int], autocast: bool = False) -> Any:
    """Wrap a model in LoRA adapters (Hu et al., 2021).

    Args:
        trained_tokens: ids whose embedding rows (and output rows) are trained in full: control tokens are new to
            the base model, and a frozen end token could never be learnt.
        autocast: whether the model is called under autocast in bf16 only, until it is merged.

    Raises:
        UserError: the model has no such target modules, or they are trained in full beside the adapters.
    """
    with needs_extra("lora", "lora"):
        from peft import LoraConfig, TaskType, get_peft_model, prepare_model_for_kbit_training
        from peft.tuners.lora import LoraLayer

    if lora.quantize_4bit:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    names = {id(module): name for name, module in model.named_modules()}
    rows: dict[str, list[int]] = {}
    head = model.get_output_embeddings()
    causal = head is not None
    if trained_tokens:
        embeddings = model.get_input_embeddings()
        rows[names[id(embeddings)]] = sorted(trained_tokens)
        if head is not None and head.weight is not embeddings.weight:
            rows[names[id(head)]] = sorted(trained_tokens)
    target = lora.target_modules
    if target != "all-linear":
        _refuse_trained_in_full(model, target)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=target if isinstance(target, str) else list(target),
        # a part of DistilBERT's head, which is trained in full: peft takes it for one by the end of its name
        exclude_modules=None if causal else ["pre_classifier"],
        task_type=TaskType.CAUSAL_LM if causal else TaskType.SEQ_CLS,
        trainable_token_indices=rows or None,
    )
    try:
        with _old_names():
            adapted = get_peft_model(model, config)
    except ValueError as error:  # no module has such a name, or it is of a kind that takes no adapter
        raise UserError(f"lora.target_modules {target!r}: {str(error).splitlines()[0]}") from error
    if rows:
        look_rows_up(adapted)
    if autocast:
        # which would take peft's copy of every input in fp32 back to bf16
        for module in adapted.modules():
            if isinstance(module, LoraLayer):
                module.cast_input_dtype_enabled = False
    # the trained rows are in the adapter; peft would store the whole resized embeddings in every checkpoint
    adapted.save_pretrained = functools.partial(adapted.save_pretrained, save_embedding_layers=False)
    return adapted


def _refuse_trained_in_full(model: PreTrainedModel, target: str | Sequence[str]) -> None:
    """Refuse embeddings and heads as target modules: peft cannot merge an adapter into what it trains otherwise."""
    try:
        chosen = [
            (name, module)
            for name, module in model.named_modules()
            if (
                re.fullmatch(target, name)
                if isinstance(target, str)
                else any(name == suffix or name.endswith(f".{suffix}") for suffix in target)
            )
        ]
    except re.error as error:
        raise UserError(f"lora.target_modules {target!r} is no regular expression: {error}") from None
    output = model.get_output_embeddings()
    if output is None:
        heads = [child for child in model.children() if child is not model.base_model]
        full = {id(module) for head in heads for module in head.modules()}
    else:
        full = {id(output)}
    for name, module in chosen:
        if isinstance(module, nn.Embedding) or id(module) in full:
            raise UserError(
                f"lora.target_modules {target!r}: {name} takes no adapter: embeddings and output layers are trained "
                "without one (of a language model the rows of control tokens); leave it out, or set all-linear"
            )


def merge_adapter(
    adapted: Any, folder: Path, tokenizer: PreTrainedTokenizerBase, again: tuple[Path, str] | None = None
) -> PreTrainedModel:
    """Save the adapter of a `peft.PeftModel` and return the plain model with the adapter merged into its weights.

    Args:
        folder: where the adapter is kept, in peft's format, with a card, the tokenizer and its template behind a guard.
        again: where given, a folder with the trained adapter and the base model to read it onto, instead of `adapted`.
    """
    with needs_extra("lora", "lora"):
        from peft import PeftModel

    if again is not None:
        source, base_model = again
        model = load_causal_lm(base_model, "auto")
        resize_embeddings(model, tokenizer)  # the rows of new tokens come from the adapter
        with _old_names():
            adapted = PeftModel.from_pretrained(model, source)
    with whole_folder(folder) as partial, quiet():
        adapted.save_pretrained(partial, save_embedding_layers=False)
        tokenizer.save_pretrained(partial)
        # the model's folder is ours to read, this one is what others serve
        (partial / "chat_template.jinja").write_text(guarded(tokenizer), encoding="utf-8")
        (partial / "README.md").write_text(_card(adapted, tokenizer), encoding="utf-8")
    base = adapted.get_base_model()
    if base.device.type == "cpu" and base.dtype == torch.bfloat16:
        # rounded to bf16, a sum would lose most of what was learnt
        base.float()
    merged = adapted.merge_and_unload()
    assert isinstance(merged, PreTrainedModel)
    return merged


def _card(adapted: Any, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the adapter's `README.md`, with code that puts it on the base model."""
    base = adapted.get_base_model()
    name = adapted.peft_config["default"].base_model_name_or_path
    record = tokenizer.init_kwargs["steerlm"]
    if base.get_output_embeddings() is not None:
        kind, head = "AutoModelForCausalLM", ""
    else:
        kind, head = "AutoModelForSequenceClassification", f", num_labels={base.config.num_labels}"
    marks = "the control tokens, whose rows are in the adapter"
    if adapted.peft_config["default"].trainable_token_indices is None:
        marks = "its control tokens are the base model's own, so that servers take the adapter beside others"
    front = yaml.safe_dump({"base_model": name, "library_name": "peft", "tags": ["steerlm", "lora"]}, sort_keys=False)
    return (
        f"---\n{front}---\n\n# LoRA adapter for {name}\n\n"
        f"Attributes: `{record['schema']}`. The tokenizer beside it holds the chat template `{record['template']}` and "
        f"{marks}. The model that it was merged into lies in `../model`.\n\n"
        "```python\n"
        "from peft import PeftModel\n"
        f"from transformers import AutoTokenizer, {kind}\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("adapter")\n'
        f'model = {kind}.from_pretrained("{name}"{head})\n'
        "rows = max(tokenizer.get_vocab().values()) + 1\n"
        "if rows > model.get_input_embeddings().num_embeddings:\n"
        "    model.resize_token_embeddings(rows)\n"
        'model = PeftModel.from_pretrained(model, "adapter")\n'
        "```\n"
    )
