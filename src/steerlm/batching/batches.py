"""Token-budget batches and the arrays they are made of.

Examples with the same prompt share a row where that is cheaper (`shared_prompts`); rows of similar length share a batch
whose padded size stays within a token budget. Which examples meet and in which order batches come is a pure function
of (seed, epoch), which is what makes an interrupted run continue exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset, Sampler

from steerlm.batching.flat_array import FlatArray as FlatArray
from steerlm.batching.shared_prompts import Ids as Ids
from steerlm.batching.shared_prompts import IntArray as IntArray
from steerlm.batching.shared_prompts import Rows, Sharing, neighbours, shared_rows, single_rows

IGNORED = -100
"""Label of a token that is not trained."""

_LENGTH_CLASS = 0.9
"""Rows of one class are at least this share of its longest row: at most a tenth of a batch is padding."""

_WORTHWHILE = 0.8
"""Prompts are shared when an epoch then costs at most this share of what plain rows cost."""


class Example(NamedTuple):
    """One sequence before padding.

    Attributes:
        input_ids: int32 array of T tokens.
        labels: what is trained, by objective: for a language model an int32 array of T tokens with -100 where
            nothing is trained (not shifted); for regression a float32 array of K labels on the schema's scale
            with NaN where a label is missing.
    """

    input_ids: Ids
    labels: Ids | npt.NDArray[np.float32]

    @property
    def num_targets(self) -> int:
        """Trained tokens of a language model's example: the first of a sequence is predicted by nothing."""
        return int(np.count_nonzero(self.labels[1:] != IGNORED))


class Examples(Protocol):
    """A data set that can be trained on.

    Attributes:
        lengths: most tokens of every example in any epoch.
        prompts: a number (from 0) per example; those of the same number may share what they have in common.
    """

    @property
    def lengths(self) -> IntArray: ...

    @property
    def prompts(self) -> IntArray: ...

    def lengths_in(self, epoch: int) -> IntArray:
        """Return the tokens of every example in an epoch that draws it, at most."""

    def beginning(self, index: int) -> Ids:
        """Return the tokens that an example begins with in every epoch."""

    def draw(self, epoch: int) -> IntArray:
        """Return the indices of the examples that occur in `epoch`, with repeats."""

    def example(self, index: int, epoch: int) -> Example | Untrainable:
        """Return one example as it looks in `epoch`: a pure function of its arguments."""

    def digest(self) -> bytes:
        """Return what identifies the examples of all epochs: checkpoints belong to them."""


