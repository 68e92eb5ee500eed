"""Heads compute in fp32 also where the rest of the model computes in bf16."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedConfig,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.cache_utils import DynamicCache

from steerlm.checkpoint.heads import head_in_fp32, likeliest_in_fp32
from tests.tiny import random_model, tiny_llama_config

_SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
_LANGUAGE_MODEL = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def classifier(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "llama":
        config = tiny_llama_config(300)
        config.num_labels, config.pad_token_id = 3, 0
        return LlamaForSequenceClassification(config).eval()
    if kind == "bert":
        return BertForSequenceClassification(BertConfig(vocab_size=300, num_labels=3, **_SMALL)).eval()
    return RobertaForSequenceClassification(RobertaConfig(vocab_size=300, num_labels=3, **_SMALL)).eval()


@pytest.mark.parametrize("kind", ["llama", "bert", "roberta"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_scores_are_not_on_a_grid(kind: str, weights: torch.dtype) -> None:
    model = classifier(kind).to(weights)
    head_in_fp32(model)
    ids = torch.randint(1, 300, (64, 12), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=weights == torch.float32):
        scores = model(ids).logits
    assert scores.dtype == torch.float32
    assert len(set(scores[:, 0].tolist())) == len(ids)
    assert (scores.bfloat16().float() != scores).any()


@pytest.mark.parametrize("tied", [False, True])
def test_logits_are_the_product_in_fp32_and_tied_embeddings_stay_as_they_are(tied: bool) -> None:
    config = tiny_llama_config(300)
    config.tie_word_embeddings = tied
    model = random_model(config).bfloat16()
    head_in_fp32(model)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        states = model.model(ids).last_hidden_state
        logits = model(ids).logits
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    torch.testing.assert_close(logits, states.float() @ model.lm_head.weight.float().T, rtol=0, atol=1e-6)


def test_gradients_reach_the_head_and_what_is_below() -> None:
    model = classifier("llama").train()
    head_in_fp32(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.tensor([[1, 2, 3]])).logits.sum()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gemma2, capped"])
def test_the_likeliest_logits_are_rounded_no_more(kind: str, tied: bool) -> None:
    torch.manual_seed(0)
    config: PreTrainedConfig = (
        LlamaConfig(**_LANGUAGE_MODEL, tie_word_embeddings=tied)
        if kind == "llama"
        else Gemma2Config(**_LANGUAGE_MODEL, head_dim=32, final_logit_softcapping=3.0, tie_word_embeddings=tied)
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    model.get_output_embeddings().weight.data.mul_(20)
    ids = torch.randint(0, 1000, (3, 12))
    with torch.inference_mode():
        rounded = model(ids, logits_to_keep=2).logits.float()
        states = model.model(ids).last_hidden_state[:, -2:].float()
        exact = states @ model.get_output_embeddings().weight.float().T
        if kind != "llama":
            exact = 3.0 * torch.tanh(exact / 3.0)
        embedded = model.get_input_embeddings()(ids)
        likeliest_in_fp32(model)
        found = model(ids, logits_to_keep=2, past_key_values=DynamicCache()).logits
        assert torch.equal(model.get_input_embeddings()(ids), embedded), "tied weights stay as they are"
    assert found.dtype == torch.float32
    top = exact.topk(128, dim=-1).indices
    torch.testing.assert_close(found.gather(-1, top), exact.gather(-1, top), rtol=1e-4, atol=1e-4)
    assert (rounded.gather(-1, top) - exact.gather(-1, top)).abs().max() > 1e-3
    torch.testing.assert_close(found, rounded, rtol=0.02, atol=0.1)


def test_fp32_models_stay_as_they_are() -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**_LANGUAGE_MODEL)).eval()
    ids = torch.randint(0, 1000, (1, 4))
    with torch.inference_mode():
        before = model(ids).logits
        likeliest_in_fp32(model)
        assert torch.equal(model(ids).logits, before)
