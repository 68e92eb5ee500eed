"""Constrained decoding of the label: the paper's generative attribute model (SteerLM, section 3.1).

The label `quality:4,toxicity:0` that follows a response is decoded under constraint: the name of every attribute
is forced, in schema order, and among all tokens only the ones that spell a level of the attribute compete. The
output therefore always parses, and the model's distribution over the levels comes with it. Greedy, as in
the paper: the likeliest level is appended before the next attribute is asked for.

One forward pass covers the conversations, in rows where what several have in common stands once (`shared_prompts`).
Then each conversation gets a key-value cache of its own, copied from the row it stands in, and each attribute costs one
pass over a few tokens. Shapes: N conversations, B of which are decoded at a time, L levels of an attribute, V
vocabulary, T tokens; caches have H heads of D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from steerlm.attributes import Attribute, Value
from steerlm.batching.batches import sorted_batches
from steerlm.batching.collating import pad_layouts
from steerlm.batching.model_inputs import model_inputs
from steerlm.batching.shared_prompts import Ids, core_model, lay_out, sees_all
from steerlm.generation.prefill import BufferLayer, forward, left_pad

if TYPE_CHECKING:
    from steerlm.template.conversation_encoder import ConversationEncoder


@dataclass(frozen=True)
class LabelStep:
    """How one attribute of the label is spelled in tokens.

    Attributes:
        forced: tokens of the name, with whatever tokens all levels begin with.
        levels: per level the rest of its tokens; none is empty.
        terminators: tokens that can follow a level: they tell the level 1 from the beginning of 10.
    """

    attribute: Attribute
    forced: tuple[int, ...]
    levels: tuple[tuple[int, ...], ...]
    terminators: tuple[int, ...]

    def is_prefix(self, level: int) -> bool:
        """Whether another level's tokens begin with this level's."""
        mine = self.levels[level]
        return any(other[: len(mine)] == mine for i, other in enumerate(self.levels) if i != level)


def label_steps(encoder: ConversationEncoder) -> tuple[LabelStep, ...]:
    """Return how each attribute of a full label is spelled, in schema order; the first one opens the label."""
    schema = encoder.schema
    names = [tuple(piece.name_ids) for piece in encoder.label_ids(schema.defaults)]
    steps = []
    for k, attribute in enumerate(schema):
        levels = [tuple(ids) for ids in encoder.level_ids(attribute.name)]
        # a common beginning (sentencepiece's "▁") is part of what is forced; one token must remain to choose by
        shared = 0
        while shared < min(map(len, levels)) - 1 and len({ids[shared] for ids in levels}) == 1:
            shared += 1
        opening = (encoder.attributes_open,) if k == 0 else ()
        following = {name[0] for name in names[k + 1 :]} | {encoder.attributes_close}
        steps.append(
            LabelStep(
                attribute,
                opening + names[k] + levels[0][:shared],
                tuple(ids[shared:] for ids in levels),
                tuple(sorted(following)),
            )
        )
    return tuple(steps)


def longest_label(steps: Sequence[LabelStep]) -> int:
    """Return the most tokens that a label takes, with its opening and closing token."""
    return sum(len(step.forced) + max(map(len, step.levels)) for step in steps) + 1


def decode_labels(
    model: Any,
    steps: Sequence[LabelStep],
    rows: Sequence[Sequence[Ids]],
    pad_id: int,
    dtype: torch.dtype,
    tokens_per_batch: int,
) -> list[Tensor]:
    """Decode the label of every conversation under constraint.

    Args:
        model: a causal language model trained to write the label after a response.
        steps: the spelling of the label, see `label_steps`.
        rows: N conversations, each up to and including the end of the response; those of a row are computed
            together, each beginning that they have in common once.
        pad_id: any token id.
        dtype: the model computes in.
        tokens_per_batch: upper bound of the conversations whose caches are held at a time times the longest of them.

    Returns:
        Per attribute the distribution over its levels, (N, L), fp32, rows sum to 1.
    """
    read = _read(model, rows, pad_id, dtype)
    room = longest_label(steps)
    lengths = [len(places) for places in read.places]
    even = all(len({len(level) for level in step.levels}) == 1 for step in steps)
    if not even and not sees_all(model, max(lengths) + room):
        tokens_per_batch = 1  # where levels differ in length there is padding, which a sliding window would count
    distributions = [torch.empty(len(lengths), len(step.levels), device=model.device) for step in steps]
    for group in sorted_batches(lengths, tokens_per_batch):
        batch = _CachedBatch(model, read, group, room, dtype)
        for distribution_N_L, found_B_L in zip(distributions, _decode(batch, steps), strict=True):
            distribution_N_L[group] = found_B_L
    return distributions


class _Read(NamedTuple):
    """What the pass over the conversations left.

    Attributes:
        layers: keys and values of all rows, (rows, H, T, D) each.
        places: per conversation where its tokens are, row * T + t.
    """

    layers: Sequence[CacheLayerMixin]
    places: Sequence[Tensor]


def _read(model: Any, rows: Sequence[Sequence[Ids]], pad_id: int, dtype: torch.dtype) -> _Read:
    """Compute the keys and values of all tokens; no logits are needed yet."""
    layouts = [lay_out(row) for row in rows]
    batch = {name: tensor.to(model.device) for name, tensor in pad_layouts(layouts, pad_id).items()}
    given = model_inputs(batch, model.config, dtype)
    cache = DynamicCache()  # made without the model's configuration it keeps all tokens, also those behind a window
    core_model(model).base_model(**given.arguments | {"use_cache": True, "past_key_values": cache})
    width = batch["input_ids"].shape[1]
    places = [
        given.places(torch.from_numpy(place + number * width).to(model.device))
        for number, layout in enumerate(layouts)
        for place in layout.places
    ]
    return _Read(cache.layers, places)


class _CachedBatch:
    """Conversations that grow on the right, each with its own key-value cache.

    All end in the same column. Padding is masked and takes no position, so they may grow unequally.

    Args:
        model: a causal language model.
        room: most tokens they grow by.
    """

    def __init__(self, model: Any, read: _Read, group: Sequence[int], room: int, dtype: torch.dtype) -> None:
        places = [read.places[i] for i in group]
        width = max(map(len, places))
        where_B_T = torch.full((len(places), width), -1, device=model.device)
        for where_T, place in zip(where_B_T, places, strict=True):
            where_T[width - len(place) :] = place
        self._model = model
        self._present_B_T = torch.zeros(len(places), width + room, dtype=torch.bool, device=model.device)
        self._present_B_T[:, :width] = where_B_T >= 0

        def copied(states: Tensor) -> Tensor:
            tokens_N_H_D = states.transpose(1, 2).flatten(0, 1)
            buffer_B_H_T_D = states.new_empty(
                (len(places), states.shape[1], width + room, states.shape[3]), dtype=dtype
            )
            # padding repeats some token: a masked column must not be NaN
            buffer_B_H_T_D[:, :, :width] = tokens_N_H_D[where_B_T.clamp(min=0)].transpose(1, 2)
            return buffer_B_H_T_D

        self._layers = [BufferLayer(copied(layer.keys), copied(layer.values), width) for layer in read.layers]

    def __len__(self) -> int:
        return len(self._present_B_T)

    def extend(self, chunks: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Append one chunk to every row and return the logits after its last `keep` tokens, (B, keep, V), fp32."""
        ids_B_T = left_pad(chunks, self._model.device)
        width = ids_B_T.shape[1]
        start = self._layers[0].end
        padding_B = torch.tensor([width - len(chunk) for chunk in chunks], device=ids_B_T.device)
        self._present_B_T[:, start : start + width] = torch.arange(width, device=ids_B_T.device) >= padding_B[:, None]
        present_B_T = self._present_B_T[:, : start + width]
        positions_B_T = (present_B_T.cumsum(dim=1) - 1).clamp(min=0)[:, start:]
        return forward(self._model, ids_B_T, positions_B_T, present_B_T, Cache(layers=list(self._layers)), keep)

    def peek(self, chunk: Sequence[int]) -> Tensor:
        """Return the logits after every token of a chunk common to all rows, (B, T, V), and take it back."""
        end = self._layers[0].end
        logits = self.extend([chunk] * len(self), keep=len(chunk))
        for layer in self._layers:
            layer.end = end
        return logits


