"""A regression head that starts at the mean of its labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerlm.stages.train_attribute_model.examples import AttributeData

_HEAD_EXAMPLES, _HEAD_TOKENS = 8, 64
"""Examples, and tokens at their end, that show where the inputs of a head without bias lie."""


def centre_head(model: PreTrainedModel, data: AttributeData) -> None:
    """Set the regression head so that it predicts the mean of the training labels, whatever it reads.

    A random head starts with an error that the first, most expensive steps only go to undo. Where the head has no
    bias (decoders), its weights are the mean prediction along the mean of its inputs over a few examples.

    Args:
        model: a sequence classifier.
    """
    means_O = mean_outputs(data)
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == len(means_O)]
    assert heads, "the sequence classifier has no linear head"
    head = heads[-1]
    with torch.no_grad():
        if head.bias is not None:
            head.weight.zero_()
            head.bias.copy_(means_O)
        else:
            input_H = _mean_head_input(model, head, data)
            head.weight.copy_(torch.outer(means_O, input_H / input_H.dot(input_H)))


def mean_outputs(data: AttributeData) -> Tensor:
    """Return the outputs (O,) of the best constant prediction: mean on the unit scale, log shares of categories."""
    outputs: list[float] = []
    for attribute, label_N in zip(data.schema, data.labels_N_K.T, strict=True):
        present = label_N[~np.isnan(label_N)]
        if attribute.kind == "ordinal":
            outputs.append(attribute.to_unit(float(present.mean())))
        else:
            # one more of each, so that a category that does not occur has a finite logit
            counts = np.bincount(present.astype(int), minlength=len(attribute.categories)) + 1
            outputs += np.log(counts / counts.sum()).tolist()
    return torch.tensor(outputs)


def _mean_head_input(model: PreTrainedModel, head: nn.Linear, data: AttributeData) -> Tensor:
    """Return the mean (H,) of what the head reads at the end of a few examples."""
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].reshape(-1, inputs[0].shape[-1])[-1])
    )
    model.eval()
    for index in range(min(_HEAD_EXAMPLES, len(data.labels_N_K))):
        ids = torch.from_numpy(data.examples.example(index, 0).input_ids[-_HEAD_TOKENS:].astype("int64"))
        model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None])
    hook.remove()
    return torch.stack(seen).mean(dim=0)
