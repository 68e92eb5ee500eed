"""The loss at response positions, computed where the output layer stands in the model.

Everything still comes through the model's `forward`, as data-parallel and sharding wrappers need it: the output layer
computes the loss in place of logits.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers.utils import is_liger_kernel_available

from steerlm.batching.shared_prompts import core_model
from steerlm.checkpoint.token_rows import output_layer
from steerlm.training.head_loss import LogitHead, head_cross_entropy
from steerlm.training.losses import response_cross_entropy, token_log_probabilities

log = logging.getLogger(__name__)


class _Asked(NamedTuple):
    places_N: Tensor
    targets_N: Tensor
    apart: bool


class ResponseLoss:
    """Lets a language model give the cross-entropy of its responses.

    What a model does with its logits (it may scale and cap them) is read from its configuration, and checked by a few
    numbers that go through in place of logits. A model that does something else, or whose output layer is no matrix,
    computes the logits of response positions.

    Args:
        model: the model, as it is before it gets wrapped.
    """

    def __init__(self, model: Any):
        core = core_model(model)
        head = core.get_output_embeddings()
        assert head is not None
        self._core = core
        self._wanted: _Asked | None = None
        self._loss: Tensor | None = None
        self._checked = False
        self._in_pieces = output_layer(core) is not None
        self._head, self._logits = head, head.forward
        head.forward = self._forward

    def _forward(self, states: Tensor) -> Tensor:
        if self._wanted is None:
            logits: Tensor = self._logits(states)
            return logits
        places_N, targets_N, apart = self._wanted
        states_N_H = states.flatten(0, 1)[places_N]
        if not self._in_pieces:
            logits = self._logits(states_N_H)
            return logits
        layer = output_layer(self._core)
        assert layer is not None
        config = self._core.config.get_text_config()
        scale, cap = _scale(config), getattr(config, "final_logit_softcapping", None)
        head = LogitHead(_whole(layer.linear.weight), _whole(layer.linear.bias), scale, cap, layer.ids, layer.rows)
        self._loss = _cross_entropy(states_N_H, targets_N, head, apart)
        # wrappers look for gradients that come through what the model returns
        return _probe(states.device) + 0 * self._loss.sum()

    def __call__(
        self, model: Any, places_N: Tensor, targets_N: Tensor, arguments: dict[str, object], apart: bool = False
    ) -> Tensor:
        """Run the model (as it may have been wrapped since); return the sum of the losses, at least in fp32.

        Args:
            model: the model.
            places_N: positions b * T + t that predict a trained token.
            targets_N: the trained tokens; -100: none.
            arguments: what the model is called with.
            apart: whether to return the loss of every token (N,).
        """
        self._wanted = _Asked(places_N, targets_N, apart)
        try:
            logits: Tensor = model(**arguments).logits
            loss, self._loss = self._loss, None
        finally:
            self._wanted = None
        if loss is None:
            if apart:
                return -token_log_probabilities(logits, targets_N)
            return response_cross_entropy(logits, targets_N).sum
        if not self._as_expected(logits.detach()):
            log.warning("%s changes its logits in a way of its own: they are computed", type(self._core).__name__)
            self._in_pieces = False
            return self(model, places_N, targets_N, arguments, apart)
        return loss + 0 * logits.float().sum()

    def close(self) -> None:
        """Let the output layer compute logits again."""
        self._head.forward = self._logits

    def _as_expected(self, logits: Tensor) -> bool:
        """Return whether the model did with its logits what its configuration says."""
        if self._checked:
            return True
        self._checked = True
        config = self._core.config.get_text_config()
        expected = _probe(logits.device) * _scale(config)
        cap = getattr(config, "final_logit_softcapping", None)  # most models have none
        if cap is not None:
            expected = cap * torch.tanh(expected / cap)
        return torch.allclose(logits.float().flatten(), expected, rtol=1e-2)


def _whole(parameter: Any) -> Any:
    """Return what several devices hold parts of (`storage.ranks`); without gradients, as these only read."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def _scale(config: Any) -> float:
    """Return what a model multiplies its logits by."""
    if config.model_type.startswith("granite"):
        return 1.0 / float(config.logits_scaling)
    return float(config.logit_scale) if config.model_type.startswith("cohere") else 1.0


def _probe(device: torch.device) -> Tensor:
    return torch.tensor([-50.0, -1.0, 0.5, 30.0], device=device)


def _cross_entropy(states_N_H: Tensor, targets_N: Tensor, head: LogitHead, apart: bool) -> Tensor:
    """Return the cross-entropy, by liger's kernels on CUDA where they are installed."""
    kind = states_N_H.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
    # liger cannot divide no positions into pieces
    if kind == "cuda" and head.rows is None and not apart and len(targets_N) and is_liger_kernel_available():
        return _fused(states_N_H, targets_N, head, dtype)
    return head_cross_entropy(states_N_H, targets_N, head, dtype, apart)


def _fused(states_N_H: Tensor, targets_N: Tensor, head: LogitHead, dtype: torch.dtype) -> Tensor:
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    # what it multiplies must be of one dtype; the gradient of the weight is a sum over hundreds of pieces
    result: Tensor = liger_fused_linear_cross_entropy(
        (states_N_H * head.scale if head.scale != 1.0 else states_N_H).to(dtype),
        head.weight.to(dtype),
        targets_N,
        bias=None if head.bias is None else (head.bias * head.scale).to(dtype),
        reduction="sum",
        softcap=None if head.cap is None else float(head.cap),
        accum_dtype=torch.float32,
    )
    return result
