"""Losses as (sum, count), so that one division by the global count makes every grouping of the data equal.

A mean per micro-batch weighs an example by its neighbours; a sum divided once by the number of trained
tokens (or labels present) of the whole optimizer step does not. Shapes: N trained positions, V vocabulary,
B examples, K attributes, O outputs of the regression head (one per ordinal attribute, one per category of a
categorical attribute).
"""

from __future__ import annotations

from typing import NamedTuple

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


def response_cross_entropy(logits_N_V: Tensor, targets_N: Tensor, spare: int = 0) -> Loss:
    """Cross-entropy of the response tokens (SteerLM, equations 1 and 2), in fp32.

    Args:
        logits_N_V: logits at the positions that predict a trained token, and only those.
        targets_N: the trained tokens.
        spare: how many of the last targets are none, -100 (known beforehand, so that a GPU need not count).
    """
    assert logits_N_V.dim() == 2
    assert logits_N_V.shape[0] == targets_N.shape[0]
    return Loss(functional.cross_entropy(logits_N_V.float(), targets_N, reduction="sum"), targets_N.shape[0] - spare)


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
