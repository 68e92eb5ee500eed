"""The loss where the output layer stands: in models that change their logits, with trained rows, in little memory."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from steerlm.checkpoint.adapters import add_lora
from steerlm.config import LoraSection
from steerlm.training.response_loss import ResponseLoss
from tests.invariants.test_shared_prompts import gradients, same, tiny, wide
from tests.small_training import TOKENIZER

PLACES = torch.tensor([3, 4, 9, 15, 16, 17])
TARGETS = torch.tensor([7, 258, 40, 259, 3, -100])
CHANGING = {
    "capped": ("gemma2", {"final_logit_softcapping": 3.0}),
    "scaled": ("granite", {"logits_scaling": 4.0}),
    "multiplied": ("cohere", {"logit_scale": 0.25}),
    "plain, tied": ("gemma3_text", {"tie_word_embeddings": True}),
    "plain, untied": ("llama", {"tie_word_embeddings": False}),
}


def batch() -> Tensor:
    ids = torch.randint(0, 250, (2, 10), generator=torch.Generator().manual_seed(0))
    ids[0, 2], ids[1, 5] = 258, 259
    return ids


def plain_loss(model: Any) -> Tensor:
    logits = model(input_ids=batch()).logits.flatten(0, 1)[PLACES].float()
    return functional.cross_entropy(logits, TARGETS, reduction="sum")


@pytest.mark.parametrize("case", CHANGING)
def test_what_a_model_does_with_its_logits_is_in_the_loss(case: str, caplog: pytest.LogCaptureFixture) -> None:
    model_type, values = CHANGING[case]
    model = wide(AutoModelForCausalLM.from_config(tiny(model_type, **values)))
    wanted = plain_loss(model)
    expected = gradients(model, wanted)
    loss = ResponseLoss(model)(model, PLACES, TARGETS, {"input_ids": batch()})
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    same(expected, gradients(model, loss))
    assert not caplog.records


def test_a_model_that_changes_its_logits_in_a_way_of_its_own_computes_them(caplog: pytest.LogCaptureFixture) -> None:
    model = wide(AutoModelForCausalLM.from_config(tiny("llama")))
    forward = model.forward

    def shifted(**arguments: Any) -> Any:
        out = forward(**arguments)
        out.logits = out.logits + torch.linspace(0, 3, out.logits.shape[-1])
        return out

    model.forward = shifted
    wanted = plain_loss(model)
    with caplog.at_level(logging.WARNING):
        loss = ResponseLoss(model)(model, PLACES, TARGETS, {"input_ids": batch()})
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    assert "in a way of its own" in caplog.text


@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_control_tokens_learn_as_with_peft(tied: bool) -> None:
    def adapted() -> Any:
        model = wide(AutoModelForCausalLM.from_config(tiny("gemma3_text", tie_word_embeddings=tied)))
        torch.manual_seed(3)
        return add_lora(model, LoraSection(rank=2, dropout=0.0), [259, 258, 40])

    theirs, ours = adapted(), adapted()
    for layer in theirs.modules():
        # peft's own way: a changed copy of the whole weight
        layer.__dict__.pop("forward", None)
    wanted = plain_loss(theirs)
    expected = gradients(theirs, wanted)
    assert sum("trainable_tokens_delta" in name for name in expected) == 2 - tied
    torch.testing.assert_close(plain_loss(ours), wanted, rtol=1e-5, atol=0)
    same(expected, gradients(ours, plain_loss(ours)))
    loss = ResponseLoss(ours)(ours, PLACES, TARGETS, {"input_ids": batch()})
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    same(expected, gradients(ours, loss))


MEASURED = """
import resource, sys, torch
from steerlm.training.head_loss import LogitHead, head_cross_entropy
torch.set_num_threads(1)
positions = int(sys.argv[1])
weight = torch.zeros(65536, 16).uniform_(-0.1, 0.1)
def train(count):
    states = torch.randn(count, 16).requires_grad_()
    head_cross_entropy(states, torch.randint(0, 65536, (count,)), LogitHead(weight), torch.float32).backward()
train(8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
train(positions)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_vocabulary_times_positions() -> None:
    positions = 1024
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(positions)], capture_output=True, text=True, check=True, timeout=120
    )
    logits_mib = positions * 65536 * 4 / 2**20
    assert int(done.stdout) / 2**10 < logits_mib / 5, "KiB grown"


def test_the_vocabulary_of_the_tests_holds_the_trained_rows() -> None:
    assert len(TOKENIZER) > 259
