"""Losses as (sum, count), so that one division by the global count makes every grouping of the data equal.

A mean per micro-batch weighs an example by its neighbours; a sum divided once by the number of trained
tokens (or labels present) of the whole optimizer step does not. Shapes: N trained positions, V vocabulary,
B examples, K attributes, O outputs of the regression head (one per ordinal attribute, one per category of a
categorical attribute), G groups of at most M responses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from steerlm.attributes import AttributeSchema, output_slices


class Loss(NamedTuple):
    """A loss that is not yet normalised.

    Attributes:
        sum: fp32 scalar, the loss summed over what was counted.
        num: how many tokens or labels went into it.
    """

    sum: Tensor
    num: int


def response_cross_entropy(logits_N_V: Tensor, targets_N: Tensor) -> Loss:
    """Cross-entropy of the response tokens (SteerLM, equations 1 and 2), in fp32.

    Args:
        logits_N_V: logits at the positions that predict a trained token, and only those.
        targets_N: the trained tokens.
    """
    assert logits_N_V.dim() == 2
    assert logits_N_V.shape[0] == targets_N.shape[0]
    return Loss(functional.cross_entropy(logits_N_V.float(), targets_N, reduction="sum"), targets_N.shape[0])


def masked_attribute_loss(outputs_B_O: Tensor, targets_B_K: Tensor, mask_B_K: Tensor, schema: AttributeSchema) -> Loss:
    """Loss of a regression attribute model over the labels that are present.

    Ordinal: squared error on the unit scale (`Attribute.to_unit`), so that a 0..9 attribute weighs as much as
    a 0..4 one; the output is on the unit scale. Categorical: cross-entropy of its category logits.

    Args:
        outputs_B_O: outputs of the head, laid out by `output_slices`.
        targets_B_K: labels on the schema's scale (ordinal) or the category's index (categorical); anything
            finite where the mask is False.
        mask_B_K: True where a label is present.
        schema: the K attributes.

    Returns:
        The loss over the labels present and their number.
    """
    outputs_B_O = outputs_B_O.float()
    targets_B_K = targets_B_K.float()
    total = outputs_B_O.new_zeros(())
    for k, (attribute, where) in enumerate(zip(schema, output_slices(schema), strict=True)):
        present_B = mask_B_K[:, k]
        # masked before the square or the exponential: 0 * inf afterwards would poison the gradient
        if attribute.kind == "ordinal":
            unit_B = (targets_B_K[:, k] - attribute.minimum) / (attribute.maximum - attribute.minimum)
            total = total + (torch.where(present_B, outputs_B_O[:, where.start] - unit_B, 0) ** 2).sum()
        else:
            index_B = torch.where(present_B, targets_B_K[:, k], 0).long()
            logits_B_C = torch.where(present_B[:, None], outputs_B_O[:, where], 0)
            errors_B = functional.cross_entropy(logits_B_C, index_B, reduction="none")
            total = total + torch.where(present_B, errors_B, 0).sum()
    return Loss(total, int(mask_B_K.sum()))


class Groups(NamedTuple):
    """Responses that are trained together, as `batching.groups.collate_groups` lays them out.

    Attributes:
        log_probs_G_M: of the responses under the model that is trained, with their gradient.
        tokens_G_M: their trained tokens, 0 where there is no such response.
        reference_G_M: their log-probabilities under the model that the training began with.
        value_G_M: a number per response whose meaning the loss knows.
    """

    log_probs_G_M: Tensor
    tokens_G_M: Tensor
    reference_G_M: Tensor
    value_G_M: Tensor


class GroupLoss(Protocol):
    """A loss whose responses depend on each other."""

    def __call__(self, groups: Groups, training: bool) -> Tensor:
        """Return the loss of every group (G,), 0 where nothing is trained."""


def token_log_probabilities(logits_N_V: Tensor, targets_N: Tensor) -> Tensor:
    """Return the log-probabilities (N,) of the tokens, at least in fp32; 0 where there is no target (-100)."""
    logits_N_V = logits_N_V if logits_N_V.dtype == torch.float64 else logits_N_V.float()
    return -functional.cross_entropy(logits_N_V, targets_N, reduction="none")


def group_log_probabilities(log_probs_N: Tensor, batch: dict[str, Tensor]) -> Groups:
    """Sum the log-probabilities of tokens by response; `batch` is `batching.groups.collate_groups`'s."""
    present_G_M = batch["present"]
    owner_N = batch["response_of"]
    sums = log_probs_N.new_zeros(present_G_M.numel()).index_add(0, owner_N, log_probs_N)
    counts = torch.bincount(owner_N, minlength=present_G_M.numel())
    shape, dtype = present_G_M.shape, log_probs_N.dtype
    return Groups(sums.view(shape), counts.view(shape), batch["reference"].to(dtype), batch["value"].to(dtype))


def refinement_weights(groups: Groups) -> tuple[Tensor, Tensor]:
    """Return log w and log b (G, M) of SteerLM 2.0 (arXiv 2406.08673); what is not there has no weight.

    w = softmax(log P(a|x,y) + log P(y|x) - log Q'(y|a,x)), whose argument is the groups' value;
    b = softmax(log Q(y|a,x) - log Q'(y|a,x)) over the responses y of a group.
    """
    absent_G_M = groups.tokens_G_M == 0
    lowest = -1e30  # finite: 0 * inf would poison the gradient
    target = groups.value_G_M.masked_fill(absent_G_M, lowest)
    moved = (groups.log_probs_G_M - groups.reference_G_M).masked_fill(absent_G_M, lowest)
    return torch.log_softmax(target, dim=1), torch.log_softmax(moved, dim=1)


def refinement_loss(groups: Groups, training: bool) -> Tensor:
    """KL(w || b) of SteerLM 2.0, in training divided by the mean tokens of a group's responses.

    Its gradient is that of sum (w - b) NLL, the form the paper gives; its value is what the paper monitors. A group of
    one response has neither.
    """
    log_w_G_M, log_b_G_M = refinement_weights(groups)
    divergence_G = (log_w_G_M.exp() * (log_w_G_M - log_b_G_M)).sum(dim=1)
    if not training:
        return divergence_G
    num_G = (groups.tokens_G_M > 0).sum(dim=1)
    return divergence_G * num_G / groups.tokens_G_M.sum(dim=1).clamp(min=1)


@dataclass(frozen=True)
class ContrastLoss:
    """Preference of the answer nearer to the goal (DPO, arXiv 2305.18290, with a margin), and an SFT term.

    A group is a preferred and a rejected answer behind the same header; the value of the first is the margin.

    Attributes:
        beta: of DPO.
        margin: weight of the margin.
        anchor: weight of the preferred answer's loss per token.
    """

    beta: float
    margin: float
    anchor: float

    def __call__(self, groups: Groups, training: bool) -> Tensor:
        gain_G_M = groups.log_probs_G_M - groups.reference_G_M
        lead_G = self.beta * (gain_G_M[:, 0] - gain_G_M[:, 1]) - self.margin * groups.value_G_M[:, 0]
        anchor_G = -groups.log_probs_G_M[:, 0] / groups.tokens_G_M[:, 0].clamp(min=1)
        loss_G = self.anchor * anchor_G - functional.logsigmoid(lead_G)
        return torch.where(groups.tokens_G_M[:, 0] > 0, loss_G, 0)
