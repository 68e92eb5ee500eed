"""The decode loop: continuous batching over one key-value cache, every shared prompt computed once.

A sample has one lane per prompt that it mixes (guidance), usually one; lanes are the rows of the batch. Samples can
leave and enter between any two steps, also while others are being decoded: `Decoder` serves requests as they come,
`decode` a list of them.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from steerlm.generation.cache_room import affordable
from steerlm.generation.prefill import (
    Memory,
    Part,
    additive,
    forward,
    join,
    overwrite,
    padding_mask,
    prompt_logprobs,
    takes_additive_mask,
)
from steerlm.generation.requests import Draw, Lane, LogProb
from steerlm.generation.sampling import Drawing, next_tokens
from steerlm.generation.waiting import WaitingRows
from steerlm.threads import ThreadChooser

_HEADROOM = 64
"""Free columns of a new cache, at least (unless no row can use them)."""
_PATIENCE = 3
"""Steps that a row waits for others to enter with it."""
_FLOOR = -1e30
"""Stands for a logit of minus infinity where logits are mixed."""


class _Place(NamedTuple):
    """A row of the batch: a lane of a sample."""

    row: Draw
    lane: Lane

    @property
    def length(self) -> int:
        """How many tokens its cache holds."""
        return len(self.lane.prompt) + len(self.row.tokens)


class _Batch:
    """The rows that are being decoded, and what the next step needs of each; tensors go by row (R) or by lane (B).

    Rows that are done are carried along until others take their places or the batch is built anew.
    """

    def __init__(
        self, places: list[_Place], parts: Sequence[Part], logits: Sequence[torch.Tensor], additive_mask: bool
    ) -> None:
        self._additive_mask = additive_mask
        longest = max(place.length for place in places)
        left = max(place.row.limit - len(place.row.tokens) for place in places)
        self.places = places
        self.state = join(parts, min(left, max(_HEADROOM, longest // 2)))
        self.logits_BV = torch.cat(list(logits))
        self._describe()

    def enter(self, places: Sequence[_Place], parts: Sequence[Part], logits: Sequence[torch.Tensor]) -> None:
        """Put others where rows are done; nothing else is copied."""
        free = [b for b, place in enumerate(self.places) if place.row.done][: len(places)]
        overwrite(self.state, free, parts)
        self.logits_BV[free] = torch.cat(list(logits))
        for b, place in zip(free, places, strict=True):
            self.places[b] = place
        self._describe()

    def _describe(self) -> None:
        device = self.logits_BV.device
        places = self.places
        lengths = [place.length for place in places]
        self.rows = list(dict.fromkeys(place.row for place in places))
        self.tokens_R: torch.Tensor | None = None
        self.keys_R = torch.tensor([row.key for row in self.rows], device=device)
        self.steps_R = torch.tensor([len(row.tokens) for row in self.rows], device=device)
        self.positions_B = torch.tensor(lengths, device=device)
        last = [len(place.lane.prompt) + place.row.limit - 1 for place in places]
        self.last_positions_B = torch.tensor(last, device=device)
        self.mask = padding_mask(lengths, self.state.end, self.state.end + self.state.free, device)
        if self.mask is not None and self._additive_mask:
            self.mask = additive(self.mask, self.state.layers[0].dtype)
        self.row_of_B: torch.Tensor | None = None
        if len(self.rows) < len(places):
            numbers = {row: i for i, row in enumerate(self.rows)}
            self.row_of_B = torch.tensor([numbers[place.row] for place in places], device=device)
        self.weights_B = torch.tensor([place.lane.weight for place in places], device=device)
        groups: dict[Drawing, list[int]] = {}
        for i, row in enumerate(self.rows):
            groups.setdefault(row.drawing, []).append(i)
        self.drawings = [(drawing, torch.tensor(rows, device=device)) for drawing, rows in groups.items()]

    def part(self, places: Sequence[int]) -> Part:
        """Return where the caches of some places lie."""
        self.state.lengths = [place.length for place in self.places]
        return self.state, places

    def draw(self) -> torch.Tensor:
        """Return the next token of every row, (R,)."""
        if self.row_of_B is None:
            logits_RV = self.logits_BV
        else:
            # in place: at large vocabularies a copy costs as much as a layer, and the next step has logits of its own
            weighted_BV = self.logits_BV.clamp_(min=_FLOOR).mul_(self.weights_B[:, None])
            logits_RV = weighted_BV.new_zeros((len(self.rows), weighted_BV.shape[1]))
            logits_RV.index_add_(0, self.row_of_B, weighted_BV)
        if len(self.drawings) == 1:
            tokens_R = next_tokens(logits_RV, self.keys_R, self.steps_R, self.drawings[0][0])
        else:
            tokens_R = torch.empty_like(self.keys_R)
            for drawing, index in self.drawings:
                tokens_R[index] = next_tokens(logits_RV[index], self.keys_R[index], self.steps_R[index], drawing)
        self._report(logits_RV, tokens_R)
        self.tokens_R = tokens_R
        return tokens_R

    def _report(self, logits_RV: torch.Tensor, tokens_R: torch.Tensor) -> None:
        for i, row in enumerate(self.rows):
            if row.num_logprobs is None or row.done:
                continue
            logprobs_V = logits_RV[i].log_softmax(dim=-1)
            top = logprobs_V.topk(row.num_logprobs)
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            row.logprobs.append(LogProb(float(logprobs_V[tokens_R[i]]), list(pairs)))

    def forward(self, model: PreTrainedModel) -> None:
        """Feed every row the token drawn for it."""
        assert self.tokens_R is not None
        tokens_B = self.tokens_R if self.row_of_B is None else self.tokens_R[self.row_of_B]
        end = self.state.end + 1
        begin = 0
        if self._additive_mask:
            # rows that were longer than all that go on have left columns behind
            begin = end - max(place.length for place in self.places if not place.row.done)
            for layer in self.state.layers:
                layer.begin = begin
        mask = None if self.mask is None else self.mask[..., begin:end].contiguous()
        cache = Cache(layers=list(self.state.layers))
        self.logits_BV = forward(model, tokens_B[:, None], self.positions_B[:, None], mask, cache)[:, -1]
        self.steps_R += 1
        # a row that is done must not run past the model's position table
        self.positions_B = torch.minimum(self.positions_B + 1, self.last_positions_B)
        self.tokens_R = None


class Decoder:
    """Decodes rows that may be added at any time, at most `batch_size` lanes of them at once."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        batch_size: int,
        stop_ids: frozenset[int],
        online: bool = False,
        threads: ThreadChooser | None = None,
    ) -> None:
        """Prepare an empty batch.

        Args:
            batch_size: most lanes decoded together.
            stop_ids: tokens that end a response.
            online: let rows enter within a few steps after there is a place for them, and remember prompts between
                them. Otherwise they enter in larger groups, which gives the higher throughput.
            threads: told how long steps take in which no row enters; None: the number of threads is given.
        """
        self._model = model
        self._batch_size = batch_size
        self._stop_ids = stop_ids
        self._online = online
        self._queue = WaitingRows(model, Memory() if online else None)
        self._additive_mask = takes_additive_mask(model)
        self._batch: _Batch | None = None
        self._waited = 0
        self._threads = threads

    def in_use(self) -> AbstractContextManager[None]:
        """Compute with the number of threads that is chosen."""
        return nullcontext() if self._threads is None else self._threads.in_use()

    def add(self, rows: Sequence[Draw]) -> None:
        """Let rows wait for a place, in order."""
        assert all(len(row.lanes) <= self._batch_size for row in rows)
        self._queue.add(rows)

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def num_running(self) -> int:
        return 0 if self._batch is None else sum(not row.done for row in self._batch.rows)

    @property
    def busy(self) -> bool:
        return bool(self._queue) or self.num_running > 0

    @torch.inference_mode()
    def read(self, ids: Sequence[int], num_top: int) -> list[LogProb]:
        """See `prompt_logprobs`."""
        return prompt_logprobs(self._model, ids, num_top)

    @torch.inference_mode()
    def step(self) -> list[Draw]:
        """Give every running row one more token, after letting waiting rows take the places of those that are done.

        Returns:
            The rows that got a token.
        """
        since, waiting = time.perf_counter(), self.num_waiting
        batch = self._batch
        alive = [] if batch is None else [b for b, place in enumerate(batch.places) if not place.row.done]
        if batch is not None and alive and batch.tokens_R is not None:
            batch.forward(self._model)
        batch = self._batch = self._refill(batch, alive)
        if batch is None:
            return []
        running = []
        for row, token in zip(batch.rows, batch.draw().tolist(), strict=True):
            if row.done:
                continue
            row.tokens.append(token)
            row.stopped = token in self._stop_ids
            running.append(row)
        if self._threads is not None and self.num_waiting == waiting:
            self._threads.step(1, time.perf_counter() - since)
        return running

    def _refill(self, batch: _Batch | None, alive: list[int]) -> _Batch | None:
        """Let rows leave and enter: in place if they can, else by building the batch anew."""
        places = self._batch_size - len(alive)
        idle = 0 if batch is None else len(batch.places) - len(alive)
        enters = self._enters(len(alive), idle, places)
        full = batch is None or not alive or batch.state.free == 0
        if not full and not enters and 4 * idle < len(alive) + idle:
            return batch
        rows, parts, logits = self._queue.take(places)
        new = [_Place(row, lane) for row in rows for lane in row.lanes]
        if not new and not alive:
            return None
        if batch is not None and not full and new and len(new) <= idle:
            left = idle - len(new)
            if 4 * left < len(batch.places) and max(place.length for place in new) <= batch.state.end:
                batch.enter(new, parts, logits)
                return batch
        if batch is not None and alive:
            parts = [batch.part(alive), *parts]
            logits = [batch.logits_BV[alive], *logits]
            new = [*(batch.places[b] for b in alive), *new]
        return _Batch(new, parts, logits, self._additive_mask)

    def _enters(self, alive: int, idle: int, places: int) -> bool:
        """Whether rows that wait should enter now; several at once are computed in the time of one."""
        if not self._queue.fits(places):
            self._waited = 0
            return False
        self._waited += 1
        enough = 8 * idle >= alive + idle
        if self._online:
            enough = 8 * min(len(self._queue), places) >= alive or self._waited > _PATIENCE
        if enough:
            self._waited = 0
        return enough