def _decode(batch: _CachedBatch, steps: Sequence[LabelStep]) -> Iterator[Tensor]:
    """Yield per attribute the distribution over its levels, (B, L)."""
    chosen: list[tuple[int, ...]] = [()] * len(batch)
    for step in steps:
        logits_B_V = batch.extend([level + step.forced for level in chosen])[:, -1]
        probabilities_B_L = torch.softmax(_level_log_probabilities(batch, step, logits_B_V), dim=-1)
        yield probabilities_B_L
        chosen = [step.levels[i] for i in probabilities_B_L.argmax(dim=-1).tolist()]


def _level_log_probabilities(batch: _CachedBatch, step: LabelStep, logits_B_V: Tensor) -> Tensor:
    """Return log P(level | what was decoded so far), (B, L), up to a constant per row."""
    peeked: dict[tuple[int, ...], Tensor] = {}
    columns = []
    for i, level in enumerate(step.levels):
        log_p_B = logits_B_V[:, level[0]]  # up to what normalises it, the same for all levels
        ambiguous = step.is_prefix(i)
        context = level if ambiguous else level[:-1]
        if context:
            if context not in peeked:
                peeked[context] = torch.log_softmax(batch.peek(context), dim=-1)
            rest_B_T_V = peeked[context]
            for t, token in enumerate(level[1:]):
                log_p_B = log_p_B + rest_B_T_V[:, t, token]
            if ambiguous:
                log_p_B = log_p_B + rest_B_T_V[:, len(level) - 1, list(step.terminators)].logsumexp(dim=-1)
        columns.append(log_p_B)
    return torch.stack(columns, dim=1)


def encode_label(encoder: ConversationEncoder, values: Mapping[str, Value]) -> list[int]:
    """Return the ids of a full or partial label with its opening and closing token, as the model shall write it."""
    ids = [encoder.attributes_open]
    for piece in encoder.label_ids(values):
        ids += [*piece.name_ids, *piece.value_ids]
    return [*ids, encoder.attributes_close]
