"""Attention on the CPU over sequences of any lengths that lie one after the other, without padding.

A batch is one line of N tokens: trees of sequences whose common beginnings stand once (`shared_prompts`), end to end.
It is cut into pieces of consecutive tokens of one sequence. A piece looks at the tokens before it on its path and,
causally, at itself: nothing is computed for padding, nor for a token that is not seen (but for half of the square that
a piece makes with itself). Products and probabilities have the dtype of the layer, softmax computes in fp32 inside.
Like PyTorch's fused kernel, the backward pass computes the probabilities again instead of keeping them.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

RAGGED = "steerlm_ragged"
"""Name of this attention among those of Hugging Face's models."""

_LONGEST_PIECE = 128
"""Tokens of a piece: more waste a larger half square, fewer make products too small."""

_QUERIES, _KEYS = 32, 64
"""In a line, sizes of products are multiples of these: a kernel is compiled for every size that occurs, which can take
longer than the few more tokens."""

_LINE, _WIDTH = 128, 16
"""The same for the length of a line and of rows, where models are so small that what is added costs less."""

_EVEN = 0.85
"""Rows without branches stay rows when this share of them is no padding: a few large products are faster then than one
for every row."""


class LinePiece(NamedTuple):
    """Consecutive tokens of one sequence.

    Attributes:
        start, stop: where they are in the line.
        seen: ranges of the tokens they look at, along the path. The last one holds the piece itself and may go on
            behind it, up to a round number of tokens in all: hidden, as they are behind every token of the piece.
        size: tokens from the start on that are computed; those behind the piece are thrown away.
        hidden: where a window hides what they look at: from token i of the piece the first `hidden` + i tokens.
    """

    start: int
    stop: int
    seen: Sequence[tuple[int, int]]
    size: int
    hidden: int | None = None


class Line(NamedTuple):
    """A batch without padding, or rows that hardly have any.

    Attributes:
        input_ids: (1, N) and maybe some padding; rows (B, T).
        position_ids: likewise, of every token along its own sequence.
        pieces: the N tokens in order; rows: the T tokens of each, or none where plain attention is faster.
        moved: (B * T,) where each token of the padded batch is now; of no use for padding. None: where it was.
    """

    input_ids: Tensor
    position_ids: Tensor
    pieces: Sequence[LinePiece]
    moved: Tensor | None


def plain_rows(dtype: torch.dtype) -> bool:
    """Return whether PyTorch's fused kernel is faster for rows: its forward pass in bf16, where there is AMX."""
    return dtype == torch.bfloat16 and not torch.is_grad_enabled() and torch.cpu._is_amx_tile_supported()


def line_up(batch: dict[str, Tensor], plain: bool = False, round_up: bool = False) -> Line:
    """Take the padding out of a batch, if there is much of it.

    Args:
        batch: of `collating.pad_layouts`: input_ids and attention_mask (B, T), and where a row branches position_ids
            and ends.
        plain: whether rows are left to plain attention (`plain_rows`).
    """
    present_B_T = batch["attention_mask"].bool()
    sizes = present_B_T.sum(1).tolist()
    if "ends" in batch:
        trees = zip(batch["ends"].numpy(), batch["position_ids"].numpy(), sizes, strict=True)
        rows = [_pieces(ends_T[:size], positions_T[:size]) for ends_T, positions_T, size in trees]
        positions_N = batch["position_ids"][present_B_T]
    elif sum(sizes) >= _EVEN * present_B_T.numel():
        return _rows(batch["input_ids"], plain, _WIDTH if round_up else 1)
    else:
        rows = [_stretch(0, size, []) for size in sizes]
        positions_N = torch.cat([torch.arange(size) for size in sizes])
    pieces = [
        LinePiece(start + first, stop + first, [(a + first, b + first) for a, b in seen], size)
        for row, first in zip(rows, itertools.accumulate([0, *sizes[:-1]]), strict=True)
        for start, stop, seen, size, _ in row
    ]
    moved = present_B_T.flatten().cumsum(0) - 1
    spare = -sum(sizes) % _LINE if round_up else 0
    ids_N, positions_N = (functional.pad(x, (0, spare)) for x in (batch["input_ids"][present_B_T], positions_N))
    return Line(ids_N[None], positions_N[None], pieces, moved)


def _rows(ids_B_T: Tensor, plain: bool, multiple: int) -> Line:
    """Leave rows as they are, but for a round width."""
    num_rows, width = ids_B_T.shape
    spare = -width % multiple
    # padding must not go past the last position that the model knows
    positions_B_T = torch.arange(width + spare).clamp(max=width - 1).expand(num_rows, -1)
    places_B_T = torch.arange(num_rows * (width + spare)).view(num_rows, -1)[:, :width]
    pieces = [] if plain else _stretch(0, width + spare, [], 1, 1)
    return Line(functional.pad(ids_B_T, (0, spare)), positions_B_T, pieces, places_B_T.flatten() if spare else None)


