"""Choosing the next token: temperature, top-k, top-p, and noise that belongs to a sample rather than to a batch.

A draw is the argmax of `logits / temperature + gumbel` (the Gumbel-max trick). The noise is a hash of (sample key,
step, token id), so a seeded sample comes out the same alone, in any batch and in any order, and only the candidates
that top-k leaves need any noise at all.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_CANDIDATES = 128
"""Among so many the set of `top_p` is looked for first; sorting the whole vocabulary is slow."""
_ROUNDING = 1e-4
"""Of probabilities, when it is decided whether the candidates hold the whole set."""
_FEW = 64
"""PyTorch sorts partially on the CPU where the vocabulary is this many times what is wanted; where it is less, NumPy's
selection is three to five times as fast as PyTorch's."""
_GREEDY = 1e-6
"""Below this temperature the likeliest token is taken: scores divided by less would leave float32."""
_NOISE_BITS = 23  # (n + 0.5) / 2**23 is exact in float32 and never 0 or 1


class Drawing(NamedTuple):
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: draw from the k likeliest tokens; 0 for all.
        top_p: of those, draw from the smallest set whose probability reaches `top_p`.
    """

    temperature: float
    top_k: int
    top_p: float


def _signed(value: int) -> int:
    """Reinterpret 64 unsigned bits as the signed integer that torch's int64 holds."""
    return value - (1 << 64) if value >> 63 else value


def _mix(value: int) -> int:
    """SplitMix64's finaliser on a Python integer (Steele, Lea and Flood, 2014)."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _mix_tensor(value: torch.Tensor) -> torch.Tensor:
    """`_mix` on int64: torch shifts arithmetically, so the sign bits that come in are masked away."""
    value = (value ^ ((value >> 30) & ((1 << 34) - 1))) * _signed(_MIX_1)
    value = (value ^ ((value >> 27) & ((1 << 37) - 1))) * _signed(_MIX_2)
    return value ^ ((value >> 31) & ((1 << 33) - 1))


def sample_key(seed: int, sample: int) -> int:
    """Return the key of one sample's randomness, a signed 64-bit integer."""
    return _signed(_mix(_mix(seed + _GOLDEN) + (sample + 1) * _GOLDEN))


def gumbel_noise(keys_B: torch.Tensor, steps_B: torch.Tensor, tokens_BK: torch.Tensor) -> torch.Tensor:
    """Return standard Gumbel noise, float32, shape (B, K): a pure function of key, step and token id.

    Args:
        keys_B: int64, from `sample_key`.
        steps_B: int64, number of tokens the sample already has.
        tokens_BK: int64, candidate token ids.
    """
    stream_B = _mix_tensor(keys_B + steps_B * _signed(_GOLDEN))
    bits_BK = _mix_tensor(stream_B[:, None] + (tokens_BK + 1) * _signed(_GOLDEN))
    uniform_BK = (((bits_BK >> (64 - _NOISE_BITS)) & ((1 << _NOISE_BITS) - 1)).float() + 0.5) / (1 << _NOISE_BITS)
    return -torch.log(-torch.log1p(-uniform_BK))


def next_tokens(logits_BV: torch.Tensor, keys_B: torch.Tensor, steps_B: torch.Tensor, drawing: Drawing) -> torch.Tensor:
    """Draw one token per row.

    Args:
        logits_BV: float32 scores of the next token.
        keys_B: int64, from `sample_key`.
        steps_B: int64, number of tokens each sample already has.

    Returns:
        int64 token ids, shape (B,).
    """
    temperature, top_k, top_p = drawing
    if temperature < _GREEDY:
        return logits_BV.argmax(dim=-1)
    vocabulary = logits_BV.shape[-1]
    if 0 < top_k < vocabulary:
        logits_BK, tokens_BK = logits_BV.topk(top_k, dim=-1) if top_p < 1 else _largest(logits_BV, top_k)
    elif top_p < 1:
        return _from_nucleus(logits_BV / temperature, keys_B, steps_B, top_p)
    else:
        logits_BK, tokens_BK = logits_BV, torch.arange(vocabulary, device=logits_BV.device).expand_as(logits_BV)
    scores_BK = logits_BK / temperature
    if top_p < 1:
        scores_BK = _nucleus(scores_BK, scores_BK.logsumexp(dim=-1), top_p)
    return _choose(scores_BK, tokens_BK, keys_B, steps_B)


def _largest(logits_BV: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest scores of every row and their tokens (B, K), in any order."""
    if logits_BV.device.type == "cpu" and logits_BV.shape[-1] < _FEW * count:
        tokens_BK = torch.from_numpy(np.argpartition(logits_BV.numpy(), -count, axis=-1)[:, -count:])
        return logits_BV.gather(-1, tokens_BK), tokens_BK
    return logits_BV.topk(count, dim=-1, sorted=False)


def _from_nucleus(scores_BV: torch.Tensor, keys_B: torch.Tensor, steps_B: torch.Tensor, top_p: float) -> torch.Tensor:
    """Draw from the whole vocabulary's smallest set of probability `top_p`."""
    totals_B = scores_BV.logsumexp(dim=-1)
    scores_BK, tokens_BK = scores_BV.topk(min(_CANDIDATES, scores_BV.shape[-1]), dim=-1)
    drawn_B = _choose(_nucleus(scores_BK, totals_B, top_p), tokens_BK, keys_B, steps_B)
    # a row that needs more candidates is found by itself, so that it gets the same token in any batch
    wide_B = (scores_BK - totals_B[:, None]).exp().sum(dim=-1) < top_p + _ROUNDING
    if wide_B.any():
        scores_WV, tokens_WV = scores_BV[wide_B].sort(dim=-1, descending=True)
        scores_WV = _nucleus(scores_WV, totals_B[wide_B], top_p)
        drawn_B[wide_B] = _choose(scores_WV, tokens_WV, keys_B[wide_B], steps_B[wide_B])
    return drawn_B


def _nucleus(scores_BK: torch.Tensor, totals_B: torch.Tensor, top_p: float) -> torch.Tensor:
    """Rule out what is not in the smallest set of probability `top_p`.

    Args:
        scores_BK: in descending order.
        totals_B: logarithms of what their exponentials are divided by to give probabilities.
        top_p: below 1.
    """
    probabilities_BK = (scores_BK - totals_B[:, None]).exp()
    before_BK = probabilities_BK.cumsum(dim=-1) - probabilities_BK
    return scores_BK.masked_fill(before_BK >= top_p, -torch.inf)


def _choose(
    scores_BK: torch.Tensor, tokens_BK: torch.Tensor, keys_B: torch.Tensor, steps_B: torch.Tensor
) -> torch.Tensor:
    choice_B1 = (scores_BK + gumbel_noise(keys_B, steps_B, tokens_BK)).argmax(dim=-1, keepdim=True)
    return tokens_BK.gather(-1, choice_B1).squeeze(-1)
