"""The loss where the output layer stands: in models that change their logits, with trained rows, in little memory."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModelForCausalLM

from steerlm.checkpoint.adapters import add_lora
from steerlm.config import LoraSection
from steerlm.training import response_loss
from steerlm.training.head_loss import LogitHead, head_cross_entropy
from steerlm.training.response_loss import ResponseLoss, _cross_entropy, _fused
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


def liger_fused_linear_cross_entropy(
    input: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    ce_weight: Tensor | None = None,
    ignore_index: int = -100,
    lse_square_scale: float = 0.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    softcap: float | None = None,
    return_z_loss: bool = False,
    accum_dtype: torch.dtype | None = None,
) -> Tensor:
    """What liger-kernel 0.6.2 to 0.8.2 compute, with their parameters, and what they cannot take."""
    assert len(input) > 0, "liger divides by the number of rows of a piece"
    assert input.dtype == weight.dtype == (weight if bias is None else bias).dtype, "products of one dtype"
    assert softcap is None or isinstance(softcap, float)
    assert accum_dtype == torch.float32, "else the gradient of the weight is summed in bf16"
    logits = (input @ weight.t()).float()
    if bias is not None:
        logits = logits + bias.float()
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return functional.cross_entropy(logits, target, ignore_index=ignore_index, reduction=reduction)


@pytest.fixture(params=["as it is written", pytest.param("installed", marks=pytest.mark.slow)])
def liger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Liger's function; the installed one runs without a GPU under TRITON_INTERPRET=1."""
    if request.param == "installed":
        pytest.importorskip("liger_kernel")
        if os.environ.get("TRITON_INTERPRET") != "1":
            pytest.skip("liger's kernels run here under TRITON_INTERPRET=1")
        if request.getfixturevalue("case") == "capped":
            pytest.skip("Triton's interpreter has no tanh")
        return
    for name in ("liger_kernel", "liger_kernel.transformers", "liger_kernel.transformers.functional"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setattr(
        sys.modules["liger_kernel.transformers.functional"],
        "liger_fused_linear_cross_entropy",
        liger_fused_linear_cross_entropy,
        raising=False,
    )


FUSED: dict[str, tuple[list[str], dict[str, Any]]] = {
    "frozen": (["states"], {}),
    "trained": (["states", "weight"], {}),
    "bias": (["states", "weight", "bias"], {}),
    "scaled": (["states", "weight", "bias"], {"scale": 0.25}),
    "capped": (["states", "weight"], {"cap": 5}),
}


@pytest.mark.usefixtures("liger")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("case", FUSED)
def test_ligers_loss_is_ours(case: str, dtype: torch.dtype) -> None:
    trained, how = FUSED[case]
    targets = torch.tensor([7, 258, 40, 299, 3, -100, 0])
    found = []
    for loss in (_fused, head_cross_entropy):
        draw = torch.Generator().manual_seed(0)
        given = {
            "states": torch.randn(7, 16, generator=draw),
            "weight": torch.randn(300, 16, generator=draw),
            "bias": torch.randn(300, generator=draw),
        }
        for name in trained:
            given[name].requires_grad_()
        head = LogitHead(given["weight"], given["bias"] if "bias" in trained else None, **how)
        total = loss(given["states"], targets, head, dtype)
        assert total.dtype == torch.float32
        (total / 7).backward()
        found.append([total.detach(), *(given[name].grad for name in trained)])
    for theirs, ours in zip(*found, strict=True):
        assert theirs is not None
        assert ours is not None
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert float((theirs - ours).norm()) <= tolerance * float(ours.norm())


@pytest.mark.parametrize(
    ("positions", "apart", "rows", "fused"),
    [(3, False, False, True), (0, False, False, False), (3, True, False, False), (3, False, True, False)],
)
def test_what_liger_cannot_compute_is_computed_here(
    positions: int, apart: bool, rows: bool, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(response_loss, "is_liger_kernel_available", lambda: True)
    monkeypatch.setattr(response_loss, "_fused", lambda *given: asked.append("liger"))
    monkeypatch.setattr(response_loss, "head_cross_entropy", lambda *given: asked.append("ours"))
    weight = torch.zeros(9, 4, device="meta")
    head = LogitHead(weight, ids=(1,), rows=weight[:1]) if rows else LogitHead(weight)
    states = _OnCuda(torch.zeros(positions, 4))
    _cross_entropy(states, torch.zeros(positions, dtype=torch.long), head, apart)  # type: ignore[arg-type]
    assert asked == ["liger" if fused else "ours"]


class _OnCuda(NamedTuple):
    """States that say they are on a GPU."""

    values: Tensor

    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


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
