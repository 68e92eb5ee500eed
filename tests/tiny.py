"""Tiny models and a byte-level tokenizer for tests: nothing is downloaded, and random weights still say something."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from steerlm.attributes import AttributeSchema
from steerlm.config import TemplateName
from steerlm.template.installing import install_template

torch.set_num_threads(1)  # models this small only lose by more


def byte_tokenizer(schema: AttributeSchema | None, template: TemplateName = "steerlm") -> PreTrainedTokenizerFast:
    """Return a tokenizer whose tokens are the 256 bytes; with a schema, our template is installed in it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    if schema is not None:
        install_template(tokenizer, template, schema)
    return tokenizer


def tiny_llama_config(vocab_size: int, context: int = 512) -> LlamaConfig:
    """Return the configuration of a Llama with two layers of width 32."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=None,
    )


def random_model(config: PreTrainedConfig, seed: int = 0, scale: float = 0.3) -> PreTrainedModel:
    """Return a causal language model with weights wide enough that its greedy text depends on what it reads."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, scale)
    return model.eval()
