"""The key-value cache of a batch, and the computation of prompts.

All rows of a batch are right-aligned in the columns of the cache. Every step appends one column to every row, so the
alignment holds, and rows can leave or enter between any two steps. A row that enters is copied over one that has left
(`overwrite`), where it ends with the others; where that is not possible, `join` copies the rows that stay and the ones
that enter into a new cache, which makes room for further columns. Both expand a prompt to its samples.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from steerlm.batching.shared_prompts import TAKE_MASKS, sees_all
from steerlm.generation.requests import LogProb

_REMEMBERED_TOKENS = 16384
"""Most prompt tokens that `Memory` keeps."""
_LOGITS_AT_ONCE = 1 << 26
"""Most logits that are held while the tokens of a prompt are judged."""
_WORTH_A_PASS = 512
"""Prompt tokens that must be saved for a second pass through the model to pay off."""
_BLOCK = 32
"""Tokens by which a prompt is found that begins as another one does."""


class BufferLayer(DynamicLayer):  # type: ignore[misc]
    """A layer of the cache that writes into a buffer with free columns; `DynamicLayer` copies itself every step.

    Attributes:
        begin: columns before it are not looked at.
        end: columns from it on are free.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, end: int) -> None:
        super().__init__()
        self.keys, self.values, self.begin, self.end = keys, values, 0, end
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, self.end = self.end, self.end + key_states.shape[-2]
        self.keys[:, :, start : self.end] = key_states
        self.values[:, :, start : self.end] = value_states
        columns = slice(self.begin, self.end)
        return self.keys[:, :, columns], self.values[:, :, columns]

    def get_seq_length(self) -> int:
        return self.end


@dataclass
class State:
    """The cache of some rows: row i has its `lengths[i]` tokens in the last used columns."""

    layers: list[BufferLayer]
    lengths: list[int]

    @property
    def end(self) -> int:
        return self.layers[0].end

    @property
    def free(self) -> int:
        return self.layers[0].keys.shape[2] - self.end


Part = tuple[State, Sequence[int]]
"""Some rows of a cache; rows may repeat."""


def join(parts: Sequence[Part], headroom: int) -> State:
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
        layers.append(BufferLayer(buffers[0], buffers[1], width))
    return State(layers, lengths)


def overwrite(state: State, rows: Sequence[int], parts: Sequence[Part]) -> None:
    """Copy the given rows of other states over `rows` of this one, where they must not be longer than its `end`."""
    first = 0
    for source, indices in parts:
        used = max(source.lengths[i] for i in indices)
        assert used <= state.end
        device = state.layers[0].device
        to = torch.tensor(rows[first : first + len(indices)], device=device)
        chosen = torch.tensor(indices, device=device)
        for mine, other in zip(state.layers, source.layers, strict=True):
            columns = slice(state.end - used, state.end), slice(source.end - used, source.end)
            mine.keys[to, :, columns[0]] = other.keys[chosen, :, columns[1]]
            mine.values[to, :, columns[0]] = other.values[chosen, :, columns[1]]
        first += len(indices)


def padding_mask(lengths: Sequence[int], width: int, capacity: int, device: torch.device) -> torch.Tensor | None:
    """Return a bool mask (rows, capacity), False on the padding left of each row; None where there is none."""
    if min(lengths) == width:
        return None
    starts = torch.tensor([width - length for length in lengths], device=device)
    return torch.arange(capacity, device=device) >= starts[:, None]


def takes_additive_mask(model: PreTrainedModel) -> bool:
    """Return whether a model takes a mask (rows, 1, 1, columns) as it is, for a step of one token per row.

    Not where some layers look through a window: each kind of layer needs a mask of its own then, which the model makes.
    """
    return sees_all(model, sys.maxsize) and model.config._attn_implementation in TAKE_MASKS


