"""The decode loop: continuous batching over one key-value cache, every shared prompt computed once.

All rows of a batch are right-aligned in the columns of the cache. Every step appends one column to every row, so the
alignment holds, and rows can leave or enter between any two steps: `_join` copies the rows that stay and the ones that
enter into a new cache, which also expands a prompt to its samples and makes room for further columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from steerlm.generation.sampling import next_tokens

_PREFILL_TOKENS = 16384
"""Most prompt tokens, padding included, that one forward pass computes."""
_HEADROOM = 64
"""Free columns of a new cache, at least (unless no row can use them)."""


@dataclass
class Row:
    """One sample that is to be decoded.

    Attributes:
        prompt: token ids of the prompt.
        conversation: rows with equal numbers have the same messages and differ at most in the attributes.
        key: its randomness, from `sampling.sample_key`.
        limit: most tokens it may get, at least 1.
        tokens: what has been decoded so far, with the stop token at the end if there was one.
        stopped: whether it has ended with a stop token.
    """

    prompt: tuple[int, ...]
    conversation: int
    key: int
    limit: int
    tokens: list[int] = field(default_factory=list)
    stopped: bool = False

    @property
    def done(self) -> bool:
        return self.stopped or len(self.tokens) >= self.limit


class _BufferLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of the cache that writes into a buffer with free columns; `DynamicLayer` copies itself every step."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, end: int) -> None:
        super().__init__()
        self.keys, self.values, self.end = keys, values, end
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, self.end = self.end, self.end + key_states.shape[-2]
        self.keys[:, :, start : self.end] = key_states
        self.values[:, :, start : self.end] = value_states
        return self.keys[:, :, : self.end], self.values[:, :, : self.end]

    def get_seq_length(self) -> int:
        return self.end


@dataclass
class _State:
    """The cache of some rows: row i has its `lengths[i]` tokens in the last used columns."""

    layers: list[_BufferLayer]
    lengths: list[int]

    @property
    def end(self) -> int:
        return self.layers[0].end

    @property
    def free(self) -> int:
        return self.layers[0].keys.shape[2] - self.end


def _join(parts: Sequence[tuple[_State, Sequence[int]]], headroom: int) -> _State:
    """Copy the given rows of the given states into a new one with `headroom` free columns; rows may repeat."""
    lengths = [state.lengths[i] for state, rows in parts for i in rows]
    width = max(lengths)
    layers = []
    for number in range(len(parts[0][0].layers)):
        buffers = []
        for which in ("keys", "values"):
            sample: torch.Tensor = getattr(parts[0][0].layers[number], which)
            # zeros, because a masked column still takes part as 0 times its value, which must not be NaN
            buffer = sample.new_zeros((len(lengths), sample.shape[1], width + headroom, sample.shape[3]))
            first = 0
            for state, rows in parts:
                used = max(state.lengths[i] for i in rows)
                source = getattr(state.layers[number], which)[:, :, state.end - used : state.end]
                whole = list(rows) == list(range(len(state.lengths)))
                buffer[first : first + len(rows), :, width - used : width] = source if whole else source[list(rows)]
                first += len(rows)
            buffers.append(buffer)
        layers.append(_BufferLayer(buffers[0], buffers[1], width))
    return _State(layers, lengths)


def _mask(lengths: Sequence[int], width: int, capacity: int, device: torch.device) -> torch.Tensor | None:
    """Return a bool mask (rows, capacity), False on the padding left of each row; None where there is none."""
    if min(lengths) == width:
        return None
    starts = torch.tensor([width - length for length in lengths], device=device)
    return torch.arange(capacity, device=device) >= starts[:, None]


def _left_pad(sequences: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    width = max(map(len, sequences))
    return torch.tensor([[0] * (width - len(sequence)) + list(sequence) for sequence in sequences], device=device)


class _Prefilled(NamedTuple):
    """The cache of some prompts and the logits (prompts, vocabulary) of the token that follows each."""

    state: _State
    logits: torch.Tensor


def _forward(
    model: PreTrainedModel,
    ids_BL: torch.Tensor,
    positions_BL: torch.Tensor,
    mask: torch.Tensor | None,
    cache: Cache,
    keep: int = 1,
) -> torch.Tensor:
    """Run the model, extending `cache`; returns the float32 logits of the last `keep` positions, (B, keep, V)."""
    output = model(
        input_ids=ids_BL,
        position_ids=positions_BL,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=keep,
    )
    logits: torch.Tensor = output.logits.float()
    return logits


def _prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> _Prefilled:
    """Compute prompts of mixed lengths in one pass."""
    lengths = [len(prompt) for prompt in prompts]
    ids = _left_pad(prompts, model.device)
    width = ids.shape[1]
    mask = _mask(lengths, width, width, model.device)
    starts = torch.tensor([width - length for length in lengths], device=model.device)
    positions = (torch.arange(width, device=model.device) - starts[:, None]).clamp(min=0)
    cache = DynamicCache()
    logits = _forward(model, ids, positions, mask, cache)[:, -1]
    layers = [_BufferLayer(layer.keys, layer.values, width) for layer in cache.layers]
    return _Prefilled(_State(layers, lengths), logits)


def _num_shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many leading tokens the prompts share, all of each but its last: that one's logits are wanted."""
    limit = min(map(len, prompts)) - 1
    columns = zip(*prompts, strict=False)
    return next((i for i, column in enumerate(columns) if i == limit or len(set(column)) > 1), limit)