def decode(
    model: PreTrainedModel,
    rows: Sequence[Draw],
    *,
    batch_size: int,
    stop_ids: frozenset[int],
    threads: ThreadChooser | None = None,
) -> Iterator[list[Draw]]:
    """Decode all rows, at most `batch_size` lanes at a time, filling `row.tokens`.

    Yields:
        After every step the rows that got a token.
    """
    decoder = Decoder(model, batch_size=batch_size, stop_ids=stop_ids, threads=threads)
    decoder.add(_longest_first(rows))
    with decoder.in_use():
        while decoder.busy:
            yield decoder.step()


def decode_within_memory(
    model: PreTrainedModel,
    rows: Sequence[Draw],
    *,
    batch_size: int,
    stop_ids: frozenset[int],
    spread: int = 1,
    threads: ThreadChooser | None = None,
) -> Iterator[list[Draw]]:
    """Decode all rows as `decode` does, fewer at a time where the free memory has no room for their cache.

    Args:
        spread: processes that hold a part of the model each, this one among them.
    """
    if not rows:
        return iter(())
    longest = max(len(lane.prompt) + row.limit for row in rows for lane in row.lanes)
    together = affordable(model, batch_size, longest, spread)
    together = max(together, *(len(row.lanes) for row in rows))  # those of one response are decoded together
    return decode(model, rows, batch_size=together, stop_ids=stop_ids, threads=threads)


def _longest_first(rows: Sequence[Draw]) -> list[Draw]:
    """Sort rows: longest prompt first, those of one conversation and those with the same prompts side by side."""
    longest: dict[Hashable, int] = {}
    numbers: dict[Hashable, int] = {}
    first: dict[tuple[Lane, ...], int] = {}
    for i, row in enumerate(rows):
        length = max(len(lane.prompt) for lane in row.lanes)
        longest[row.conversation] = max(longest.get(row.conversation, 0), length)
        numbers.setdefault(row.conversation, i)
        first.setdefault(row.lanes, i)
    return sorted(rows, key=lambda row: (-longest[row.conversation], numbers[row.conversation], first[row.lanes]))
