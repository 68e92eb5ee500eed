"""Losses of responses that are trained together: golden numbers, the divergence they descend, and the layout."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config

from steerlm.batching.groups import EncodedGroup, GroupedExamples, collate_groups
from steerlm.batching.model_inputs import model_inputs
from steerlm.batching.shared_prompts import sharing_of
from steerlm.training.likelihood import log_probabilities
from steerlm.training.losses import (
    ContrastLoss,
    Groups,
    group_log_probabilities,
    refinement_loss,
    refinement_weights,
    token_log_probabilities,
)
from tests.tiny import random_model


def groups(log_probs: list[list[float]], reference: list[list[float]], value: list[list[float]]) -> Groups:
    """Groups whose responses have four tokens each."""
    tensor = [torch.tensor(part, dtype=torch.float64) for part in (log_probs, reference, value)]
    return Groups(tensor[0].requires_grad_(), torch.full_like(tensor[0], 4).long(), tensor[1], tensor[2])


def test_weights_equal_numbers_computed_by_hand() -> None:
    # log P(a|x,y) = -1, -2; log P(y|x) = -10, -12; log Q'(y|a,x) = -11, -12; log Q(y|a,x) = -10.5, -12
    found = groups([[-10.5, -12.0]], [[-11.0, -12.0]], [[-1 - 10 + 11, -2 - 12 + 12]])
    log_w, log_b = refinement_weights(found)
    # w = softmax(0, -2), b = softmax(0.5, 0)
    assert log_w.exp().tolist()[0] == pytest.approx([0.880797077977882, 0.119202922022118])
    assert log_b.exp().tolist()[0] == pytest.approx([0.622459331201855, 0.377540668798145])
    divergence = 0.880797077977882 * math.log(0.880797077977882 / 0.622459331201855) + 0.119202922022118 * math.log(
        0.119202922022118 / 0.377540668798145
    )
    assert refinement_loss(found, training=False).item() == pytest.approx(divergence)
    # the paper's form: sum (w - b) NLL / mean tokens, whose gradient by the log-probabilities is (b - w) / 4
    refinement_loss(found, training=True).sum().backward()
    assert found.log_probs_G_M.grad is not None
    assert found.log_probs_G_M.grad.tolist()[0] == pytest.approx([-0.0645844366940, 0.0645844366940])


def test_one_response_changes_nothing() -> None:
    found = groups([[-10.5]], [[-11.0]], [[3.0]])
    loss = refinement_loss(found, training=True).sum()
    loss.backward()
    assert loss.item() == 0.0
    assert found.log_probs_G_M.grad is not None
    assert found.log_probs_G_M.grad.tolist() == [[0.0]]


def test_what_is_absent_has_no_weight_and_no_gradient() -> None:
    whole = groups([[-3.0, -4.0]], [[-3.5, -4.0]], [[1.0, 0.0]])
    padded = groups([[-3.0, -4.0, -9.0]], [[-3.5, -4.0, 5.0]], [[1.0, 0.0, 50.0]])
    padded = padded._replace(tokens_G_M=torch.tensor([[4, 4, 0]]))
    losses = [refinement_loss(each, training=True).sum() for each in (whole, padded)]
    assert losses[0].item() == pytest.approx(losses[1].item())
    for loss in losses:
        loss.backward()
    assert whole.log_probs_G_M.grad is not None
    assert padded.log_probs_G_M.grad is not None
    assert padded.log_probs_G_M.grad.tolist()[0] == pytest.approx([*whole.log_probs_G_M.grad.tolist()[0], 0.0])
    empty = padded._replace(tokens_G_M=torch.zeros(1, 3, dtype=torch.long))
    assert refinement_loss(empty, training=True).item() == 0.0
    assert ContrastLoss(0.1, 1.0, 1.0)(empty, True).item() == 0.0


def test_contrast_loss_equals_numbers_computed_by_hand() -> None:
    found = groups([[-10.0, -14.0]], [[-11.0, -12.0]], [[0.5, 0.0]])
    # 0.1 * (1 - -2) - 2 * 0.5 = -0.7; 10 / 4 per token
    wanted = math.log(1 + math.exp(0.7)) + 0.3 * 2.5
    assert ContrastLoss(beta=0.1, margin=2.0, anchor=0.3)(found, True).item() == pytest.approx(wanted)


VOCAB = 4
PROMPT = [1, 2, 3]


def toy(seed: int) -> Any:
    # gpt2, as a Llama computes its norms and positions in fp32 whatever its weights are
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=8, n_layer=1, n_head=2, n_positions=16, bos_token_id=None, eos_token_id=None,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    return random_model(config, seed).double()


def all_log_probs(model: Any, continuations: list[tuple[int, int]]) -> torch.Tensor:
    """Log-probabilities of two-token continuations, computed one by one."""
    sums = []
    for pair in continuations:
        logits = torch.log_softmax(model(torch.tensor([[*PROMPT, *pair]])).logits[0], dim=-1)
        sums.append(logits[2, pair[0]] + logits[3, pair[1]])
    return torch.stack(sums)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("shared", [True, False])
def test_the_gradient_is_that_of_the_divergence_by_enumeration(shared: bool) -> None:
    """All sixteen answers occur as often as the proposal says; then the weighed sum is KL(P || Q) itself."""
    model, prior = toy(0), toy(1)
    everything = list(itertools.product(range(VOCAB), repeat=2))
    rng = np.random.default_rng(0)
    log_likelihood = torch.tensor(rng.normal(0, 1, 16))
    with torch.no_grad():
        plain = all_log_probs(prior, everything)
    target = torch.softmax(log_likelihood + plain, dim=0)
    own = all_log_probs(model, everything)
    assert own.exp().sum().item() == pytest.approx(1.0)
    (target * (target.log() - own)).sum().backward()
    exact = gradients(model)
    model.zero_grad()
    # a proposal that is a whole number of thirty-seconds everywhere, and a sample with exactly these shares
    counts = rng.permutation([1] * 8 + [2] * 4 + [4] * 4)
    assert counts.sum() == 32
    steered = np.log(counts / 32)
    drawn = [i for i, count in enumerate(counts) for _ in range(count)]
    value = (log_likelihood + plain).numpy() - steered
    rows = [([*PROMPT, *everything[i]], [False, False, False, True, True]) for i in drawn]
    examples = GroupedExamples.of([EncodedGroup(rows, steered[drawn].tolist(), value[drawn].tolist())])
    assert (sharing_of(model, examples.longest) is not None) or not shared
    batch = collate_groups([[examples.in_rows(shared).example(0, 0)]], 0, shared)
    assert len(batch["input_ids"]) == (1 if shared else 32)
    given = model_inputs(batch, model.config, torch.float64)
    logits = model(**given.arguments).logits.flatten(0, 1)[given.places(batch["positions"])]
    found = group_log_probabilities(token_log_probabilities(logits, batch["targets"]), batch)
    loss = refinement_loss(found, training=True).sum() * 2  # two tokens each
    loss.backward()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, exact[name], rtol=1e-9, atol=1e-12)


def test_likelihoods_do_not_depend_on_the_layout() -> None:
    model = toy(2).float()
    answers = [[(0, 1), (0, 2), (0, 1)], [(3, 3)], [(2, 0), (1, 1)]]
    encoded = [
        EncodedGroup([([*PROMPT, *a], [False] * 3 + [True] * 2) for a in group], [0.0] * len(group), [0.0] * len(group))
        for group in answers
    ]
    examples = GroupedExamples.of(encoded)
    assert examples.in_rows(True).lengths.tolist() == [6, 5, 7]
    assert examples.in_rows(False).lengths.tolist() == [15, 5, 10]
    with torch.no_grad():
        wanted = all_log_probs(model, [pair for group in answers for pair in group]).numpy()
    for budget in (5, 100):
        found = log_probabilities(model, examples, 0, budget, "fp32")
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
