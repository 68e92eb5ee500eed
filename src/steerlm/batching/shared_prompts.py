"""Rows in which a prompt stands once, followed by all its responses.

Data with several responses per prompt are what the method lives on (SteerLM, section 3.4: several samples per prompt;
HelpSteer has four responses). Sequences of one row form a tree: what they have in common at their beginning stands
once, each token sees its own path only, and positions count along the path. A decoder then computes what it would
compute for the sequences apart. Lengths are in tokens; B rows, T tokens of the longest row, M responses of the fullest
row, O outputs of a head.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerlm.batching.ragged_attention import RAGGED

IntArray = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]

CAUSAL = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt2",
        "gpt_neox",
        "granite",
        "llama",
        "mistral",
        "olmo2",
        "phi3",
        "qwen2",
        "qwen3",
        "smollm3",
    }
)
"""Model types known (by test) to see the past only and to take positions and a mask as they are given."""

TAKE_MASKS = frozenset({"eager", "sdpa", RAGGED})
"""Implementations of attention that add a mask (rows, 1, queries, keys) as it is given."""

_WORTH, _WORTH_UNMASKED = 0.7, 0.9
"""A sequence joins a row when it then costs at most this share of what it costs alone; the second where attention needs
no mask, so that there is nothing to lose."""

_ATTENTION_COST = 3.0
"""A row of so many times the hidden size costs as much in masked attention as in everything else. Counting operations
gives 6; attention was taken to run at half the speed of matrix products."""


_BRANCH_COST = 6000.0
"""Tokens that the products of a branch cost without padding (`ragged_attention`), times the hidden size: about
45 at 128, 10 at 640."""


@dataclass(frozen=True)
class Sharing:
    """What a row costs, so that prompts are shared only where that is cheaper.

    Attributes:
        quadratic: length at which the masked attention of a row costs as much as everything else; infinite where
            the attention skips what the mask hides.
        worth: share of its own cost that a sequence may at most add to a row.
        branch: cost of each further branch, in tokens.
    """

    quadratic: float
    worth: float = _WORTH
    branch: float = 0.0

    def cost(self, length: float, branched: bool) -> float:
        """Return the cost of a row in tokens; plain causal attention skips half of what a mask computes."""
        return length + length * length / self.quadratic * (1.0 if branched else 0.5)


def core_model(model: Any) -> Any:
    """Return the model inside adapters."""
    # not by asking for a PeftModel: most who use this have no adapters, and peft takes memory and time to import
    return model if isinstance(model, PreTrainedModel) else model.get_base_model()


def is_causal(model: Any) -> bool:
    """Return whether padding on the right is invisible to a model without any mask."""
    return core_model(model).config.get_text_config().model_type in CAUSAL


def sharing_of(model: Any, longest: int, attention: str | None = None) -> Sharing | None:
    """Return how prompts can be shared with this model, None where they cannot.

    Args:
        attention: what computes rows that share prompts, where it is not the model's own.
    """
    core: PreTrainedModel = core_model(model)
    hidden = core.config.get_text_config().hidden_size
    if attention == RAGGED:
        return Sharing(math.inf, _WORTH_UNMASKED, _BRANCH_COST / hidden)
    if not sees_all(core, longest) or core.config._attn_implementation not in TAKE_MASKS:
        return None
    return Sharing(math.inf if attention == "flex_attention" else _ATTENTION_COST * hidden)


def sees_all(model: Any, longest: int) -> bool:
    """Return whether each token sees those before it and no others, wherever they stand.

    Not so in encoders, which see the future, in models that keep a state or count positions by themselves, and with a
    sliding window shorter than the sequences, which would hide tokens by their place in the row: all these get plain
    rows.
    """
    config = core_model(model).config.get_text_config()
    window = getattr(config, "sliding_window", None)  # most models have none
    return config.model_type in CAUSAL and (window is None or longest <= window)


def can_be_ragged(model: Any, training: bool) -> bool:
    """Return whether a model that computes on the CPU can do so without padding (`ragged_attention`), sliding windows
    included.

    Args:
        training: whether its dropout counts: this attention has none.
    """
    core: PreTrainedModel = core_model(model)
    config = core.config.get_text_config()
    dropout = any(getattr(config, name, 0.0) for name in ("attention_dropout", "attn_pdrop"))  # the latter is gpt2's
    known = core.config._attn_implementation in ("sdpa", RAGGED)
    return known and config.model_type in CAUSAL and not (training and dropout)


class Layout(NamedTuple):
    """A row of sequences whose common beginnings stand once.

    Attributes:
        input_ids: the T tokens of the row.
        position_ids: of every token, counted along its own sequence.
        ends: where the last sequence that holds a token ends: token t is seen by tokens t to ends[t] - 1.
        places: per sequence, as they were given, where in the row its tokens are.
        branched: False where plain causal attention is right: each sequence goes on from the one before.
    """

    input_ids: Ids
    position_ids: IntArray
    ends: IntArray
    places: Sequence[IntArray]
    branched: bool


def lay_out(sequences: Sequence[Ids]) -> Layout:
    """Lay sequences out in one row (depth first, in lexicographic order)."""
    order = sorted(range(len(sequences)), key=lambda i: _sort_key(sequences[i]))
    places: list[IntArray] = [np.empty(0, np.int64)] * len(sequences)
    path = np.empty(0, np.int64)
    previous = sequences[order[0]][:0]
    parts: list[Ids] = []
    positions: list[IntArray] = []
    closed: list[tuple[IntArray, int]] = []
    size = 0
    for i in order:
        sequence = sequences[i]
        common = common_length(previous, sequence)
        # what is left of the path before is seen by nothing that follows
        if common < len(path):
            closed.append((path[common:], size))
        parts.append(sequence[common:])
        positions.append(np.arange(common, len(sequence)))
        path = np.concatenate([path[:common], np.arange(size, size + len(sequence) - common)])
        size += len(sequence) - common
        places[i], previous = path, sequence
    ends = np.full(size, size, dtype=np.int64)
    for where, end in closed:
        ends[where] = end
    return Layout(np.concatenate(parts), np.concatenate(positions), ends, places, bool(closed))


def _sort_key(ids: Ids) -> bytes:
    return ids.astype(">u4").tobytes()


def common_length(a: Ids, b: Ids) -> int:
    """Return the length of the common beginning."""
    shorter = min(len(a), len(b))
    different = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(different[0]) if len(different) else shorter


class Neighbours(NamedTuple):
    """Examples in an order in which those with a common beginning are next to each other.

    Attributes:
        rank: place of every example in that order.
        common: by place, the length of the beginning that is common with the example before (0: not to be shared).
    """

    rank: IntArray
    common: IntArray

    def sorted(self, drawn: IntArray) -> tuple[IntArray, IntArray]:
        """Return some of the examples (each at most once) in that order, and what each has in common with the one
        before."""
        ranks = self.rank[drawn]
        order = np.argsort(ranks)
        ranks = ranks[order]
        common = np.zeros(len(drawn), dtype=np.int64)
        if len(drawn) > 1:
            # with an example left out between them, two have the least in common that there is on the way
            common[1:] = np.minimum.reduceat(self.common[: ranks[-1] + 1], ranks[:-1] + 1)
        return drawn[order], common


def neighbours(prompts: IntArray, beginning: Callable[[int], Ids]) -> Neighbours:
    """Find what examples have in common.

    Args:
        beginning: returns the tokens an example begins with, whatever else changes.
    """
    order = np.argsort(prompts, kind="stable")
    common = np.zeros(len(order), dtype=np.int64)
    edges = np.flatnonzero(np.diff(prompts[order], prepend=-1, append=-1))
    for start, stop in itertools.pairwise(edges.tolist()):
        if stop - start < 2:
            continue
        rows = {int(i): beginning(int(i)) for i in order[start:stop]}
        members = sorted(rows, key=lambda i: _sort_key(rows[i]))
        order[start:stop] = members
        common[start + 1 : stop] = [common_length(rows[a], rows[b]) for a, b in itertools.pairwise(members)]
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return Neighbours(rank, common)


class Rows(NamedTuple):
    """Examples put into rows.

    Attributes:
        members: the examples, row after row.
        starts: where in `members` each of the R rows starts, and the number of members behind the last.
        lengths: tokens of every row, or an upper bound where the examples' lengths are.
        cost: of all rows, in tokens.
    """

    members: IntArray
    starts: IntArray
    lengths: IntArray
    cost: float

    def row(self, index: int) -> tuple[int, ...]:
        return tuple(self.members[self.starts[index] : self.starts[index + 1]].tolist())


def single_rows(members: IntArray, lengths: IntArray, sharing: Sharing | None = None) -> Rows:
    """Give every example a row of its own; without `sharing` the cost is the length."""
    quadratic = math.inf if sharing is None else sharing.quadratic
    cost = float((lengths + 0.5 * lengths.astype(np.float64) ** 2 / quadratic).sum())
    return Rows(members, np.arange(len(members) + 1), lengths, cost)


def shared_rows(members: IntArray, lengths: IntArray, common: IntArray, limit: int, sharing: Sharing) -> Rows:
    """Put neighbours into rows as long as that is clearly cheaper than a row each.

    Args:
        members: examples in the order of `Neighbours`.
        limit: most tokens of a row with more than one example.
    """
    starts: list[int] = []
    sizes: list[int] = []
    total = 0.0
    size, branched, cost = 0, False, 0.0
    for i, (length, shared) in enumerate(zip(lengths.tolist(), common.tolist(), strict=True)):
        alone = sharing.cost(length, False)
        if shared:
            joined = size + length - shared
            branches = branched or shared < int(lengths[i - 1])
            more = sharing.cost(joined, branches) - cost + sharing.branch
            if joined <= limit and more <= sharing.worth * alone:
                size, branched, cost = joined, branches, cost + more
                sizes[-1] = size
                total += more
                continue
        size, branched, cost = length, False, alone
        starts.append(i)
        sizes.append(size)
        total += alone
    return Rows(members, np.array([*starts, len(members)]), np.array(sizes, dtype=np.int64), total)


def shared_attention(ends_B_T: Tensor, implementation: str, dtype: torch.dtype) -> Any:
    """Return the attention mask of rows that share prompts.

    Args:
        ends_B_T: `Layout.ends` of every row; padding is seen by padding behind it.

    Returns:
        An additive mask (B, 1, T, T) for `eager` and `sdpa`, a `BlockMask` for `flex_attention`.
    """
    width = ends_B_T.shape[1]
    if implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def visible(b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (key <= query) & (query < ends_B_T[b, key])

        return create_block_mask(visible, ends_B_T.shape[0], None, width, width, device=str(ends_B_T.device))
    place_T = torch.arange(width, device=ends_B_T.device)
    visible_B_T_T = (place_T <= place_T[:, None]) & (place_T[:, None] < ends_B_T[:, None, :])
    mask_B_T_T = torch.zeros(visible_B_T_T.shape, dtype=dtype, device=ends_B_T.device)
    return mask_B_T_T.masked_fill_(~visible_B_T_T, torch.finfo(dtype).min)[:, None]


class ResponseScores:
    """Lets a decoder with a `score` head (`*ForSequenceClassification`) give its outputs at any positions of a row.

    Hugging Face pools one position per row. What the head returns is replaced by the outputs at the wanted positions,
    the same wherever the pooling looks, so that everything still comes through the model's `forward`, as
    data-parallel and sharding wrappers need it.
    """

    def __init__(self, model: Any):
        self._places: Tensor | None = None
        core_model(model).get_submodule("score").register_forward_hook(self._gather)

    def _gather(self, module: nn.Module, inputs: tuple[Tensor, ...], outputs_B_T_O: Tensor) -> Tensor | None:
        if self._places is None:
            return None
        wanted_N_O = outputs_B_T_O.flatten(0, 1)[self._places.flatten()]
        return wanted_N_O.flatten().expand(*outputs_B_T_O.shape[:2], -1)

    def __call__(self, model: Any, places: Tensor, inputs: dict[str, object]) -> Tensor:
        """Run the model (as it may have been wrapped since) and return (N, O) outputs.

        Args:
            places: N positions b * T + t, of any shape.
        """
        self._places = places
        try:
            outputs: Tensor = model(**inputs).logits[0]
        finally:
            self._places = None
        return outputs.reshape(places.numel(), -1)
