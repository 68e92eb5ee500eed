"""What turns hidden states into logits, where the rest of the model computes in bf16."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, PreTrainedConfig
from transformers.cache_utils import DynamicCache

from steerlm.checkpoint.heads import likeliest_in_fp32

_SHAPE = {
    "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gemma2, capped"])
def test_the_likeliest_logits_are_rounded_no_more(kind: str, tied: bool) -> None:
    torch.manual_seed(0)
    config: PreTrainedConfig = (
        LlamaConfig(**_SHAPE, tie_word_embeddings=tied)
        if kind == "llama"
        else Gemma2Config(**_SHAPE, head_dim=32, final_logit_softcapping=3.0, tie_word_embeddings=tied)
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
    model = AutoModelForCausalLM.from_config(LlamaConfig(**_SHAPE)).eval()
    ids = torch.randint(0, 1000, (1, 4))
    with torch.inference_mode():
        before = model(ids).logits
        likeliest_in_fp32(model)
        assert torch.equal(model(ids).logits, before)