def _pieces(ends_T: Any, positions_T: Any) -> list[LinePiece]:
    """Return the pieces of one row (`shared_prompts.Layout`)."""
    # where the position does not go on, another branch begins
    starts = [0, *(np.flatnonzero(np.diff(positions_T) != 1) + 1).tolist(), len(ends_T)]
    pieces: list[LinePiece] = []
    for start, stop in itertools.pairwise(starts):
        path = np.flatnonzero(ends_T[:start] > start)
        assert len(path) == positions_T[start]
        parts = np.split(path, np.flatnonzero(np.diff(path) != 1) + 1)
        pieces += _stretch(start, stop, [(int(part[0]), int(part[-1]) + 1) for part in parts if len(part)])
    return pieces


def _stretch(
    start: int, stop: int, before: list[tuple[int, int]], queries: int = _QUERIES, keys: int = _KEYS
) -> list[LinePiece]:
    """Cut consecutive tokens, which come after ranges of others, into pieces of round sizes."""
    if before and before[-1][1] == start:
        *before, (beginning, _) = before
    else:
        beginning = start
    elsewhere = sum(b - a for a, b in before)
    pieces = []
    for first in range(start, stop, _LONGEST_PIECE):
        last = min(first + _LONGEST_PIECE, stop)
        size = _up(last - first, queries)
        end = beginning - elsewhere + _up(elsewhere + first - beginning + size, keys)
        pieces.append(LinePiece(first, last, [*before, (beginning, end)], size))
    return pieces


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _within(piece: LinePiece, window: int) -> LinePiece:
    """Return a piece whose tokens see the last `window` tokens of their path only, themselves included."""
    before = sum(stop - start for start, stop in piece.seen) - (piece.seen[-1][1] - piece.start)
    if before + piece.size <= window:
        return piece
    drop = max(0, before - window + 1) // _KEYS * _KEYS
    seen: list[tuple[int, int]] = []
    left = drop
    for start, stop in piece.seen:
        skipped = min(left, stop - start)
        left -= skipped
        if skipped < stop - start:
            seen.append((start + skipped, stop))
    return piece._replace(seen=seen, hidden=before - window + 1 - drop)


def _gathered(states_H_N_D: Tensor, piece: LinePiece) -> Tensor:
    """Return the keys or values (H, M, D) that a piece looks at."""
    parts = [states_H_N_D[:, start:stop] for start, stop in piece.seen]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _scatter(states_H_N_D: Tensor, piece: LinePiece, parts_H_M_D: Tensor) -> None:
    """Add to the tokens that a piece looks at, in the order of `_gathered`."""
    place = 0
    for start, stop in piece.seen:
        states_H_N_D[:, start:stop] += parts_H_M_D[:, place : place + stop - start]
        place += stop - start


@functools.lru_cache(maxsize=256)
def _future(size: int, own: int, dtype: torch.dtype) -> Tensor:
    """Return what hides from each token of a piece the tokens behind it: (Q, own), to be added to their products."""
    return torch.full((size, own), -torch.inf, dtype=dtype).triu_(1)


@functools.lru_cache(maxsize=256)
def _past(size: int, hidden: int, dtype: torch.dtype) -> Tensor:
    """Return what hides from each token of a piece what is before its window: (Q, Q + hidden - 1)."""
    return torch.full((size, size + hidden - 1), -torch.inf, dtype=dtype).tril_(hidden - 1)


def _probabilities(queries_H_Q_D: Tensor, keys_H_M_D: Tensor, piece: LinePiece) -> Tensor:
    """Return what each token of a piece gives to those it sees (H, Q, M); Q are the piece's tokens, of several heads
    one after the other."""
    scores_H_Q_M = torch.bmm(queries_H_Q_D, keys_H_M_D.transpose(1, 2))
    own = piece.seen[-1][1] - piece.start
    latest = scores_H_Q_M.view(len(scores_H_Q_M), -1, piece.size, scores_H_Q_M.shape[-1])[..., -own:]
    latest += _future(piece.size, own, latest.dtype)
    if piece.hidden is not None and piece.size + piece.hidden > 1:
        past = _past(piece.size, piece.hidden, scores_H_Q_M.dtype)
        scores_H_Q_M.view(len(scores_H_Q_M), -1, piece.size, scores_H_Q_M.shape[-1])[..., : past.shape[1]] += past
    return torch.softmax(scores_H_Q_M, dim=-1)


