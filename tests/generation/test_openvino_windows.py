"""OpenVINO runs models with sliding windows, whose context then ends where the window does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from steerlm.attributes import OASST
from steerlm.checkpoint.models import CheckpointInfo, save_model
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.opening import open_engine
from steerlm.generation.requests import Request, Sampling
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.tiny import byte_tokenizer

pytest.importorskip("openvino_genai", reason="openvino_genai is not installed")

WINDOW = 192


def test_greedy_answers_within_the_window_are_the_model_s_own(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(OASST)
    encoder = ConversationEncoder(tokenizer, OASST)
    config = Gemma3TextConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, sliding_window=WINDOW, max_position_embeddings=512,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"], query_pre_attn_scalar=32,
        bos_token_id=None, eos_token_id=None, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(3)
    model = Gemma3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    save_model(tmp_path / "model", model, tokenizer, CheckpointInfo("sft", OASST, "steerlm"), card="")
    engine = open_engine("openvino", tmp_path / "model", "fp32", 8)
    requests = [Request((Message("user", text),), wanted) for text in ("Hi", "Why?") for wanted in (None, {"humor": 3})]
    stop = sorted(encoder.control_ids)
    texts = set()
    for request, [sample] in zip(requests, engine.generate(requests, Sampling(24, temperature=0)), strict=True):
        ids = encoder.prompt(request.messages, request.attributes)
        out = model.generate(
            torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=stop, pad_token_id=stop[0]
        )
        assert sample.text == encoder.decode(out[0, len(ids) :].tolist())
        texts.add(sample.text)
    assert len(texts) > 1
    ids = encoder.prompt(requests[0].messages, None)
    assert engine.room(requests[0]) == WINDOW - len(ids)
    with pytest.raises(UserError, match=str(WINDOW)):
        engine.generate([Request((Message("user", "a" * WINDOW),), None)], Sampling(4, temperature=0))
