"""The decode loop: continuous batching over one key-value cache, every shared prompt computed once.

A sample has one lane per prompt that it mixes (guidance), usually one; lanes are the rows of the batch. Samples can
leave and enter between any two steps, also while others are being decoded: `Decoder` serves requests as they come,
`decode` a list of them.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from steerlm.generation.prefill import Memory, Prefilled, State, forward, join, padding_mask, prefill_shared
from steerlm.generation.sampling import Drawing, next_tokens

_PREFILL_TOKENS = 16384
"""Most prompt tokens, padding included, that one forward pass computes."""
_HEADROOM = 64
"""Free columns of a new cache, at least (unless no row can use them)."""
_FLOOR = -1e30
"""Stands for a logit of minus infinity where logits are mixed."""


class Lane(NamedTuple):
    """A prompt of a sample, as token ids, and the weight of its logits; the weights of a sample sum to 1."""

    prompt: tuple[int, ...]
    weight: float = 1.0


class LogProb(NamedTuple):
    """Natural logarithms of probabilities at one position: of the token drawn, and of the likeliest tokens."""

    drawn: float
    top: list[tuple[int, float]]


@dataclass(eq=False)
class Row:
    """One sample that is to be decoded.

    Attributes:
        lanes: its prompts.
        conversation: rows with equal ones have the same messages and differ at most in the attributes.
        key: its randomness, from `sampling.sample_key`.
        limit: most tokens it may get, at least 1.
        drawing: how its tokens are drawn.
        num_logprobs: how many of the likeliest tokens to report with each drawn one; None for no report.
        tokens: what has been decoded so far, with the stop token at the end if there was one.
        logprobs: of every token, if asked for: of the model's distribution, before temperature, top-k and top-p.
        stopped: whether it has ended with a stop token.
        cancelled: set from outside: nobody wants it any more.
    """

    lanes: tuple[Lane, ...]
    conversation: Hashable
    key: int
    limit: int
    drawing: Drawing
    num_logprobs: int | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[LogProb] = field(default_factory=list)
    stopped: bool = False
    cancelled: bool = False

    @property
    def done(self) -> bool:
        return self.stopped or self.cancelled or len(self.tokens) >= self.limit


class _Queue:
    """The rows that wait, in order, and the prompts computed for them."""

    def __init__(self, model: PreTrainedModel, memory: Memory | None) -> None:
        self._model = model
        self._memory = memory
        self._waiting: deque[Row] = deque()
        self._users: Counter[tuple[int, ...]] = Counter()
        self._computed: dict[tuple[int, ...], tuple[Prefilled, int]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, rows: Sequence[Row]) -> None:
        self._waiting.extend(rows)
        self._users.update(lane.prompt for row in rows for lane in row.lanes)

    def fits(self, count: int) -> bool:
        """Whether a row waits that needs no more than `count` lanes; those that were cancelled are dropped."""
        while self._waiting and self._waiting[0].done:
            self._release(self._waiting.popleft())
        return bool(self._waiting) and len(self._waiting[0].lanes) <= count

    def take(self, count: int) -> tuple[list[Row], list[tuple[State, list[int]]], list[torch.Tensor]]:
        """Return rows with up to `count` lanes, where their caches lie (as `join` takes them) and their logits."""
        rows: list[Row] = []
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
        parts = [(prefilled.state, indices) for prefilled, indices in found]
        logits = [prefilled.logits[indices] for prefilled, indices in found]
        for row in rows:
            self._release(row)
        return rows, parts, logits

    def _release(self, row: Row) -> None:
        for lane in row.lanes:
            self._users[lane.prompt] -= 1
            if self._users[lane.prompt] == 0:
                del self._users[lane.prompt]
                self._computed.pop(lane.prompt, None)

    def _compute(self, rows: Sequence[Row]) -> None:
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


@dataclass
class _Batch:
    """The rows that are being decoded, and what the next step needs of each; tensors go by row (R) or by lane (B)."""

    rows: list[Row]
    lane_rows: list[int]
    state: State
    mask: torch.Tensor | None
    logits_BV: torch.Tensor
    keys_R: torch.Tensor
    steps_R: torch.Tensor
    positions_B: torch.Tensor
    last_positions_B: torch.Tensor
    row_of_B: torch.Tensor | None
    weights_B: torch.Tensor
    tokens_R: torch.Tensor | None = None

    @classmethod
    def build(cls, rows: list[Row], parts: Sequence[tuple[State, list[int]]], logits: Sequence[torch.Tensor]) -> _Batch:
        lane_rows = [i for i, row in enumerate(rows) for _ in row.lanes]
        lengths = _lengths(rows)
        left = max(row.limit - len(row.tokens) for row in rows)
        state = join(parts, min(left, max(_HEADROOM, max(lengths))))
        device = logits[0].device
        last = [len(lane.prompt) + row.limit - 1 for row in rows for lane in row.lanes]
        mixed = len(lane_rows) > len(rows)
        return cls(
            rows,
            lane_rows,
            state,
            padding_mask(lengths, state.end, state.end + state.free, device),
            torch.cat(list(logits)),
            torch.tensor([row.key for row in rows], device=device),
            torch.tensor([len(row.tokens) for row in rows], device=device),
            torch.tensor(lengths, device=device),
            torch.tensor(last, device=device),
            torch.tensor(lane_rows, device=device) if mixed else None,
            torch.tensor([lane.weight for row in rows for lane in row.lanes], device=device),
        )

    def alive(self) -> list[int]:
        """Return the rows that are not done."""
        return [i for i, row in enumerate(self.rows) if not row.done]

    def lanes_of(self, rows: list[int]) -> list[int]:
        if self.row_of_B is None:
            return rows
        wanted = set(rows)
        return [b for b, row in enumerate(self.lane_rows) if row in wanted]

    def part(self, lanes: list[int]) -> tuple[State, list[int]]:
        self.state.lengths = _lengths(self.rows)
        return self.state, lanes

    def draw(self) -> torch.Tensor:
        """Return the next token of every row, (R,)."""
        if self.row_of_B is None:
            logits_RV = self.logits_BV
        else:
            weighted_BV = self.logits_BV.clamp(min=_FLOOR) * self.weights_B[:, None]
            logits_RV = weighted_BV.new_zeros((len(self.rows), weighted_BV.shape[1]))
            logits_RV.index_add_(0, self.row_of_B, weighted_BV)
        groups: dict[Drawing, list[int]] = {}
        for i, row in enumerate(self.rows):
            groups.setdefault(row.drawing, []).append(i)
        if len(groups) == 1:
            tokens_R = next_tokens(logits_RV, self.keys_R, self.steps_R, self.rows[0].drawing)
        else:
            tokens_R = torch.empty_like(self.keys_R)
            for drawing, members in groups.items():
                index = torch.tensor(members, device=tokens_R.device)
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
        """Feed every row the token drawn for it; rows that are done are carried along until the next `build`."""
        assert self.tokens_R is not None
        tokens_B = self.tokens_R if self.row_of_B is None else self.tokens_R[self.row_of_B]
        mask = None if self.mask is None else self.mask[:, : self.state.end + 1]
        cache = Cache(layers=list(self.state.layers))
        self.logits_BV = forward(model, tokens_B[:, None], self.positions_B[:, None], mask, cache)[:, -1]
        self.steps_R += 1
        # a row that is done must not run past the model's position table
        self.positions_B = torch.minimum(self.positions_B + 1, self.last_positions_B)
        self.tokens_R = None


def _lengths(rows: Sequence[Row]) -> list[int]:
    return [len(lane.prompt) + len(row.tokens) for row in rows for lane in row.lanes]


class Decoder:
    """Decodes rows that may be added at any time, at most `batch_size` lanes of them at once."""

    def __init__(
        self, model: PreTrainedModel, *, batch_size: int, stop_ids: frozenset[int], online: bool = False
    ) -> None:
        """Prepare an empty batch.

        Args:
            model: the model.
            batch_size: most lanes decoded together.
            stop_ids: tokens that end a response.
            online: let rows enter as soon as there is a place for them, and remember prompts between them. Otherwise
                places are filled when a quarter of the batch can change, which gives the higher throughput.
        """
        self._model = model
        self._batch_size = batch_size
        self._stop_ids = stop_ids
        self._online = online
        self._queue = _Queue(model, Memory() if online else None)
        self._batch: _Batch | None = None

    def add(self, rows: Sequence[Row]) -> None:
        """Let rows wait for a place, in order."""
        assert all(len(row.lanes) <= self._batch_size for row in rows)
        self._queue.add(rows)

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    @property
    def num_running(self) -> int:
        return 0 if self._batch is None else len(self._batch.alive())

    @property
    def busy(self) -> bool:
        return bool(self._queue) or self.num_running > 0

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Give every running row one more token, after letting waiting rows take the places of those that are done.

        Returns:
            The rows that got a token.
        """
        batch = self._batch
        if batch is not None and batch.tokens_R is not None and batch.alive():
            batch.forward(self._model)
        batch = self._refill(batch)
        if batch is None:
            return []
        running = []
        for row, token in zip(batch.rows, batch.draw().tolist(), strict=True):
            if row.done:
                continue
            row.tokens.append(token)
            row.stopped = token in self._stop_ids
            running.append(row)
        return running

    def _refill(self, batch: _Batch | None) -> _Batch | None:
        alive = batch.alive() if batch is not None else []
        lanes = batch.lanes_of(alive) if batch is not None else []
        places = self._batch_size - len(lanes)
        if batch is not None and alive and batch.state.free > 0:
            changed = 4 * (len(batch.lane_rows) - len(lanes)) >= len(batch.lane_rows)
            if not changed and not (self._online and self._queue.fits(places)):
                return batch
        rows, parts, logits = self._queue.take(places)
        if batch is not None and alive:
            rows = [batch.rows[i] for i in alive] + rows
            parts = [batch.part(lanes), *parts]
            logits = [batch.logits_BV[lanes], *logits]
        self._batch = _Batch.build(rows, parts, logits) if rows else None
        return self._batch


def decode(
    model: PreTrainedModel, rows: Sequence[Row], *, batch_size: int, stop_ids: frozenset[int]
) -> Iterator[list[Row]]:
    """Decode all rows, at most `batch_size` lanes at a time, filling `row.tokens`.

    Yields:
        After every step the rows that got a token.
    """
    decoder = Decoder(model, batch_size=batch_size, stop_ids=stop_ids)
    decoder.add(_longest_first(rows))
    while decoder.busy:
        yield decoder.step()


def _longest_first(rows: Sequence[Row]) -> list[Row]:
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
