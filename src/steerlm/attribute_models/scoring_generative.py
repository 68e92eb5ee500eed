"""Constrained decoding of the label: the paper's generative attribute model (SteerLM, section 3.1).

The label `quality:4,toxicity:0` that follows a response is decoded under constraint: the name of every attribute
is forced, in schema order, and among all tokens only the ones that spell a level of the attribute compete. The
output therefore always parses, and the model's distribution over the levels comes with it. Greedy, as in
the paper: the likeliest level is appended before the next attribute is asked for.

One forward pass covers the conversation; each further attribute costs one pass over a few tokens on its
key-value cache. Shapes: B conversations, L levels of an attribute, V vocabulary, T tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from steerlm.attributes import Attribute, Value

if TYPE_CHECKING:
    from steerlm.template import ConversationEncoder


@dataclass(frozen=True)
class LabelStep:
    """How one attribute of the label is spelled in tokens.

    Attributes:
        attribute: the attribute.
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


class CachedBatch:
    """A batch of token sequences that grows on the right, with its key-value cache.

    Chunks are padded on the left; padding is masked and takes no position, so rows may grow unequally.

    Args:
        model: a causal language model.
        pad_id: any token id.
    """

    def __init__(self, model: Any, pad_id: int) -> None:
        self._model = model
        self._pad_id = pad_id
        self._cache: Any = None
        self._mask_B_T: Tensor | None = None

    def extend(self, chunks: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Append one chunk to every row and return the logits after its last `keep` tokens, (B, keep, V), fp32."""
        width = max(map(len, chunks))
        device = self._model.device
        ids_B_T = torch.tensor([[self._pad_id] * (width - len(c)) + list(c) for c in chunks], device=device)
        mask_B_T = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in chunks], device=device)
        if self._mask_B_T is not None:
            mask_B_T = torch.cat([self._mask_B_T, mask_B_T], dim=1)
        positions_B_T = (mask_B_T.cumsum(dim=1) - 1).clamp(min=0)[:, -width:]
        out = self._model(
            input_ids=ids_B_T,
            attention_mask=mask_B_T,
            position_ids=positions_B_T,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        )
        self._cache, self._mask_B_T = out.past_key_values, mask_B_T
        logits: Tensor = out.logits.float()
        return logits

    def peek(self, chunk: Sequence[int]) -> Tensor:
        """Return the logits after every token of a chunk common to all rows, (B, T, V), and take it back."""
        assert self._mask_B_T is not None
        cache, mask_B_T = copy.deepcopy(self._cache), self._mask_B_T
        logits = self.extend([chunk] * mask_B_T.shape[0], keep=len(chunk))
        self._cache, self._mask_B_T = cache, mask_B_T
        return logits


def decode_labels(
    model: Any, steps: Sequence[LabelStep], conversations: Sequence[Sequence[int]], pad_id: int
) -> list[Tensor]:
    """Decode the label of every conversation under constraint.

    Args:
        model: a causal language model trained to write the label after a response.
        steps: the spelling of the label, see `label_steps`.
        conversations: B token sequences, each up to and including the end of the response.
        pad_id: any token id.

    Returns:
        Per attribute the distribution over its levels, (B, L), fp32, rows sum to 1.
    """
    batch = CachedBatch(model, pad_id)
    chunks = [list(ids) for ids in conversations]
    distributions = []
    for step in steps:
        logits_B_V = batch.extend([chunk + list(step.forced) for chunk in chunks])[:, -1]
        probabilities_B_L = torch.softmax(_level_log_probabilities(batch, step, logits_B_V), dim=-1)
        distributions.append(probabilities_B_L)
        chunks = [list(step.levels[i]) for i in probabilities_B_L.argmax(dim=-1).tolist()]
    return distributions


def _level_log_probabilities(batch: CachedBatch, step: LabelStep, logits_B_V: Tensor) -> Tensor:
    """Return log P(level | what was decoded so far), (B, L), up to a constant per row."""
    first_B_V = torch.log_softmax(logits_B_V, dim=-1)
    peeked: dict[tuple[int, ...], Tensor] = {}
    columns = []
    for i, level in enumerate(step.levels):
        log_p_B = first_B_V[:, level[0]]
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
