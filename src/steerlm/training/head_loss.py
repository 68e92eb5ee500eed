"""Cross-entropy of a language model's output layer, without the logits of all positions.

Logits are computed for a piece of the positions and a block of the vocabulary at a time, exponentiated and summed once.
The gradient of the hidden states, and that of the output layer where it is trained, is computed with them: with
`E = exp(logits - reference)` it is `E @ weight / sum(E) - weight[target]`, so that nothing is normalised in a pass of
its own. Memory depends on neither the vocabulary nor the number of positions, but for that gradient.

N positions, V tokens of the vocabulary, H hidden size, K rows trained in place of rows of a frozen weight.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

_POSITIONS = 256
"""Positions of a piece where the weight is frozen: more share fewer rows that matter, fewer make products too small."""

_KEPT = 1 << 25
"""Exponentials that are kept until their sum is known, where the weight is trained."""

_BLOCK = 1 << 21
"""Logits of a block: what stays in a processor's caches from one pass to the next."""

_FEWEST, _SMALLEST = 32, 1024
"""Positions of a piece and tokens of a block, at least: products of less are slow."""

_LARGE = 1 << 15
"""Vocabulary from which on tokens without weight in the gradient are left out."""

_WITHOUT_WEIGHT = 2.0**-16
"""Probability up to which a token may be left out of the gradient in bf16, whose own rounding is 2**-9 (Wijmans et al.,
2024, "Cut Your Losses in Large-Vocabulary Language Models", leave out what is below 2**-12)."""

_LEFT_OUT = 2.0**-7
"""Mean probability of all that is left out, at most; else nothing is."""

_SAFE = 1e30
"""Sum of exponentials that is safely below what fp32 holds."""


