"""Samples that wait for places in the batch; every prompt that they share is computed once."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence

import torch
from transformers import PreTrainedModel

from steerlm.generation.prefill import Memory, Part, Prefilled, prefill_shared
from steerlm.generation.requests import Draw

_PREFILL_TOKENS = 16384
"""Most prompt tokens, padding included, that one forward pass computes."""


class WaitingRows:
    """The rows that wait, in order, and the prompts computed for them."""

    def __init__(self, model: PreTrainedModel, memory: Memory | None) -> None:
        """Let nobody wait yet.

        Args:
            model: computes the prompts.
            memory: of prompts, used and extended; None = each is forgotten with the last row that waits for it.
        """
        self._model = model
        self._memory = memory
        self._waiting: deque[Draw] = deque()
        self._users: Counter[tuple[int, ...]] = Counter()
        self._computed: dict[tuple[int, ...], tuple[Prefilled, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, rows: Sequence[Draw]) -> None:
        """Let rows wait behind the others."""
        self._waiting.extend(rows)
        self._users.update(lane.prompt for row in rows for lane in row.lanes)

    def fits(self, count: int) -> bool:
        """Whether a row waits that needs no more than `count` lanes; those that were cancelled are dropped."""
        while self._waiting and self._waiting[0].done:
            self._release(self._waiting.popleft())
        return bool(self._waiting) and len(self._waiting[0].lanes) <= count

    def take(self, count: int) -> tuple[list[Draw], list[Part], list[torch.Tensor]]:
        """Return rows with up to `count` lanes, where their caches lie (as `join` takes them) and their logits."""
        rows: list[Draw] = []
        free = count
        while self.fits(free):
            rows.append(self._waiting.popleft())
            free -= len(rows[-1].lanes)
        self._compute(rows)
        found: list[tuple[Prefilled, list[int]]] = []
        for lane in (lane for row in rows for lane in row.lanes):
            prefilled, index = self._computed[lane.prompt]
            if found and found[-1][0] is prefilled:
                found[-1][1].append(index)
            else:
                found.append((prefilled, [index]))
        parts: list[Part] = [(prefilled.state, indices) for prefilled, indices in found]
        logits = [prefilled.logits[indices] for prefilled, indices in found]
        for row in rows:
            self._release(row)
        return rows, parts, logits

    def _release(self, row: Draw) -> None:
        for lane in row.lanes:
            self._users[lane.prompt] -= 1
            if self._users[lane.prompt] == 0:
                del self._users[lane.prompt]
                self._computed.pop(lane.prompt, None)

    def _compute(self, rows: Sequence[Draw]) -> None:
        """Prefill the prompts of the rows that are not computed yet, within the token limit of one pass."""
        missing: dict[tuple[int, ...], Hashable] = {}
        for row in rows:
            missing.update((lane.prompt, row.conversation) for lane in row.lanes if lane.prompt not in self._computed)
        prompts = deque(missing)
        while prompts:
            chunk: list[tuple[int, ...]] = []
            width = 0
            while prompts:
                width = max(width, len(prompts[0]))
                if chunk and width * (len(chunk) + 1) > _PREFILL_TOKENS:
                    break
                chunk.append(prompts.popleft())
            places = prefill_shared(self._model, chunk, [missing[prompt] for prompt in chunk], self._memory)
            self._computed.update(zip(chunk, places, strict=True))
