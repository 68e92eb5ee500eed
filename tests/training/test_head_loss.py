"""The loss at the output layer in pieces: equal to the plain one, in memory that does not grow with logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from steerlm.training import head_loss
from steerlm.training.head_loss import LogitHead, head_cross_entropy

torch.set_num_threads(1)
V, H, N = 2500, 24, 70
IDS = (3, 1500, 2499)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this size fall into pieces and blocks."""
    for name, value in {"_BLOCK": 1, "_KEPT": 1, "_POSITIONS": 33, "_FEWEST": 33}.items():
        monkeypatch.setattr(head_loss, name, value)


def drawn(seed: int = 0, scale: float = 2.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = {
        "states": torch.randn(N, H, generator=generator) * scale,
        "weight": torch.randn(V, H, generator=generator),
    }
    values |= {"bias": torch.randn(V, generator=generator), "rows": torch.randn(len(IDS), H, generator=generator)}
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[:6] = torch.tensor([3, 1500, 2499, 3, 0, 2498])
    targets[-5:] = -100
    return {**values, "targets": targets}


def plain(given: dict[str, Tensor], head: LogitHead) -> Tensor:
    weight = head.weight
    if head.rows is not None:
        weight = weight.index_copy(0, torch.tensor(head.ids), head.rows)
    logits = functional.linear(given["states"], weight, head.bias) * head.scale
    if head.cap is not None:
        logits = head.cap * torch.tanh(logits / head.cap)
    return functional.cross_entropy(logits, given["targets"], reduction="sum")


CASES: dict[str, dict[str, Any]] = {
    "trained": {"train": ("states", "weight")},
    "frozen": {"train": ("states",)},
    "bias": {"train": ("states", "weight", "bias")},
    "frozen bias": {"train": ("states",), "bias": True},
    "scaled": {"train": ("states", "weight"), "scale": 0.25},
    "capped": {"train": ("states", "weight"), "cap": 5.0},
    "rows": {"train": ("states", "rows"), "rows": True},
    "rows, all the rest": {"train": ("states", "rows"), "rows": True, "bias": True, "scale": 0.5, "cap": 7.0},
    "rows of a trained weight's neighbour": {"train": ("rows",), "rows": True},
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_the_plain_ones(case: str) -> None:
    what = CASES[case]
    results = []
    for function in (
        plain,
        lambda given, head: head_cross_entropy(given["states"], given["targets"], head, torch.float32),
    ):
        given = drawn()
        for name in what["train"]:
            given[name].requires_grad_()
        head = LogitHead(
            given["weight"],
            given["bias"] if "bias" in what or "bias" in what["train"] else None,
            what.get("scale", 1.0),
            what.get("cap"),
            IDS if "rows" in what else (),
            given["rows"] if "rows" in what else None,
        )
        loss = function(given, head)
        (loss * 0.5).backward()
        results.append((loss.detach(), [given[name].grad for name in what["train"]]))
    (loss, gradients), (ours, our_gradients) = results
    torch.testing.assert_close(ours, loss, rtol=1e-5, atol=0)
    for gradient, our_gradient in zip(gradients, our_gradients, strict=True):
        torch.testing.assert_close(our_gradient, gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_of_every_target_with_a_gradient_of_each(dtype: torch.dtype) -> None:
    upstream = torch.randn(N, generator=torch.Generator().manual_seed(5), dtype=dtype)
    results = []
    for ours in (False, True):
        given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in drawn().items()}
        for name in ("states", "weight", "bias"):
            given[name].requires_grad_()
        if ours:
            head = LogitHead(given["weight"], given["bias"])
            losses = head_cross_entropy(given["states"], given["targets"], head, dtype, apart=True)
        else:
            logits = functional.linear(given["states"], given["weight"], given["bias"])
            losses = functional.cross_entropy(logits, given["targets"], reduction="none")
        (losses * upstream).sum().backward()
        results.append((losses.detach(), *(given[name].grad for name in ("states", "weight", "bias"))))
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for wanted, found in zip(*results, strict=True):
        assert found is not None
        assert wanted is not None
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.usefixtures("small_blocks")
def test_logits_far_above_the_targets_do_not_overflow() -> None:
    given = drawn(scale=60.0)
    head = LogitHead(given["weight"])
    states = given["states"].clone().requires_grad_()
    expected = functional.linear(states, given["weight"])
    assert (
        float(
            (
                expected.detach().amax(1) - expected.detach().gather(1, given["targets"].clamp(min=0)[:, None])[:, 0]
            ).max()
        )
        > 500
    )
    plain_loss = functional.cross_entropy(expected, given["targets"], reduction="sum")
    plain_loss.backward()
    again = given["states"].clone().requires_grad_()
    loss = head_cross_entropy(again, given["targets"], head, torch.float32)
    loss.backward()
    assert loss.item() == pytest.approx(plain_loss.item(), rel=1e-5)
    assert states.grad is not None
    torch.testing.assert_close(again.grad, states.grad, rtol=1e-4, atol=1e-4)


def test_states_that_are_not_finite_give_a_loss_that_is_not() -> None:
    given = drawn()
    given["states"][2, 3] = torch.nan
    assert not head_cross_entropy(
        given["states"], given["targets"], LogitHead(given["weight"]), torch.float32
    ).isfinite()


def test_nothing_to_train_is_a_zero_with_a_gradient() -> None:
    states = torch.empty(0, H, requires_grad=True)
    weight = torch.randn(V, H, requires_grad=True)
    loss = head_cross_entropy(states, torch.empty(0, dtype=torch.long), LogitHead(weight), torch.float32)
    loss.backward()
    assert loss.item() == 0
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("peaked", [True, False])
@pytest.mark.usefixtures("small_blocks")
def test_in_bf16_what_is_left_out_is_less_than_rounding(peaked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is no worse than the gradient of bf16 logits; where no token can be left out, none is."""
    monkeypatch.setattr(head_loss, "_LARGE", 1)
    given = drawn(scale=4.0 if peaked else 0.02)
    logits = given["states"] @ given["weight"].t()
    likely = logits.softmax(1).multinomial(1, generator=torch.Generator().manual_seed(1))[:, 0]
    given["targets"] = torch.where(given["targets"] < 0, -100, likely)
    given["states"], given["weight"] = (given[name].bfloat16() for name in ("states", "weight"))
    looked_at: list[int] = []
    original = head_loss._Piece._weighted_by_what_matters

    def watched(self: Any, matters_V: Tensor) -> Tensor | None:
        looked_at.append(int(matters_V.sum()))
        return original(self, matters_V)

    monkeypatch.setattr(head_loss._Piece, "_weighted_by_what_matters", watched)

    def gradient(function: Any, dtype: torch.dtype) -> tuple[float, Tensor]:
        states = given["states"].to(dtype, copy=True).requires_grad_()
        loss = function(states, given["weight"].to(dtype))
        loss.backward()
        assert states.grad is not None
        return loss.item(), states.grad.float()

    def plain_loss(states: Tensor, weight: Tensor) -> Tensor:
        logits = functional.linear(states, weight).float()
        return functional.cross_entropy(logits, given["targets"], reduction="sum")

    def ours(states: Tensor, weight: Tensor) -> Tensor:
        return head_cross_entropy(states, given["targets"], LogitHead(weight), torch.bfloat16)

    exact_loss, exact = gradient(plain_loss, torch.float32)
    rounded_loss, rounded = gradient(plain_loss, torch.bfloat16)
    our_loss, our = gradient(ours, torch.bfloat16)
    assert looked_at
    assert (max(looked_at) < V / 2) == peaked
    assert abs(our_loss - exact_loss) <= max(abs(rounded_loss - exact_loss), 1e-3 * exact_loss)
    assert float((our - exact).norm()) <= 1.2 * float((rounded - exact).norm())
