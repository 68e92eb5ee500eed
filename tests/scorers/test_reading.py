"""What is read of a decoder's layers, against Hugging Face's own hidden states."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from steerlm.scorers.features import Readout
from steerlm.scorers.reading import read_features
from tests.tiny import tiny_llama_config

CONTROL = [1, 2]
SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
KINDS = {
    "gemma3_text": {}, "qwen3": {}, "cohere2": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "rope_scaling": None},
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128},
}  # fmt: skip


def _config(kind: str) -> PreTrainedConfig:
    if kind == "llama":
        return tiny_llama_config(64, context=128)
    return AutoConfig.for_model(kind, **(KINDS[kind] if kind == "gpt2" else SMALL | KINDS[kind]))


@pytest.mark.parametrize("kind", ["llama", *KINDS])
def test_features_equal_those_of_all_hidden_states(kind: str) -> None:
    torch.manual_seed(0)
    model = AutoModel.from_config(_config(kind)).eval()
    depth = model.config.num_hidden_layers
    readout, control = Readout("sum+last", (0, depth // 2, depth)), torch.tensor(CONTROL)
    prompt = torch.randint(4, 64, (9,)).tolist()
    rows = [[1, *prompt, 2, *torch.randint(4, 64, (length,)).tolist(), 2] for length in (3, 11, 1)]
    with torch.no_grad():
        wanted = []
        for row in rows:
            ids = torch.tensor([row])
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
            wanted.append(readout.read(states, ids, torch.ones_like(ids), control))
    before = _hooks(model)
    for rows_at_once in (1024, 1):
        found = read_features(model, readout, 0, CONTROL, rows, "fp32", rows_at_once)
        np.testing.assert_allclose(found, torch.cat(wanted).numpy(), atol=2e-5, rtol=1e-4)
    assert _hooks(model) == before


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
