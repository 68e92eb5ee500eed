"""Groups of responses that are trained together: their weights depend on each other (SteerLM 2.0; preference pairs).

A group is one item of a batch. Where the model can (`shared_prompts`), its responses are one row in which the prompt
stands once; else they are rows of their own, side by side. G groups, S responses, M responses of the fullest group, N
trained tokens, B rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from steerlm.batching.batches import IGNORED, EncodedExamples, Example
from steerlm.batching.collating import collate_sft
from steerlm.batching.shared_prompts import Ids, IntArray, lay_out

Floats = npt.NDArray[np.float64]
TrainedIds = tuple[Sequence[int], Sequence[bool]]
"""Token ids of a sequence, and which of them are trained."""


class Group(NamedTuple):
    """Responses to one prompt.

    Attributes:
        responses: each with its prompt.
        reference: per response the log-probability that the model had to begin with.
        value: per response a number whose meaning the loss knows.
    """

    responses: tuple[Example, ...]
    reference: Floats
    value: Floats

    def untrained(self) -> Group:
        """Return the group with nothing trained: it keeps a rank busy."""
        nothing = (Example(r.input_ids, np.full(len(r.input_ids), IGNORED, np.int32)) for r in self.responses)
        return self._replace(responses=tuple(nothing))


class EncodedGroup(NamedTuple):
    """A group before it is stored; fields as of `Group`."""

    responses: Sequence[TrainedIds]
    reference: Sequence[float]
    value: Sequence[float]


@dataclass(frozen=True)
class GroupedExamples:
    """Groups as items of batches (`batches.Examples`), the same in every epoch.

    Attributes:
        sequences: the responses of all groups in order.
        starts: where each group begins, and behind the last how many responses there are.
        lengths: tokens of every group in a batch.
    """

    sequences: EncodedExamples
    starts: IntArray
    reference: Floats
    value: Floats
    lengths: IntArray

    @classmethod
    def of(cls, groups: Iterable[EncodedGroup], folder: Path | None = None) -> GroupedExamples:
        """Store groups, rows apart from each other; where a folder is given, tokens are memory-mapped there."""
        starts, reference, value = [0], list[float](), list[float]()

        def rows() -> Iterator[TrainedIds]:
            for group in groups:
                reference.extend(group.reference)
                value.extend(group.value)
                starts.append(starts[-1] + len(group.responses))
                yield from group.responses

        sequences = EncodedExamples(rows(), folder)
        assert len(reference) == len(value) == len(sequences) == starts[-1]
        empty = np.empty(0, dtype=np.int64)
        stored = cls(sequences, np.array(starts), np.array(reference), np.array(value), empty)
        return stored.in_rows(shared=False)

    def in_rows(self, shared: bool) -> GroupedExamples:
        """Return the groups as they lie in a batch: one row each with the prompt once, or a row per response."""
        lengths = []
        for start, stop in zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True):
            if shared:
                ids = [self.sequences.example(i, 0).input_ids for i in range(start, stop)]
                lengths.append(len(lay_out(ids).input_ids))
            else:
                lengths.append((stop - start) * int(self.sequences.lengths[start:stop].max(initial=0)))
        return replace(self, lengths=np.array(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def longest(self) -> int:
        """Tokens of the longest response with its prompt."""
        return int(self.sequences.lengths.max(initial=0))

    @property
    def prompts(self) -> IntArray:
        return np.arange(len(self))

    def lengths_in(self, epoch: int) -> IntArray:
        return self.lengths

    def beginning(self, index: int) -> Ids:
        return np.empty(0, dtype=np.int32)

    def draw(self, epoch: int) -> IntArray:
        return np.arange(len(self))

    def example(self, index: int, epoch: int) -> Group:
        where = slice(int(self.starts[index]), int(self.starts[index + 1]))
        responses = tuple(self.sequences.example(i, epoch) for i in range(where.start, where.stop))
        return Group(responses, self.reference[where], self.value[where])

    def digest(self) -> bytes:
        parts = (self.starts, self.reference, self.value)
        return self.sequences.digest() + b"".join(part.tobytes() for part in parts)


def collate_groups(rows: Sequence[Sequence[Group]], pad_id: int, shared: bool) -> dict[str, Tensor]:
    """Return what `collating.collate_sft` does, and which response and group everything belongs to.

    Args:
        shared: whether a group is one row.

    Returns:
        Beside the tokens: `response_of` (N,), the response of every target, g * M + m; `reference` and `value` (G, M);
        `present` (G, M), False where a group has no such response or trains nothing of it.
    """
    groups = [group for (group,) in rows]
    apart = [[response] for group in groups for response in group.responses]
    batch = collate_sft([group.responses for group in groups] if shared else apart, pad_id)
    most = max(len(group.responses) for group in groups)
    trained = np.zeros((len(groups), most), dtype=np.int64)
    reference, value = np.zeros((2, len(groups), most))
    for g, group in enumerate(groups):
        size = len(group.responses)
        trained[g, :size] = [response.num_targets for response in group.responses]
        reference[g, :size], value[g, :size] = group.reference, group.value
    return {
        **batch,
        "response_of": torch.from_numpy(np.repeat(np.arange(trained.size), trained.ravel())),
        "reference": torch.from_numpy(reference),
        "value": torch.from_numpy(value),
        "present": torch.from_numpy(trained > 0),
    }