class _Attention(torch.autograd.Function):
    """Attention of all pieces; queries are scaled.

    H heads of keys, G groups of queries per such head, N tokens, D dimensions.
    """

    @staticmethod
    def forward(ctx: Any, q_H_G_N_D: Tensor, k_H_N_D: Tensor, v_H_N_D: Tensor, pieces: Sequence[LinePiece]) -> Tensor:
        out_H_G_N_D = torch.empty_like(q_H_G_N_D)
        out_H_G_N_D[:, :, pieces[-1].stop :] = 0
        for piece in pieces:
            queries = q_H_G_N_D[:, :, piece.start : piece.start + piece.size]
            p = _probabilities(queries.flatten(1, 2), _gathered(k_H_N_D, piece), piece)
            out = torch.bmm(p, _gathered(v_H_N_D, piece)).view_as(queries)
            out_H_G_N_D[:, :, piece.start : piece.stop] = out[:, :, : piece.stop - piece.start]
        ctx.save_for_backward(q_H_G_N_D, k_H_N_D, v_H_N_D)
        ctx.pieces = pieces
        return out_H_G_N_D

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_H_G_N_D: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_H_G_N_D, k_H_N_D, v_H_N_D = ctx.saved_tensors
        dtype = q_H_G_N_D.dtype
        dq_H_G_N_D = torch.empty_like(q_H_G_N_D)
        dq_H_G_N_D[:, :, ctx.pieces[-1].stop :] = 0
        # a prompt gathers from all its responses
        dk_H_N_D = torch.zeros_like(k_H_N_D, dtype=torch.float32)
        dv_H_N_D = torch.zeros_like(v_H_N_D, dtype=torch.float32)
        for piece in ctx.pieces:
            length = piece.stop - piece.start
            where = slice(piece.start, piece.start + piece.size)
            queries = q_H_G_N_D[:, :, where]
            q = queries.flatten(1, 2)
            grad = _own(grad_H_G_N_D[:, :, where], length)
            k, v = _gathered(k_H_N_D, piece), _gathered(v_H_N_D, piece)
            p = _probabilities(q, k, piece)
            ds = torch._softmax_backward_data(torch.bmm(grad, v.transpose(1, 2)), p, -1, dtype)
            dq_H_G_N_D[:, :, piece.start : piece.stop] = torch.bmm(ds, k).view_as(queries)[:, :, :length]
            _scatter(dk_H_N_D, piece, torch.bmm(ds.transpose(1, 2), q))
            _scatter(dv_H_N_D, piece, torch.bmm(p.transpose(1, 2), grad))
        return dq_H_G_N_D, dk_H_N_D.to(dtype), dv_H_N_D.to(dtype), None


def _own(states_H_G_Q_D: Tensor, length: int) -> Tensor:
    """Return gradients (H, G * Q, D), of other tokens behind the piece as zeros."""
    if states_H_G_Q_D.shape[2] > length:
        states_H_G_Q_D = states_H_G_Q_D.clone()
        states_H_G_Q_D[:, :, length:] = 0
    return states_H_G_Q_D.flatten(1, 2)


def ragged_attention(
    q_B_A_N_D: Tensor, k_B_H_N_D: Tensor, v_B_H_N_D: Tensor, pieces: Sequence[LinePiece], scale: float
) -> Tensor:
    """Return the attention (B, N, A, D) of a line, or of rows that are cut into the same pieces.

    Args:
        q_B_A_N_D: queries of A heads.
        k_B_H_N_D: keys of H heads, each for A / H heads of queries.
    """
    kind = q_B_A_N_D.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else v_B_H_N_D.dtype
    length = q_B_A_N_D.shape[2]
    spare = max(max(piece.seen[-1][1], piece.start + piece.size) for piece in pieces) - length
    padded = [functional.pad(x.to(dtype), (0, 0, 0, max(0, spare))) for x in (q_B_A_N_D, k_B_H_N_D, v_B_H_N_D)]
    # rows are further heads
    k_H_N_D, v_H_N_D = (x.contiguous().flatten(0, 1) for x in padded[1:])
    q_H_G_N_D = padded[0].contiguous().view(len(k_H_N_D), -1, *padded[0].shape[2:])
    with torch.autocast(kind, enabled=False):
        out_H_G_N_D: Tensor = _Attention.apply(q_H_G_N_D * scale, k_H_N_D, v_H_N_D, pieces)  # type: ignore[no-untyped-call]
    return out_H_G_N_D.view_as(padded[0])[:, :, :length].transpose(1, 2)


def _forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    pieces: Sequence[LinePiece] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as Hugging Face's models ask for: in pieces where they were called with them, padded rows otherwise."""
    if not pieces:
        if pieces is not None:
            attention_mask, kwargs = None, {**kwargs, "is_causal": True}
        rows: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return rows
    window = kwargs.get("sliding_window")
    if window is not None:
        pieces = [_within(piece, window) for piece in pieces]
    scale = kwargs.get("scaling")
    return ragged_attention(query, key, value, pieces, query.shape[-1] ** -0.5 if scale is None else scale), None


AttentionInterface.register(RAGGED, _forward)
AttentionMaskInterface.register(RAGGED, sdpa_mask)