def _length_classes(lengths: IntArray, tokens_per_batch: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, rows) over the lengths sorted from long to short: a class and its batch size.

    A class hands the rows that do not fill a batch on to the next one, so only the very last batch is not full;
    the classes depend on the lengths alone, so every epoch has equally many batches.
    """
    negated = np.sort(-np.asarray(lengths))
    start = 0
    while start < len(negated):
        longest = max(-int(negated[start]), 1)
        rows = max(1, tokens_per_batch // longest)
        inside = int(np.searchsorted(negated, -_LENGTH_CLASS * longest, side="right")) - start
        stop = min(len(negated), start + max(1, inside // rows) * rows)
        yield start, stop, rows
        start = stop


def count_batches(lengths: Sequence[int] | IntArray, tokens_per_batch: int) -> int:
    """Return the number of batches that `token_budget_batches` makes of these lengths in any epoch."""
    array = np.asarray(lengths, dtype=np.int64)
    return sum(-(-(stop - start) // rows) for start, stop, rows in _length_classes(array, tokens_per_batch))


def token_budget_batches(
    lengths: Sequence[int] | IntArray, tokens_per_batch: int, seed: int, epoch: int
) -> list[list[int]]:
    """Group examples of similar length and shuffle, as a pure function of the arguments.

    Args:
        tokens_per_batch: upper bound of rows times longest row; a longer example is a batch of its own.
        epoch: another epoch has other batches in another order, but equally many.

    Returns:
        Lists of indices into `lengths`; every index occurs once.
    """
    array = np.asarray(lengths, dtype=np.int64)
    generator = np.random.default_rng((seed, epoch))
    order = np.argsort(-array, kind="stable")
    batches: list[IntArray] = []
    for start, stop, rows in _length_classes(array, tokens_per_batch):
        members = generator.permutation(order[start:stop])
        batches.extend(members[i : i + rows] for i in range(0, len(members), rows))
    return [batches[i].tolist() for i in generator.permutation(len(batches))]


def sorted_batches(lengths: Sequence[int] | IntArray, tokens_per_batch: int) -> list[list[int]]:
    """Group examples for scoring, longest first (so that memory is at its peak at once), with the least padding.

    Args and result are those of `token_budget_batches`.
    """
    array = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-array, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, tokens_per_batch // max(int(array[order[start]]), 1))
        batches.append(order[start : start + rows].tolist())
        start += rows
    return batches


def _numbered(prompts: Sequence[int] | None, count: int) -> IntArray:
    """Return equal numbers for equal prompts, counted from 0."""
    if prompts is None:
        return np.arange(count)
    assert len(prompts) == count
    return np.unique(np.asarray(prompts, dtype=np.int64), return_inverse=True)[1].astype(np.int64)


class EncodedExamples:
    """Fixed language-model examples: the same in every epoch.

    Args:
        rows: per example its token ids and which of them are trained.
        folder: where given, the tokens are memory-mapped there (`FlatArray`).
        prompts: a number per example (see `Examples`), read once the rows have been; None: no prompts are shared.
    """

    def __init__(
        self,
        rows: Iterable[tuple[Sequence[int], Sequence[bool]]],
        folder: Path | None = None,
        prompts: Sequence[int] | None = None,
    ):
        # one array of signed ids: a trained token as it is, any other as its complement
        self._signed = FlatArray(
            (np.where(np.asarray(mask, dtype=bool), ids, ~np.asarray(ids, dtype=np.int32)) for ids, mask in rows),
            folder,
        )
        self.lengths = self._signed.lengths
        self.prompts = _numbered(prompts, len(self))

    def __len__(self) -> int:
        return len(self._signed)

    def draw(self, epoch: int) -> IntArray:
        return np.arange(len(self))

    def example(self, index: int, epoch: int) -> Example:
        signed = self._signed[index]
        return Example(np.where(signed >= 0, signed, ~signed), np.where(signed >= 0, signed, np.int32(IGNORED)))

    def lengths_in(self, epoch: int) -> IntArray:
        return self.lengths

    def beginning(self, index: int) -> Ids:
        return self.example(index, 0).input_ids

    def digest(self) -> bytes:
        return self._signed.digest()


class RegressionExamples:
    """Token ids with K real-valued labels each, NaN where a label is missing; otherwise as `EncodedExamples`."""

    def __init__(
        self,
        rows: Iterable[tuple[Sequence[int], Sequence[float]]],
        folder: Path | None = None,
        prompts: Sequence[int] | None = None,
    ):
        labels: list[npt.NDArray[np.float32]] = []

        def tokens() -> Iterator[Sequence[int]]:
            for ids, values in rows:
                labels.append(np.asarray(values, dtype=np.float32))
                yield ids

        self._tokens = FlatArray(tokens(), folder)
        self.labels = np.stack(labels) if labels else np.empty((0, 0), np.float32)
        self.lengths = self._tokens.lengths
        self.prompts = _numbered(prompts, len(self))

    def __len__(self) -> int:
        return len(self._tokens)

    def draw(self, epoch: int) -> IntArray:
        return np.arange(len(self))

    def example(self, index: int, epoch: int) -> Example:
        return Example(self._tokens[index], self.labels[index])

    def lengths_in(self, epoch: int) -> IntArray:
        return self.lengths

    def beginning(self, index: int) -> Ids:
        return self._tokens[index]

    def digest(self) -> bytes:
        return self._tokens.digest() + hashlib.blake2b(self.labels.tobytes(), digest_size=16).digest()


class Key(NamedTuple):
    """A row of a batch: its examples (a complement stands for one with nothing trained) and the epoch."""

    examples: tuple[int, ...]
    epoch: int


class Untrainable(Protocol):
    """An item of a batch that is more than one sequence (`groups.Group`)."""

    def untrained(self) -> Any:
        """Return it with nothing trained."""


class EpochView(Dataset[list[Any]]):
    """Adapter for a DataLoader: returns the examples of a row.

    Examples with nothing trained keep a rank busy when the last step has fewer batches than there are ranks.
    """

    def __init__(self, examples: Examples):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples.lengths)

    def __getitem__(self, key: Key) -> list[Any]:
        return [self._example(index, key.epoch) for index in key.examples]

    def _example(self, index: int, epoch: int) -> Any:
        if index >= 0:
            return self.examples.example(index, epoch)
        example = self.examples.example(~index, epoch)
        if not isinstance(example, Example):
            return example.untrained()
        if np.issubdtype(example.labels.dtype, np.integer):
            return Example(example.input_ids, np.full(len(example.labels), IGNORED, dtype=np.int32))
        return Example(example.input_ids, np.full(len(example.labels), np.nan, dtype=np.float32))


class RowPlan:
    """Which examples make a row in which epoch.

    Args:
        sharing: what rows cost where prompts can be shared; None: every example has a row of its own.

    Attributes:
        sharing: None also where sharing saves too little to be worth it; then all is as if there were no prompts.
    """

    def __init__(self, examples: Examples, tokens_per_batch: int, sharing: Sharing | None = None):
        self.examples = examples
        self.tokens_per_batch = tokens_per_batch
        self.sharing: Sharing | None = None
        if sharing is None or len(np.unique(examples.prompts)) == len(examples.prompts):
            return
        self._neighbours = neighbours(examples.prompts, examples.beginning)
        drawn = examples.draw(0)
        apart = single_rows(drawn, examples.lengths_in(0)[drawn], sharing)
        if self._shared(0, drawn, sharing).cost <= _WORTHWHILE * apart.cost:
            self.sharing = sharing

    def rows(self, epoch: int) -> Rows:
        """Return the rows of an epoch, a pure function of the epoch."""
        drawn = self.examples.draw(epoch)
        if self.sharing is None:
            return single_rows(drawn, self.examples.lengths_in(epoch)[drawn])
        return self._shared(epoch, drawn, self.sharing)

    def _shared(self, epoch: int, drawn: IntArray, sharing: Sharing) -> Rows:
        members, common = self._neighbours.sorted(drawn)
        return shared_rows(members, self.examples.lengths_in(epoch)[members], common, self.tokens_per_batch, sharing)

    def num_batches(self, epoch: int, world_size: int = 1) -> int:
        """Return how many batches every rank gets in `epoch`."""
        return -(-count_batches(self.rows(epoch).lengths, self.tokens_per_batch) // world_size)


@dataclass(eq=False)
class BatchStream(Sampler[list[Key]]):
    """Batches of keys for one rank: all epochs in a row, so that steps never depend on an epoch's size.

    Attributes:
        num_batches: batches of this rank, over all epochs.
        world_size: number of processes; every one gets whole batches.
        shuffle: False for validation: longest first, one epoch.
    """

    plan: RowPlan
    seed: int
    num_batches: int
    rank: int = 0
    world_size: int = 1
    shuffle: bool = True

    def __len__(self) -> int:
        return self.num_batches

    def _epoch(self, epoch: int) -> list[list[tuple[int, ...]]]:
        rows = self.plan.rows(epoch)
        if self.shuffle:
            batches = token_budget_batches(rows.lengths, self.plan.tokens_per_batch, self.seed, epoch)
        else:
            batches = sorted_batches(rows.lengths, self.plan.tokens_per_batch)
        return [[rows.row(index) for index in batch] for batch in batches]

    def __iter__(self) -> Iterator[list[Key]]:
        given = 0
        epoch = 0
        while given < self.num_batches:
            batches = self._epoch(epoch)
            # a shortest batch with nothing trained fills the last step of the epoch up
            smallest = min(batches, key=len)[:1]
            while len(batches) % self.world_size:
                batches.append([tuple(~index for index in row) for row in smallest])
            for batch in batches[self.rank :: self.world_size]:
                if given == self.num_batches:
                    return
                given += 1
                yield [Key(row, epoch) for row in batch]
            epoch += 1
