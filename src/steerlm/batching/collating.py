"""From examples in rows to padded tensors: B rows, T tokens of the longest, N trained tokens, M responses per row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steerlm.batching.batches import IGNORED, Example, Ids, IntArray
from steerlm.batching.shared_prompts import Layout, lay_out


def pad_tokens(rows: Sequence[Ids], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad on the right.

    Returns:
        input_ids (B, T) int64 and attention_mask (B, T) int64.
    """
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    attention = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        attention[i, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(attention)


def pad_layouts(layouts: Sequence[Layout], pad_id: int) -> dict[str, Tensor]:
    """Return input_ids and attention_mask (B, T), and where a row branches also position_ids and ends (B, T).

    `attention_mask` says which tokens are no padding, `ends` which tokens see each other
    (`shared_prompts.shared_attention`).
    """
    ids, attention = pad_tokens([layout.input_ids for layout in layouts], pad_id)
    batch = {"input_ids": ids, "attention_mask": attention}
    if any(layout.branched for layout in layouts):
        positions = np.zeros(ids.shape, dtype=np.int64)
        ends = np.full(ids.shape, ids.shape[1], dtype=np.int64)
        for i, layout in enumerate(layouts):
            positions[i, : len(layout.input_ids)] = layout.position_ids
            ends[i, : len(layout.input_ids)] = layout.ends
        batch |= {"position_ids": torch.from_numpy(positions), "ends": torch.from_numpy(ends)}
    return batch


def last_places(layouts: Sequence[Layout]) -> Tensor:
    """Return where every sequence ends (B, M): b * T + t; the row's beginning where it has fewer of them."""
    width = max(len(layout.input_ids) for layout in layouts)
    places = np.zeros((len(layouts), max(len(layout.places) for layout in layouts)), dtype=np.int64)
    for i, layout in enumerate(layouts):
        places[i, : len(layout.places)] = [place[-1] for place in layout.places]
    return torch.from_numpy(places + width * np.arange(len(layouts))[:, None])


def collate_sft(rows: Sequence[Sequence[Example]], pad_id: int) -> dict[str, Tensor]:
    """Return what `pad_layouts` does, `num_tokens`, and for the N trained tokens `targets` and `positions`.

    Position b * T + t holds the hidden state that predicts a target. Found here, on the CPU, so that a GPU never
    waits to learn how many there are. A token that several examples share counts once for each that trains it.
    """
    layouts = [lay_out([example.input_ids for example in row]) for row in rows]
    batch = pad_layouts(layouts, pad_id)
    width = batch["input_ids"].shape[1]
    targets: list[npt.NDArray[Any]] = []
    positions: list[IntArray] = []
    for i, (row, layout) in enumerate(zip(rows, layouts, strict=True)):
        for example, place in zip(row, layout.places, strict=True):
            # the token before a trained one predicts it; the first token of a sequence is predicted by nothing
            where = np.flatnonzero(example.labels[1:] != IGNORED)
            targets.append(example.labels[1:][where])
            positions.append(place[where] + i * width)
    return {
        **batch,
        "num_tokens": _num_tokens(rows),
        "targets": torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        "positions": torch.from_numpy(np.concatenate(positions)),
    }


def collate_regression(rows: Sequence[Sequence[Example]], pad_id: int) -> dict[str, Tensor]:
    """Return what `pad_layouts` does, `num_tokens`, `places` (B, M) of the last tokens (b * T + t), labels (B * M, K)
    with 0 where missing, and label_mask (B * M, K)."""
    layouts = [lay_out([example.input_ids for example in row]) for row in rows]
    places = last_places(layouts)
    width = len(rows[0][0].labels)
    labels = np.full((*places.shape, width), np.nan, dtype=np.float32)
    for i, row in enumerate(rows):
        labels[i, : len(row)] = [example.labels for example in row]
    labels = labels.reshape(-1, width)
    present = ~np.isnan(labels)
    return {
        **pad_layouts(layouts, pad_id),
        "num_tokens": _num_tokens(rows),
        "places": places,
        "labels": torch.from_numpy(np.where(present, labels, np.float32(0))),
        "label_mask": torch.from_numpy(present),
    }


def collate_responses(rows: Sequence[Sequence[Example]], pad_id: int) -> dict[str, Tensor]:
    """Return what `collate_regression` does, and of every example its tokens: `tokens` and `present` (B * M, T), and
    `token_places`, where they are (b * T + t)."""
    batch = collate_regression(rows, pad_id)
    layouts = [lay_out([example.input_ids for example in row]) for row in rows]
    width = batch["places"].shape[1]
    none = np.empty(0, dtype=np.int32)
    spare = [[none] * (width - len(row)) for row in rows]
    ids = [ids for row, fill in zip(rows, spare, strict=True) for ids in [*(e.input_ids for e in row), *fill]]
    places = token_places(layouts, width)
    tokens, present = pad_tokens(ids, pad_id)
    return {**batch, "tokens": tokens, "present": present, "token_places": places}


def token_places(layouts: Sequence[Layout], width: int | None = None) -> Tensor:
    """Return where the tokens of every sequence are (N, T): b * T + t; 0 behind its end.

    Args:
        width: sequences of a row, where those that are missing count as empty; None: only those that are there.
    """
    longest = max(len(layout.input_ids) for layout in layouts)
    rows: list[IntArray] = []
    for b, layout in enumerate(layouts):
        rows += [place + b * longest for place in layout.places]
        rows += [np.empty(0, np.int64)] * (0 if width is None else width - len(layout.places))
    places = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
    for place, row in zip(places, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(places)


def _num_tokens(rows: Sequence[Sequence[Example]]) -> Tensor:
    """Return the tokens of all examples, each counted in full."""
    return torch.tensor(sum(len(example.input_ids) for row in rows for example in row))