class LogitHead(NamedTuple):
    """What turns hidden states into logits.

    Attributes:
        weight: (V, H).
        bias: (V,).
        scale: the logits are multiplied by it,
        cap: and then capped softly at it (Gemma 2).
        ids: tokens, in ascending order, whose rows of `weight` are replaced,
        rows: (K, H) by these.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None
    ids: Sequence[int] = ()
    rows: Tensor | None = None


def head_cross_entropy(
    states_N_H: Tensor, targets_N: Tensor, head: LogitHead, dtype: torch.dtype, apart: bool = False
) -> Tensor:
    """Return the cross-entropy of the targets, summed, at least in fp32.

    Args:
        states_N_H: hidden states at the positions that predict a trained token.
        targets_N: the trained tokens; negative: none.
        head: the output layer.
        dtype: of the products. In bf16, what a large frozen layer adds to the gradient through tokens of next to no
            probability may be left out.
        apart: whether to return the loss of every target (N,), 0 where there is none; the gradient is then computed in
            the backward pass, which knows what each of them counts.
    """
    result: Tensor = _HeadCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states_N_H, head.weight, head.bias, head.rows, targets_N, head, dtype, apart
    )
    return result


class _Wanted(NamedTuple):
    """Which gradients are."""

    states: bool
    weight: bool
    bias: bool
    rows: bool


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_N_H: Tensor,
        weight_V_H: Tensor,
        bias_V: Tensor | None,
        rows_K_H: Tensor | None,
        targets_N: Tensor,
        head: LogitHead,
        dtype: torch.dtype,
        apart: bool,
    ) -> Tensor:
        ctx.apart = apart
        if apart:
            ctx.save_for_backward(states_N_H, targets_N)
            ctx.head, ctx.dtype = head, dtype
            return _computed(states_N_H, targets_N, head, dtype, _Wanted(False, False, False, False)).losses_N
        found = _computed(states_N_H, targets_N, head, dtype, _Wanted(*ctx.needs_input_grad[:4]))
        ctx.save_for_backward(*found.gradients)
        return found.losses_N.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients: Sequence[Tensor | None]
        if ctx.apart:
            states_N_H, targets_N = ctx.saved_tensors
            wanted = _Wanted(*ctx.needs_input_grad[:4])
            gradients = _computed(states_N_H, targets_N, ctx.head, ctx.dtype, wanted, grad).gradients
        else:
            # the forward pass computed them for nobody else
            gradients = [None if saved is None else saved.mul_(grad) for saved in ctx.saved_tensors]
        return *gradients, None, None, None, None


class _Computed(NamedTuple):
    """Losses, and the gradients of states, weight, bias and rows where they are wanted."""

    losses_N: Tensor
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def _computed(
    states_N_H: Tensor,
    targets_N: Tensor,
    head: LogitHead,
    dtype: torch.dtype,
    wanted: _Wanted,
    counts_N: Tensor | None = None,
) -> _Computed:
    """Compute piece by piece.

    Args:
        counts_N: what every loss counts in the gradient; None: all the same.
    """
    work = _Work(head, dtype, wanted, len(states_N_H))
    losses = []
    gradient_N_H = torch.empty_like(states_N_H) if wanted.states else None
    with torch.autocast(states_N_H.device.type, enabled=False):
        for where in work.pieces(len(states_N_H)):
            piece = _Piece(work, states_N_H[where], targets_N[where], None if counts_N is None else counts_N[where])
            losses.append(piece.losses())
            if gradient_N_H is not None:
                gradient_N_H[where] = piece.gradient()
            piece.add_to_weights()
    return _Computed(torch.cat(losses), (gradient_N_H, work.weight_gradient, work.bias_gradient, work.rows_gradient))


class _Work:
    """What the pieces share: the layer, block by block, and its gradients.

    Attributes:
        size: positions of a piece.
        step: tokens of a block.
        wide: in what sums are computed.
    """

    def __init__(self, head: LogitHead, dtype: torch.dtype, wanted: _Wanted, positions: int):
        self.head, self.dtype, self.wanted = head, dtype, wanted
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32
        self.vocabulary = len(head.weight)
        keeps = wanted.weight or wanted.bias
        most = _KEPT // self.vocabulary if keeps else max(_POSITIONS, _BLOCK // self.vocabulary)
        self.size = max(1, min(positions, max(_FEWEST, most)))
        self.step = max(_SMALLEST, _BLOCK // self.size)
        self.filters = wanted.states and not wanted.weight and dtype == torch.bfloat16 and self.vocabulary >= _LARGE
        self.weight_gradient = torch.zeros_like(head.weight) if wanted.weight else None
        self.bias_gradient = torch.zeros_like(head.bias) if wanted.bias and head.bias is not None else None
        self.rows_gradient = torch.zeros_like(head.rows) if wanted.rows and head.rows is not None else None
        self.ids = torch.tensor(list(head.ids), device=head.weight.device)

    def pieces(self, positions: int) -> Iterator[slice]:
        """Yield the positions of each piece; where there are none, one piece of none."""
        for start in range(0, max(positions, 1), self.size):
            yield slice(start, start + self.size)

    def blocks(self) -> Iterator[slice]:
        for start in range(0, self.vocabulary, self.step):
            yield slice(start, min(start + self.step, self.vocabulary))

    def rows(self, block: slice) -> Tensor:
        """Return the rows of a block, with those that are replaced."""
        rows_v_H = self.head.weight[block].detach().to(self.dtype)
        if self.head.rows is None:
            return rows_v_H
        first, last = (bisect.bisect_left(self.head.ids, end) for end in (block.start, block.stop))
        if first < last:
            rows_v_H = rows_v_H.clone()
            rows_v_H[self.ids[first:last] - block.start] = self.head.rows[first:last].detach().to(self.dtype)
        return rows_v_H

    def rows_of(self, tokens_n: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the rows of some tokens."""
        rows_n_H = self.head.weight.detach()[tokens_n].to(dtype)
        if self.head.rows is not None:
            places_n = torch.searchsorted(self.ids, tokens_n).clamp(max=len(self.ids) - 1)
            # few are: a copy of all of them would cost as much as the product that they are for
            replaced = (self.ids[places_n] == tokens_n).nonzero()[:, 0]
            rows_n_H[replaced] = self.head.rows.detach()[places_n[replaced]].to(dtype)
        return rows_n_H

    def bias(self, tokens: slice | Tensor) -> Tensor | None:
        return None if self.head.bias is None else self.head.bias.detach()[tokens].to(self.wide)

    def shaped(self, logits: Tensor) -> Tensor:
        """Scale and cap logits in fp32, in place."""
        if self.head.scale != 1.0:
            logits.mul_(self.head.scale)
        if self.head.cap is not None:
            logits.div_(self.head.cap).tanh_().mul_(self.head.cap)
        return logits

    def slope(self, logits: Tensor) -> Tensor | None:
        """Return what a cap leaves of the gradient at these logits; None: all of it."""
        return None if self.head.cap is None else 1 - (logits / self.head.cap) ** 2


