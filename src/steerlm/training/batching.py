"""Token-budget batches and the arrays they are made of.

Examples of similar length share a batch whose padded size stays within a token budget. Which examples meet
and in which order batches come is a pure function of (seed, epoch), which is what makes an interrupted run
continue exactly. Data sets are flat arrays (four bytes per token), in memory or in a memory-mapped file.
"""

from __future__ import annotations

import hashlib
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from steerlm.files import full_disk_is_user_error

IGNORED = -100
"""Label of a token that is not trained."""

_LENGTH_CLASS = 0.9
"""Rows of one class are at least this share of its longest row: at most a tenth of a batch is padding."""

IntArray = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]


class Example(NamedTuple):
    """One row before padding.

    Attributes:
        input_ids: int32 array of T tokens.
        labels: what is trained, by objective: for a language model an int32 array of T tokens with -100 where
            nothing is trained (not shifted); for regression a float32 array of K labels on the schema's scale
            with NaN where a label is missing.
    """

    input_ids: Ids
    labels: Ids | npt.NDArray[np.float32]


class Examples(Protocol):
    """A data set that can be trained on.

    Attributes:
        lengths: tokens of every example (an upper bound where an epoch may shorten it).
    """

    @property
    def lengths(self) -> IntArray: ...

    def draw(self, epoch: int) -> IntArray:
        """Return the indices of the examples that occur in `epoch`, with repeats."""
        ...

    def example(self, index: int, epoch: int) -> Example:
        """Return one example as it looks in `epoch`: a pure function of its arguments."""
        ...

    def digest(self) -> bytes:
        """Return what identifies the examples of all epochs: checkpoints belong to them."""
        ...


def _length_classes(lengths: IntArray, tokens_per_batch: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, stop, rows) over the lengths sorted from long to short: a class and its batch size.

    A class hands the rows that do not fill a batch on to the next one, so only the very last batch is not full;
    the classes depend on the lengths alone, so every epoch has equally many batches.
    """
    descending = np.sort(lengths)[::-1]
    start = 0
    while start < len(descending):
        longest = max(int(descending[start]), 1)
        rows = max(1, tokens_per_batch // longest)
        inside = int(np.searchsorted(-descending, -_LENGTH_CLASS * longest, side="right")) - start
        stop = min(len(descending), start + max(1, inside // rows) * rows)
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
        lengths: tokens per example.
        tokens_per_batch: upper bound of rows times longest row; a longer example is a batch of its own.
        seed: of the order.
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


class FlatArray:
    """Rows of different length, stored end to end with their offsets.

    Args:
        rows: one-dimensional arrays or lists.
        folder: where given, the elements go to an unnamed file there and are memory-mapped, so that data larger
            than memory works; the file vanishes with the process.
    """

    def __init__(self, rows: Iterable[Sequence[int] | Ids], folder: Path | None = None):
        offsets = array("q", [0])
        self._flat: Ids
        if folder is None:
            buffer = bytearray()
            for row in rows:
                buffer += np.asarray(row, dtype=np.int32).tobytes()
                offsets.append(len(buffer) // 4)
            self._flat = np.frombuffer(buffer, dtype=np.int32)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            with full_disk_is_user_error(folder), tempfile.TemporaryFile(dir=folder) as stream:
                for row in rows:
                    stream.write(np.asarray(row, dtype=np.int32).tobytes())
                    offsets.append(offsets[-1] + len(row))
                stream.flush()
                # an empty file cannot be mapped
                mapped = np.memmap(stream, dtype=np.int32, mode="r") if offsets[-1] else np.empty(0, np.int32)
                self._flat = np.asarray(mapped)
        self._offsets = offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: int) -> Ids:
        return self._flat[self._offsets[index] : self._offsets[index + 1]]

    def digest(self) -> bytes:
        """Return what identifies the content."""
        digest = hashlib.blake2b(self._flat.tobytes() if len(self._flat) == 0 else self._flat.data, digest_size=16)
        digest.update(self._offsets)
        return digest.digest()

    @property
    def lengths(self) -> IntArray:
        """Length of every row."""
        offsets = np.asarray(self._offsets, dtype=np.int64)
        return offsets[1:] - offsets[:-1]


class EncodedExamples:
    """Fixed language-model examples: the same in every epoch.

    Args:
        rows: per example its token ids and which of them are trained.
        folder: where given, the tokens are memory-mapped there (`FlatArray`).
    """

    def __init__(self, rows: Iterable[tuple[Sequence[int], Sequence[bool]]], folder: Path | None = None):
        # one array of signed ids: a trained token as it is, any other as its complement
        self._signed = FlatArray(
            (np.where(np.asarray(mask, dtype=bool), ids, ~np.asarray(ids, dtype=np.int32)) for ids, mask in rows),
            folder,
        )
        self.lengths = self._signed.lengths

    def __len__(self) -> int:
        return len(self._signed)

    def draw(self, epoch: int) -> IntArray:
        """Return all indices."""
        return np.arange(len(self))

    def example(self, index: int, epoch: int) -> Example:
        """Return example `index`."""
        signed = self._signed[index]
        return Example(np.where(signed >= 0, signed, ~signed), np.where(signed >= 0, signed, np.int32(IGNORED)))

    def digest(self) -> bytes:
        """Return what identifies the data."""
        return self._signed.digest()


class RegressionExamples:
    """Token ids with K real-valued labels each, NaN where a label is missing.

    Args:
        rows: per example its token ids and its labels on the schema's scale.
        folder: where given, the tokens are memory-mapped there (`FlatArray`).
    """

    def __init__(self, rows: Iterable[tuple[Sequence[int], Sequence[float]]], folder: Path | None = None):
        labels: list[npt.NDArray[np.float32]] = []

        def tokens() -> Iterator[Sequence[int]]:
            for ids, values in rows:
                labels.append(np.asarray(values, dtype=np.float32))
                yield ids

        self._tokens = FlatArray(tokens(), folder)
        self.labels = np.stack(labels) if labels else np.empty((0, 0), np.float32)
        self.lengths = self._tokens.lengths

    def __len__(self) -> int:
        return len(self._tokens)

    def draw(self, epoch: int) -> IntArray:
        """Return all indices."""
        return np.arange(len(self))

    def example(self, index: int, epoch: int) -> Example:
        """Return example `index`."""
        return Example(self._tokens[index], self.labels[index])

    def digest(self) -> bytes:
        """Return what identifies the data."""
        return self._tokens.digest() + hashlib.blake2b(self.labels.tobytes(), digest_size=16).digest()


def pad_tokens(rows: Sequence[Ids], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad on the right.

    Returns:
        input_ids (B, T) int64 and attention_mask (B, T) int64.
    """
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    attention = np.zeros((len(rows), longest), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        attention[i, : len(row)] = 1
    return torch.from_numpy(ids), torch.from_numpy(attention)


def collate_sft(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """Return input_ids and attention_mask (B, T), and for the N trained tokens `targets` and `positions`.

    Position b * T + t holds the hidden state that predicts a target. Found here, on the CPU, so that a GPU never
    waits to learn how many there are.
    """
    ids, attention = pad_tokens([example.input_ids for example in examples], pad_id)
    width = ids.shape[1]
    targets: list[npt.NDArray[Any]] = []
    positions: list[IntArray] = []
    for row, example in enumerate(examples):
        # the token before a trained one predicts it; the first token of a row is predicted by nothing
        where = np.flatnonzero(example.labels[1:] != IGNORED)
        targets.append(example.labels[1:][where])
        positions.append(where + row * width)
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "targets": torch.from_numpy(np.concatenate(targets).astype(np.int64)),
        "positions": torch.from_numpy(np.concatenate(positions)),
    }


def collate_regression(examples: Sequence[Example], pad_id: int) -> dict[str, Tensor]:
    """Return input_ids and attention_mask (B, T), labels (B, K) with 0 where missing, label_mask (B, K)."""
    ids, attention = pad_tokens([example.input_ids for example in examples], pad_id)
    labels = np.stack([np.asarray(example.labels, dtype=np.float32) for example in examples])
    present = ~np.isnan(labels)
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "labels": torch.from_numpy(np.where(present, labels, np.float32(0))),
        "label_mask": torch.from_numpy(present),
    }