def _prefill_shared(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], conversations: Sequence[int]
) -> _Prefilled:
    """`_prefill`, but what the prompts of one conversation have in common is computed once.

    They differ in the attribute header only, which stands at the end (SteerLM, section 3.3).
    """
    members: dict[int, list[Sequence[int]]] = {}
    for prompt, conversation in zip(prompts, conversations, strict=True):
        members.setdefault(conversation, []).append(prompt)
    groups = {conversation: index for index, conversation in enumerate(members)}
    shared = {conversation: _num_shared(group) for conversation, group in members.items()}
    if len(groups) == len(prompts) or 0 in shared.values():
        return _prefill(model, prompts)
    stem, _ = _prefill(model, [group[0][: shared[c]] for c, group in members.items()])
    rest = [prompt[shared[c] :] for prompt, c in zip(prompts, conversations, strict=True)]
    lengths = [len(tokens) for tokens in rest]
    width = max(lengths)
    state = _join([(stem, [groups[c] for c in conversations])], width)
    before, device = state.end, model.device
    # padded on the right: no gap between the shared part and the rest, which a sliding window would count
    ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in rest], device=device)
    start = torch.tensor([before - length for length in state.lengths], device=device)[:, None]
    end = torch.tensor([before + length for length in lengths], device=device)[:, None]
    columns = torch.arange(before + width, device=device)
    mask = (columns >= start) & (columns < end)
    positions = torch.minimum(columns[before:], end - 1) - start
    keep = width - min(lengths) + 1
    logits_BKV = _forward(model, ids, positions, mask, Cache(layers=list(state.layers)), keep)
    last = torch.tensor([length - 1 - (width - keep) for length in lengths], device=device)
    logits = logits_BKV[torch.arange(len(rest), device=device), last]
    whole = [len(prompt) for prompt in prompts]
    if min(lengths) == width:
        return _Prefilled(_State(state.layers, whole), logits)
    # right-align: padding first, tokens after it, in order
    order = mask.to(torch.int8).sort(dim=1, stable=True).indices[:, None, :, None]

    def aligned(buffer: torch.Tensor) -> torch.Tensor:
        return buffer.gather(2, order.to(buffer.device).expand_as(buffer))

    layers = [_BufferLayer(aligned(layer.keys), aligned(layer.values), before + width) for layer in state.layers]
    return _Prefilled(_State(layers, whole), logits)


@dataclass
class _Entry:
    """A computed prompt, and its rows that have not entered the batch yet."""

    prefilled: _Prefilled
    index: int
    rows: list[Row]


class _Queue:
    """The rows that wait, longest prompt first, those of one prompt and of one conversation side by side."""

    def __init__(self, model: PreTrainedModel, rows: Sequence[Row]) -> None:
        self.model = model
        prompts: dict[tuple[int, ...], list[Row]] = {}
        longest: dict[int, int] = {}
        for row in rows:
            prompts.setdefault(row.prompt, []).append(row)
            longest[row.conversation] = max(longest.get(row.conversation, 0), len(row.prompt))
        order = sorted(prompts.values(), key=lambda job: (-longest[job[0].conversation], job[0].conversation))
        self._jobs = deque(order)
        self._entries: deque[_Entry] = deque()

    def __bool__(self) -> bool:
        return bool(self._jobs or self._entries)

    def take(self, count: int) -> tuple[list[Row], list[tuple[_State, list[int]]], list[torch.Tensor]]:
        """Return up to `count` rows, where their caches lie (as `_join` takes them) and their logits."""
        rows: list[Row] = []
        parts: list[tuple[_State, list[int]]] = []
        logits: list[torch.Tensor] = []
        while len(rows) < count and self:
            if not self._entries:
                self._compute(count - len(rows))
            entry = self._entries[0]
            taken = entry.rows[: count - len(rows)]
            del entry.rows[: len(taken)]
            if not entry.rows:
                self._entries.popleft()
            rows += taken
            indices = [entry.index] * len(taken)
            if parts and parts[-1][0] is entry.prefilled.state:
                parts[-1][1].extend(indices)
            else:
                parts.append((entry.prefilled.state, indices))
            logits.append(entry.prefilled.logits[indices])
        return rows, parts, logits

    def _compute(self, count: int) -> None:
        """Prefill the next prompts: enough for `count` rows, within the token limit of one pass."""
        jobs: list[list[Row]] = []
        while self._jobs and sum(map(len, jobs)) < count:
            width = max(len(job[0].prompt) for job in [*jobs, self._jobs[0]])
            if jobs and width * (len(jobs) + 1) > _PREFILL_TOKENS:
                break
            jobs.append(self._jobs.popleft())
        prompts = [job[0].prompt for job in jobs]
        prefilled = _prefill_shared(self.model, prompts, [job[0].conversation for job in jobs])
        self._entries.extend(_Entry(prefilled, index, job) for index, job in enumerate(jobs))