def additive(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return `padding_mask`'s as it is added to attention scores, (rows, 1, 1, capacity)."""
    zeros = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return zeros.masked_fill_(~mask, torch.finfo(dtype).min)[:, None, None]


def left_pad(sequences: Sequence[Sequence[int]], device: torch.device) -> torch.Tensor:
    """Return ids that end with the last token of every sequence, (sequences, longest), zeros before them."""
    width = max(map(len, sequences))
    return torch.tensor([[0] * (width - len(sequence)) + list(sequence) for sequence in sequences], device=device)


class Prefilled(NamedTuple):
    """The cache of some prompts and the logits (prompts, vocabulary) of the token that follows each."""

    state: State
    logits: torch.Tensor


def forward(
    model: PreTrainedModel,
    ids_BL: torch.Tensor,
    positions_BL: torch.Tensor,
    mask: torch.Tensor | None,
    cache: Cache,
    keep: int | torch.Tensor = 1,
) -> torch.Tensor:
    """Run the model, extending `cache`; returns the float32 logits of the last `keep` positions (or of those that it
    holds), (B, keep, V)."""
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


def prefill(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> Prefilled:
    """Compute prompts of mixed lengths in one pass."""
    lengths = [len(prompt) for prompt in prompts]
    ids = left_pad(prompts, model.device)
    width = ids.shape[1]
    mask = padding_mask(lengths, width, width, model.device)
    starts = torch.tensor([width - length for length in lengths], device=model.device)
    positions = (torch.arange(width, device=model.device) - starts[:, None]).clamp(min=0)
    cache = DynamicCache()
    logits = forward(model, ids, positions, mask, cache)[:, -1]
    layers = [BufferLayer(layer.keys, layer.values, width) for layer in cache.layers]
    return Prefilled(State(layers, lengths), logits)


def _num_shared(prompts: Sequence[Sequence[int]]) -> int:
    """Return how many leading tokens the prompts share, all of each but its last: that one's logits are wanted."""
    limit = min(map(len, prompts)) - 1
    columns = zip(*prompts, strict=False)
    return next((i for i, column in enumerate(columns) if i == limit or len(set(column)) > 1), limit)


def prompt_logprobs(model: PreTrainedModel, ids: Sequence[int], num_top: int) -> list[LogProb]:
    """Return the log-probabilities of every token but the first, each after those before it."""
    cache = DynamicCache()
    found: list[LogProb] = []
    size = max(1, _LOGITS_AT_ONCE // model.config.get_text_config().vocab_size)
    for begin in range(0, len(ids) - 1, size):
        end = min(begin + size, len(ids) - 1)
        chunk = torch.tensor([ids[begin:end]], device=model.device)
        positions = torch.arange(begin, end, device=model.device)[None]
        logprobs_LV = forward(model, chunk, positions, None, cache, keep=end - begin)[0].log_softmax(dim=-1)
        targets = torch.tensor(ids[begin + 1 : end + 1], device=model.device)
        top = logprobs_LV.topk(num_top)
        drawn_L = logprobs_LV.gather(1, targets[:, None])[:, 0]
        columns = zip(drawn_L.tolist(), top.indices.tolist(), top.values.tolist(), strict=True)
        found += [LogProb(drawn, list(zip(tokens, values, strict=True))) for drawn, tokens, values in columns]
    return found


def _beginnings(tokens: Sequence[int]) -> Iterator[int]:
    """Yield a number for the first block of tokens, for the first two, and so on."""
    number = 0
    for end in range(_BLOCK, len(tokens) + 1, _BLOCK):
        number = hash((number, *tokens[end - _BLOCK : end]))
        yield number


class Memory:
    """The caches of the latest conversations' prompts, so that of one that begins alike only the rest is computed.

    That is the header where a conversation is asked at a further setting, the last answer and what follows it where it
    goes on, and all behind the system message where another one has the same.
    """

    def __init__(self) -> None:
        self._prompts: OrderedDict[Hashable, tuple[Sequence[int], State]] = OrderedDict()
        self._num_tokens = 0
        self._latest: dict[int, Hashable] = {}
        """The latest conversation with a beginning."""

    def stem(self, conversation: Hashable, prompts: Sequence[Sequence[int]]) -> State | None:
        """Return the cache of what a conversation's prompts share with a remembered one, if it is half of each."""
        if conversation not in self._prompts:
            known = [number for number in _beginnings(prompts[0]) if number in self._latest]
            if not known:
                return None
            conversation = self._latest[known[-1]]
        self._prompts.move_to_end(conversation)
        tokens, state = self._prompts[conversation]
        shared = _num_shared([[*tokens, -1], *prompts])
        if 2 * shared < max(map(len, prompts)):
            # prompts are computed together, as wide as the longest rest
            return None
        end = state.end - state.lengths[0] + shared
        layers = [BufferLayer(layer.keys[:, :, :end], layer.values[:, :, :end], end) for layer in state.layers]
        return State(layers, [shared])

    def remember(self, conversation: Hashable, prompt: Sequence[int], state: State, index: int) -> None:
        """Keep a copy of one row of a cache, and forget the oldest where there are too many tokens."""
        if conversation in self._prompts or len(prompt) > _REMEMBERED_TOKENS:
            return
        self._prompts[conversation] = (prompt, join([(state, [index])], 0))
        self._num_tokens += len(prompt)
        self._latest.update(dict.fromkeys(_beginnings(prompt), conversation))
        while self._num_tokens > _REMEMBERED_TOKENS:
            oldest, (tokens, _) = self._prompts.popitem(last=False)
            self._num_tokens -= len(tokens)
            for number in _beginnings(tokens):
                if self._latest.get(number) == oldest:
                    del self._latest[number]


def prefill_shared(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    conversations: Sequence[Hashable],
    memory: Memory | None = None,
) -> list[tuple[Prefilled, int]]:
    """Compute prompts so that what they have in common is computed once.

    Those of one conversation differ in the attribute header only, which stands at the end (SteerLM, section 3.3);
    conversations often share a system message, or demonstrations.

    Args:
        prompts: mixed lengths.
        conversations: equal where the messages are.
        memory: of earlier calls, used and extended.

    Returns:
        Where to find each prompt: what was computed, and its row there.
    """
    members: dict[Hashable, list[int]] = {}
    for i, conversation in enumerate(conversations):
        members.setdefault(conversation, []).append(i)
    stems: list[Part] = []
    continued: list[int] = []
    if memory is not None:
        for conversation, rows in members.items():
            stem = memory.stem(conversation, [prompts[i] for i in rows])
            if stem is not None:
                stems.append((stem, [0] * len(rows)))
                continued += rows
    if len(continued) < len(prompts) and sum(state.lengths[0] * len(rows) for state, rows in stems) < _WORTH_A_PASS:
        # a pass is needed anyway: few tokens more in it cost less than a second one
        stems, continued = [], []
    found: dict[int, tuple[Prefilled, int]] = {}
    if continued:
        computed = _prefill_rest(model, stems, [prompts[i] for i in continued])
        found |= {i: (computed, row) for row, i in enumerate(continued)}
    fresh = {c: rows for c, rows in members.items() if rows[0] not in found}
    if fresh:
        order = [i for rows in fresh.values() for i in rows]
        computed = _prefill_fresh(model, [[prompts[i] for i in rows] for rows in fresh.values()])
        found |= {i: (computed, row) for row, i in enumerate(order)}
    if memory is not None:
        for conversation, rows in members.items():
            where, row = found[rows[0]]
            memory.remember(conversation, prompts[rows[0]], where.state, row)
    return [found[i] for i in range(len(prompts))]


def _prefill_fresh(model: PreTrainedModel, groups: Sequence[Sequence[Sequence[int]]]) -> Prefilled:
    """Compute the prompts of some conversations, group after group."""
    prompts = [prompt for group in groups for prompt in group]
    heads = [group[0][: _num_shared(group)] for group in groups]
    root: State | None = None
    if len(groups) > 1 and all(heads):
        common = _num_shared(heads)
        if (len(groups) - 1) * common >= _WORTH_A_PASS:
            root = prefill(model, [heads[0][:common]]).state

    def compute(sequences: Sequence[Sequence[int]]) -> Prefilled:
        if root is None:
            return prefill(model, sequences)
        return _prefill_rest(model, [(root, [0] * len(sequences))], sequences)

    if len(groups) == len(prompts) or not all(heads):
        return compute(prompts)
    stems = compute(heads).state
    return _prefill_rest(model, [(stems, [g for g, group in enumerate(groups) for _ in group])], prompts)


def _prefill_rest(model: PreTrainedModel, stems: Sequence[Part], prompts: Sequence[Sequence[int]]) -> Prefilled:
    """Compute prompts whose beginnings lie in `stems` (as `join` takes them)."""
    before = max(state.lengths[i] for state, rows in stems for i in rows)
    shared = [state.lengths[i] for state, rows in stems for i in rows]
    rest = [prompt[count:] for prompt, count in zip(prompts, shared, strict=True)]
    lengths = [len(tokens) for tokens in rest]
    width = max(lengths)
    state = join(stems, width)
    device = model.device
    # padded on the right: no gap between the shared part and the rest, which a sliding window would count
    ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in rest], device=device)
    start = torch.tensor([before - length for length in state.lengths], device=device)[:, None]
    end = torch.tensor([before + length for length in lengths], device=device)[:, None]
    columns = torch.arange(before + width, device=device)
    mask = (columns >= start) & (columns < end)
    positions = torch.minimum(columns[before:], end - 1) - start
    ends, last = torch.unique(torch.tensor(lengths, device=device) - 1, return_inverse=True)
    logits_BKV = forward(model, ids, positions, mask, Cache(layers=list(state.layers)), ends)
    logits = logits_BKV[torch.arange(len(rest), device=device), last]
    whole = [len(prompt) for prompt in prompts]
    if min(lengths) == width:
        return Prefilled(State(state.layers, whole), logits)
    # right-align: padding first, tokens after it, in order
    order = mask.to(torch.int8).sort(dim=1, stable=True).indices[:, None, :, None]

    def aligned(buffer: torch.Tensor) -> torch.Tensor:
        return buffer.gather(2, order.to(buffer.device).expand_as(buffer))

    layers = [BufferLayer(aligned(layer.keys), aligned(layer.values), before + width) for layer in state.layers]
    return Prefilled(State(layers, whole), logits)