class EpochView(Dataset[Example]):
    """Adapter for a DataLoader: a key is (index, epoch); a negative index is its complement with nothing trained.

    Such an empty example keeps a rank busy when the last step has fewer batches than there are ranks.
    """

    def __init__(self, examples: Examples):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples.lengths)

    def __getitem__(self, key: tuple[int, int]) -> Example:
        index, epoch = key
        if index >= 0:
            return self.examples.example(index, epoch)
        example = self.examples.example(~index, epoch)
        if np.issubdtype(example.labels.dtype, np.integer):
            return Example(example.input_ids, np.full(len(example.labels), IGNORED, dtype=np.int32))
        return Example(example.input_ids, np.full(len(example.labels), np.nan, dtype=np.float32))


class BatchStream(Sampler[list[tuple[int, int]]]):
    """Batches of (index, epoch) keys for one rank: all epochs in a row, so that steps never depend on an epoch's size.

    Args:
        examples: the data.
        tokens_per_batch: budget of one batch.
        seed: of the order.
        num_batches: batches of this rank, over all epochs.
        rank: this process.
        world_size: number of processes; every one gets whole batches.
        shuffle: False for validation: longest first, one epoch.
    """

    def __init__(
        self,
        examples: Examples,
        tokens_per_batch: int,
        seed: int,
        num_batches: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ):
        self.examples = examples
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self.num_batches = num_batches
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle

    def __len__(self) -> int:
        return self.num_batches

    def _epoch(self, epoch: int) -> list[list[int]]:
        drawn = self.examples.draw(epoch)
        lengths = self.examples.lengths[drawn]
        if self.shuffle:
            batches = token_budget_batches(lengths, self.tokens_per_batch, self.seed, epoch)
        else:
            batches = sorted_batches(lengths, self.tokens_per_batch)
        return [drawn[batch].tolist() for batch in batches]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        given = 0
        epoch = 0
        while given < self.num_batches:
            batches = self._epoch(epoch)
            # a shortest batch with nothing trained fills the last step of the epoch up
            smallest = min(batches, key=len)[:1]
            while len(batches) % self.world_size:
                batches.append([~index for index in smallest])
            for batch in batches[self.rank :: self.world_size]:
                if given == self.num_batches:
                    return
                given += 1
                yield [(index, epoch) for index in batch]
            epoch += 1


def rank_batches(examples: Examples, tokens_per_batch: int, epoch: int, world_size: int = 1) -> int:
    """Return how many batches every rank gets in `epoch`."""
    lengths = examples.lengths[examples.draw(epoch)]
    return -(-count_batches(lengths, tokens_per_batch) // world_size)
