"""What is read of a decoder's layers, against Hugging Face's own hidden states."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from steerlm.batching.shared_prompts import CAUSAL
from steerlm.scorers import reading
from steerlm.scorers.features import Readout
from steerlm.scorers.reading import read_features

CONTROL = [1, 2]
WITHOUT_HOOKS = {"gpt2"}
"""Models whose layers have another name."""


def _config(kind: str) -> PreTrainedConfig:
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
    }  # fmt: skip
    if kind not in ("gpt2", "gpt_neox"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    return AutoConfig.for_model(kind, **sizes)


@pytest.mark.parametrize("kind", sorted(CAUSAL))
def test_features_equal_those_of_all_hidden_states(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
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
    places = []
    only_at = reading._only_at
    monkeypatch.setattr(reading, "_only_at", lambda mlp, these: only_at(mlp, places.append(len(these)) or these))
    before = _hooks(model)
    for rows_at_once in (1024, 1):
        found = read_features(model, readout, 0, CONTROL, rows, "fp32", rows_at_once)
        np.testing.assert_allclose(found, torch.cat(wanted).numpy(), atol=2e-5, rtol=1e-4)
    assert _hooks(model) == before
    # of the responses, each with the token that ends it: together, then longest first
    assert places == ([] if kind in WITHOUT_HOOKS else [4 + 12 + 2, 12, 4, 2])


def _hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