@dataclass
class _Batch:
    """The rows that are being decoded, and what the next step needs of each."""

    rows: list[Row]
    state: _State
    mask: torch.Tensor | None
    logits_BV: torch.Tensor
    keys_B: torch.Tensor
    steps_B: torch.Tensor
    positions_B: torch.Tensor
    last_positions_B: torch.Tensor

    @classmethod
    def build(
        cls, rows: list[Row], parts: Sequence[tuple[_State, list[int]]], logits: Sequence[torch.Tensor]
    ) -> _Batch:
        lengths = [len(row.prompt) + len(row.tokens) for row in rows]
        left = max(row.limit - len(row.tokens) for row in rows)
        state = _join(parts, min(left, max(_HEADROOM, max(lengths))))
        device = logits[0].device
        keys, steps, last = [row.key for row in rows], [len(row.tokens) for row in rows], [_last(row) for row in rows]
        return cls(
            rows,
            state,
            _mask(lengths, state.end, state.end + state.free, device),
            torch.cat(list(logits)),
            torch.tensor(keys, device=device),
            torch.tensor(steps, device=device),
            torch.tensor(lengths, device=device),
            torch.tensor(last, device=device),
        )

    def alive(self) -> list[int]:
        return [i for i, row in enumerate(self.rows) if not row.done]

    def part(self, rows: list[int]) -> tuple[_State, list[int]]:
        self.state.lengths = [len(row.prompt) + len(row.tokens) for row in self.rows]
        return self.state, rows

    def forward(self, model: PreTrainedModel, tokens_B: torch.Tensor) -> None:
        """Feed every row its token; rows that are done are carried along until the next `build`."""
        mask = None if self.mask is None else self.mask[:, : self.state.end + 1]
        cache = Cache(layers=list(self.state.layers))
        self.logits_BV = _forward(model, tokens_B[:, None], self.positions_B[:, None], mask, cache)[:, -1]
        self.steps_B += 1
        # a row that is done must not run past the model's position table
        self.positions_B = torch.minimum(self.positions_B + 1, self.last_positions_B)


def _last(row: Row) -> int:
    return len(row.prompt) + row.limit - 1


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    rows: Sequence[Row],
    *,
    batch_size: int,
    stop_ids: frozenset[int],
    temperature: float,
    top_k: int,
    top_p: float,
) -> Iterator[list[Row]]:
    """Decode all rows, at most `batch_size` at a time, filling `row.tokens`.

    Rows that are done leave the batch and waiting ones enter as soon as a quarter of the batch can change.

    Yields:
        After every step the rows that it finished.
    """
    queue, batch = _Queue(model, rows), None
    while True:
        alive: list[int] = batch.alive() if batch is not None else []
        if batch is None or batch.state.free == 0 or 4 * (len(batch.rows) - len(alive)) >= len(batch.rows):
            entering, parts, logits = queue.take(batch_size - len(alive))
            if batch is not None and alive:
                entering = [batch.rows[i] for i in alive] + entering
                parts = [batch.part(alive), *parts]
                logits = [batch.logits_BV[alive], *logits]
            if not entering:
                return
            batch = _Batch.build(entering, parts, logits)
        tokens_B = next_tokens(
            batch.logits_BV, batch.keys_B, batch.steps_B, temperature=temperature, top_k=top_k, top_p=top_p
        )
        finished: list[Row] = []
        for row, token in zip(batch.rows, tokens_B.tolist(), strict=True):
            if row.done:
                continue
            row.tokens.append(token)
            row.stopped = token in stop_ids
            if row.done:
                finished.append(row)
        yield finished
        if any(not row.done for row in batch.rows):
            batch.forward(model, tokens_B)
