"""The values that `init` chooses for models that no test can train."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Gemma3TextConfig

from steerlm.attributes import AttributeSchema
from steerlm.planning.architectures import architecture
from steerlm.planning.choosing import Chosen, InitSetting, training
from steerlm.planning.looking import DataLook, Lengths, ModelLook
from tests.tiny import byte_tokenizer

GEMMA_270M: dict[str, Any] = {
    "vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "tie_word_embeddings": True,
}  # fmt: skip


def chosen(records: int, *, cpu: bool) -> dict[str, Any]:
    shape = architecture(Gemma3TextConfig(**GEMMA_270M))
    setting = InitSetting(
        model=ModelLook("gemma", shape, 32_768, "native", byte_tokenizer(None)),
        data=DataLook(records, records, (), 0, ""),
        lengths=Lengths(record=50.0, longest=120, response=40, beyond=0.0),
        schema=AttributeSchema.preset("helpsteer"),
        encoder=None,
        memory_gib=24.0 if cpu else 80.0,
        cpu=cpu,
        labelled=True,
    )
    return {key: one.value for key, one in training(setting).items() if isinstance(one, Chosen)}


@pytest.mark.parametrize(("records", "conversations", "rate"), [(10_000, 16, 1e-3), (400, 4, 5e-4)])
def test_a_cpu_takes_small_steps_and_adapters_a_rate_that_suits_them(
    records: int, conversations: int, rate: float
) -> None:
    values = chosen(records, cpu=True)
    assert values["tokens_per_batch"] / 50 == pytest.approx(conversations, rel=0.3)
    assert values["learning_rate"] == rate


def test_a_gpu_takes_large_ones_and_all_weights_are_trained() -> None:
    values = chosen(10_000, cpu=False)
    assert values["tokens_per_batch"] / 50 == pytest.approx(64, rel=0.1)
    assert values["learning_rate"] < 1e-4
