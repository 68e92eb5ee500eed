"""Log-probabilities of whole responses under a language model, without gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from steerlm.batching.batches import sorted_batches
from steerlm.batching.groups import Floats, GroupedExamples, collate_groups
from steerlm.batching.model_inputs import model_inputs
from steerlm.batching.ragged_attention import RAGGED
from steerlm.batching.shared_prompts import can_be_ragged, sharing_of
from steerlm.checkpoint.models import Precision, autocast_bf16
from steerlm.threads import paced, thread_chooser
from steerlm.training.losses import group_log_probabilities
from steerlm.training.response_loss import ResponseLoss


def log_probabilities(
    model: Any, examples: GroupedExamples, pad_id: int, tokens_per_batch: int, precision: Precision
) -> Floats:
    """Return the log-probability of every response, in the order of `examples.sequences`.

    Computed as training computes it (`trainer.SteerTrainer`), so that a model that was not trained yet has moved by
    nothing. A response's end token counts.

    Args:
        model: a causal language model on its device.
        examples: the responses, by prompt.
        pad_id: any token id.
        tokens_per_batch: upper bound of rows times longest row; a longer group is a batch of its own.
        precision: of the computation.
    """
    model.eval()
    before = model.config._attn_implementation
    ragged = model.device.type == "cpu" and can_be_ragged(model, training=False)
    shared = sharing_of(model, examples.longest, RAGGED if ragged else None) is not None
    if ragged:
        model.set_attn_implementation(RAGGED)
    examples = examples.in_rows(shared)
    autocast = autocast_bf16(precision)
    found = np.zeros(len(examples.sequences))
    response_loss = ResponseLoss(model)
    try:
        with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16, enabled=autocast):
            batches = sorted_batches(examples.lengths, tokens_per_batch)
            for batch in paced(batches, thread_chooser(model, "reading"), lambda batch: sum(examples.lengths[batch])):
                groups = collate_groups([[examples.example(i, 0)] for i in batch], pad_id, shared)
                groups = {name: tensor.to(model.device) for name, tensor in groups.items()}
                given = model_inputs(groups, model.config, torch.bfloat16 if autocast else model.dtype)
                places_N = given.places(groups["positions"])
                log_probs_N = -response_loss(model, places_N, groups["targets"], given.arguments, apart=True)
                sums_G_M = group_log_probabilities(log_probs_N, groups).log_probs_G_M.double().cpu().numpy()
                for g, i in enumerate(batch):
                    start, stop = examples.starts[i], examples.starts[i + 1]
                    found[start:stop] = sums_G_M[g, : stop - start]
    finally:
        response_loss.close()
        model.set_attn_implementation(before)
    return found