class _Sums(NamedTuple):
    """Over the vocabulary, relative to the reference.

    Attributes:
        exponentials_n: of all tokens.
        weighted_n_H: rows times exponentials, where they are wanted.
        kept: exponentials by block, where the weight is trained.
        matters_V: tokens that are not without weight, where some are to be left out.
    """

    exponentials_n: Tensor
    weighted_n_H: Tensor | None
    kept: list[Tensor]
    matters_V: Tensor | None


class _Piece:
    """Some positions: their losses, and gradients once these are computed."""

    def __init__(self, work: _Work, states_n_H: Tensor, targets_n: Tensor, counts_n: Tensor | None):
        self._work, self._wide = work, work.wide
        self._trained_n = targets_n >= 0
        self._counts_n = self._trained_n.to(work.wide) if counts_n is None else self._trained_n * counts_n
        self._targets_n = targets_n.clamp(min=0)
        self._states_n_H = states_n_H.detach().to(work.dtype)
        self._target_rows_n_H = work.rows_of(self._targets_n, work.wide)
        raw_n = (self._states_n_H.to(self._wide) * self._target_rows_n_H).sum(1)
        bias_n = work.bias(self._targets_n)
        self._target_logits_n = work.shaped(raw_n if bias_n is None else raw_n + bias_n)
        self._reference_n = self._target_logits_n
        if work.filters:
            # sums are compared with that of the most frequent tokens, which come first in most vocabularies
            self._raise_reference(slice(0, work.step))
        self._reference_n = self._reference_n.to(work.dtype)
        self._sums = self._summed(work.wanted.states and not work.filters)
        if not bool((self._sums.exponentials_n < _SAFE).all()):
            self._reference_n = self._highest().to(work.dtype)
            self._sums = self._summed(work.wanted.states and not work.filters)

    def _raise_reference(self, block: slice) -> None:
        logits_v_n = self._logits(block, None)
        self._reference_n = torch.logaddexp(self._reference_n, logits_v_n.to(self._wide).logsumexp(0))

    def _highest(self) -> Tensor:
        highest_n = self._target_logits_n
        for block in self._work.blocks():
            highest_n = torch.maximum(highest_n, self._logits(block, None).amax(0).to(self._wide))
        return highest_n

    def _logits(self, block: slice, reference_n: Tensor | None) -> Tensor:
        """Return the logits (v, n) of a block, less the reference."""
        return self._logits_of(self._work.rows(block), self._work.bias(block), reference_n)

    def _logits_of(self, rows_v_H: Tensor, bias_v: Tensor | None, reference_n: Tensor | None) -> Tensor:
        work = self._work
        if work.head.cap is None and work.head.scale == 1.0 and bias_v is None:
            # subtracted before the result is rounded
            less_n = None if reference_n is None else -reference_n
            return functional.linear(rows_v_H, self._states_n_H, less_n)
        logits_v_n = functional.linear(rows_v_H, self._states_n_H).to(self._wide)
        if bias_v is not None:
            logits_v_n += bias_v[:, None]
        logits_v_n = work.shaped(logits_v_n)
        return logits_v_n if reference_n is None else logits_v_n.sub_(reference_n)

    def _exponentials(self, rows_v_H: Tensor, bias_v: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return them (v, n) in fp32, and what the gradient needs of them in the dtype of the products."""
        work = self._work
        logits_v_n = self._logits_of(rows_v_H, bias_v, self._reference_n)
        slope_v_n = work.slope(logits_v_n + self._reference_n) if work.head.cap is not None else None
        e_v_n = logits_v_n.exp_()
        wide_v_n = e_v_n.to(self._wide)
        return wide_v_n, e_v_n.to(work.dtype) if slope_v_n is None else (wide_v_n * slope_v_n).to(work.dtype)

    def _summed(self, weighted: bool) -> _Sums:
        work = self._work
        sums_n = torch.zeros_like(self._target_logits_n)
        weighted_n_H = torch.zeros_like(self._target_rows_n_H) if weighted else None
        kept = []
        tops = []
        for block in work.blocks():
            rows_v_H = work.rows(block)
            wide_v_n, e_v_n = self._exponentials(rows_v_H, work.bias(block))
            sums_n += wide_v_n.sum(0)
            if weighted_n_H is not None:
                weighted_n_H += e_v_n.t() @ rows_v_H
            if work.wanted.weight or work.wanted.bias:
                kept.append(e_v_n)
            if work.filters and not weighted:
                tops.append(wide_v_n.amax(1))
        matters_V = torch.cat(tops) > _WITHOUT_WEIGHT if tops and len(sums_n) else None
        return _Sums(sums_n, weighted_n_H, kept, matters_V)

    def losses(self) -> Tensor:
        losses_n = self._sums.exponentials_n.log() + self._reference_n.to(self._wide) - self._target_logits_n
        return torch.where(self._trained_n, losses_n, 0)

    @property
    def _share_n(self) -> Tensor:
        """What an exponential counts, so that it becomes a probability; 0 where nothing is trained."""
        return self._counts_n * self._work.head.scale / self._sums.exponentials_n

    @property
    def _target_share_n(self) -> Tensor:
        slope_n = self._work.slope(self._target_logits_n)
        weight_n = self._counts_n * self._work.head.scale
        return weight_n if slope_n is None else weight_n * slope_n

    def gradient(self) -> Tensor:
        """Return that of the hidden states, (n, H) in fp32."""
        weighted_n_H = self._sums.weighted_n_H
        if weighted_n_H is None and self._sums.matters_V is not None:
            weighted_n_H = self._weighted_by_what_matters(self._sums.matters_V)
        if weighted_n_H is None:
            weighted_n_H = self._summed(weighted=True).weighted_n_H
        assert weighted_n_H is not None
        return weighted_n_H * self._share_n[:, None] - self._target_rows_n_H * self._target_share_n[:, None]

    def _weighted_by_what_matters(self, matters_V: Tensor) -> Tensor | None:
        """Return rows times exponentials of the tokens that matter; None where too much would be left out."""
        work = self._work
        tokens_v = matters_V.nonzero()[:, 0]
        if 2 * len(tokens_v) > work.vocabulary:
            return None
        sums_n = torch.zeros_like(self._target_logits_n)
        weighted_n_H = torch.zeros_like(self._target_rows_n_H)
        for some_v in torch.split(tokens_v, work.step):
            rows_v_H = work.rows_of(some_v, work.dtype)
            wide_v_n, e_v_n = self._exponentials(rows_v_H, work.bias(some_v))
            sums_n += wide_v_n.sum(0)
            weighted_n_H += e_v_n.t() @ rows_v_H
        left_out_n = (1 - sums_n / self._sums.exponentials_n).clamp(min=0)
        return weighted_n_H if bool(left_out_n.mean() <= _LEFT_OUT) else None

    def add_to_weights(self) -> None:
        """Add to the gradients of the output layer."""
        work, share_n = self._work, self._share_n
        target_share_n = self._target_share_n
        states_n_H = self._states_n_H.to(self._wide)
        if work.weight_gradient is not None:
            shared_n_H = (states_n_H * share_n[:, None]).to(work.dtype)
            for block, e_v_n in zip(work.blocks(), self._sums.kept, strict=True):
                work.weight_gradient[block] += e_v_n @ shared_n_H
            own_n_H = (states_n_H * -target_share_n[:, None]).to(work.weight_gradient.dtype)
            work.weight_gradient.index_add_(0, self._targets_n, own_n_H)
        if work.bias_gradient is not None:
            for block, e_v_n in zip(work.blocks(), self._sums.kept, strict=True):
                work.bias_gradient[block] += e_v_n.to(self._wide) @ share_n
            work.bias_gradient.index_add_(0, self._targets_n, -target_share_n.to(work.bias_gradient.dtype))
        if work.rows_gradient is not None:
            assert work.head.rows is not None
            e_K_n = self._exponentials(work.head.rows.detach().to(work.dtype), work.bias(work.ids))[1]
            p_K_n = e_K_n.to(self._wide) * share_n
            p_K_n -= (work.ids[:, None] == self._targets_n) * target_share_n
            work.rows_gradient += p_K_n @ states_n_H
