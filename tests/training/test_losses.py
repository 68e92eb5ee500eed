"""Losses against Hugging Face's and numpy's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from steerlm.attributes import Attribute, AttributeSchema, output_names, output_slices
from steerlm.training.losses import masked_attribute_loss, response_cross_entropy

MIXED = AttributeSchema(
    (
        Attribute("quality"),
        Attribute("lang", kind="categorical", categories=("en", "de", "fr")),
        Attribute("humor", minimum=1, maximum=9),
    )
)


def test_response_cross_entropy_is_the_sum_of_the_tokens_losses_in_fp32() -> None:
    torch.manual_seed(0)
    logits = torch.randn(11, 17).bfloat16()
    targets = torch.randint(0, 17, (11,))
    loss = response_cross_entropy(logits, targets)
    probabilities = np.exp(logits.double().numpy())
    probabilities /= probabilities.sum(1, keepdims=True)
    expected = -np.log(probabilities[np.arange(11), targets.numpy()]).sum()
    assert loss.sum.dtype == torch.float32
    assert loss.sum.item() == pytest.approx(expected, rel=1e-6)
    assert loss.num == 11


def test_no_trained_token_is_a_zero_that_has_a_gradient() -> None:
    weight = torch.randn(4, 5, requires_grad=True)
    loss = response_cross_entropy(torch.empty(0, 4) @ weight, torch.empty(0, dtype=torch.long))
    loss.sum.backward()
    assert loss.num == 0
    assert loss.sum.item() == 0.0
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(4, 5))


def test_output_layout_follows_the_schema() -> None:
    assert output_names(MIXED) == ("quality", "lang=en", "lang=de", "lang=fr", "humor")
    assert output_slices(MIXED) == (slice(0, 1), slice(1, 4), slice(4, 5))


def test_masked_attribute_loss_against_numpy() -> None:
    torch.manual_seed(1)
    outputs = torch.randn(6, 5)
    targets = torch.tensor([[4, 0, 9], [0, 2, 1], [2, 1, 5], [3, 0, 2], [1, 1, 7], [0, 2, 3]], dtype=torch.float32)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0]], dtype=torch.bool)
    loss = masked_attribute_loss(outputs, targets, mask, MIXED)
    out, expected = outputs.double().numpy(), 0.0
    for row in range(6):
        if mask[row, 0]:
            expected += (out[row, 0] - targets[row, 0].item() / 4) ** 2
        if mask[row, 1]:
            logits = out[row, 1:4]
            expected += np.log(np.exp(logits).sum()) - logits[int(targets[row, 1])]
        if mask[row, 2]:
            expected += (out[row, 4] - (targets[row, 2].item() - 1) / 8) ** 2
    assert loss.sum.item() == pytest.approx(expected, rel=1e-6)
    assert loss.num == int(mask.sum())


def test_what_stands_at_a_missing_label_never_reaches_loss_or_gradient() -> None:
    outputs = torch.randn(2, 5)
    outputs[1, 0] = float("inf")
    outputs.requires_grad_()
    targets = torch.tensor([[1.0, 0.0, 2.0], [123.0, 99.0, -5.0]])
    mask = torch.tensor([[True, True, True], [False, False, False]])
    loss = masked_attribute_loss(outputs, targets, mask, MIXED)
    loss.sum.backward()
    alone = masked_attribute_loss(outputs[:1].detach(), targets[:1], mask[:1], MIXED)
    assert loss.sum.item() == alone.sum.item()
    assert outputs.grad is not None
    assert torch.equal(outputs.grad[1], torch.zeros(5))


def test_sums_and_counts_add_up_over_any_grouping() -> None:
    torch.manual_seed(2)
    outputs, targets = torch.randn(8, 5), torch.randint(1, 3, (8, 3)).float()
    mask = torch.rand(8, 3) < 0.5
    whole = masked_attribute_loss(outputs, targets, mask, MIXED)
    parts = [masked_attribute_loss(outputs[i : i + 1], targets[i : i + 1], mask[i : i + 1], MIXED) for i in range(8)]
    assert sum(part.num for part in parts) == whole.num
    assert sum(part.sum.item() for part in parts) == pytest.approx(whole.sum.item(), rel=1e-6)


def test_response_cross_entropy_agrees_with_torch() -> None:
    torch.manual_seed(3)
    logits, targets = torch.randn(9, 13), torch.randint(0, 13, (9,))
    expected = functional.nll_loss(functional.log_softmax(logits, -1), targets, reduction="sum")
    assert response_cross_entropy(logits, targets).sum.item() == pytest.approx(expected.item(), rel=1e-6)
