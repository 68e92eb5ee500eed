"""Token-budget batches, flat arrays, collators and the stream of batches over epochs and ranks."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steerlm.batching.batches import (
    IGNORED,
    BatchStream,
    EncodedExamples,
    EpochView,
    RegressionExamples,
    RowPlan,
    count_batches,
    sorted_batches,
    token_budget_batches,
)
from steerlm.batching.collating import collate_regression, collate_sft
from steerlm.batching.flat_array import FlatArray

LENGTHS = st.lists(st.integers(1, 600), max_size=120)


@settings(max_examples=60)
@given(LENGTHS, st.integers(1, 1000), st.integers(0, 5), st.integers(0, 5))
def test_every_example_once_within_the_budget(lengths: list[int], budget: int, seed: int, epoch: int) -> None:
    batches = token_budget_batches(lengths, budget, seed, epoch)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= budget or len(batch) == 1
    assert len(batches) == count_batches(lengths, budget)


@settings(max_examples=40)
@given(LENGTHS, st.integers(1, 1000))
def test_sorted_batches_hold_the_same_promises_longest_first(lengths: list[int], budget: int) -> None:
    batches = sorted_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(flat, reverse=True)
    assert all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= budget for b in batches)


def test_order_is_a_function_of_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 500)
    first = token_budget_batches(lengths, 2000, seed=3, epoch=1)
    assert first == token_budget_batches(lengths.tolist(), 2000, seed=3, epoch=1)
    assert first != token_budget_batches(lengths, 2000, seed=3, epoch=2)
    assert first != token_budget_batches(lengths, 2000, seed=4, epoch=1)


def test_an_epoch_mixes_which_examples_meet_and_in_which_order() -> None:
    lengths = np.random.default_rng(0).integers(50, 60, 400)
    a, b = (token_budget_batches(lengths, 600, seed=0, epoch=epoch) for epoch in (0, 1))
    pairs = [{frozenset(pair) for batch in batches for pair in pairwise(batch)} for batches in (a, b)]
    assert len(pairs[0] & pairs[1]) < len(pairs[0]) / 10
    longest = [max(lengths[index] for index in batch) for batch in a]
    assert longest != sorted(longest)
    assert longest != sorted(longest, reverse=True)


def test_padding_is_at_most_a_tenth_and_batches_are_full() -> None:
    lengths = np.random.default_rng(1).lognormal(5, 0.8, 3000).astype(int) + 4
    batches = token_budget_batches(lengths, 16384, seed=0, epoch=0)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
    assert 1 - lengths.sum() / padded < 0.1
    assert sum(len(b) * max(lengths[i] for i in b) < 0.8 * 16384 for b in batches) <= 2


def test_a_row_longer_than_the_budget_is_its_own_batch() -> None:
    batches = token_budget_batches([10, 500, 20, 30], 100, seed=0, epoch=0)
    assert [1] in batches


@pytest.mark.parametrize("spilled", [False, True])
def test_flat_array_gives_rows_back(tmp_path: Path, spilled: bool) -> None:
    rows = [[1, 2, 3], [], [2_000_000_000, -7], [5]]
    flat = FlatArray(rows, tmp_path if spilled else None)
    assert [flat[i].tolist() for i in range(len(flat))] == rows
    assert flat.lengths.tolist() == [3, 0, 2, 1]
    assert list(tmp_path.iterdir()) == []
    assert len(FlatArray([], tmp_path if spilled else None)) == 0


def test_encoded_examples_keep_ids_and_mask() -> None:
    examples = EncodedExamples([([5, 0, 7], [False, True, True]), ([0, 9], [False, True])])
    first = examples.example(0, 3)
    assert first.input_ids.tolist() == [5, 0, 7]
    assert first.labels.tolist() == [IGNORED, 0, 7]
    assert examples.example(1, 0).labels.tolist() == [IGNORED, 9]
    assert examples.lengths.tolist() == [3, 2]


def test_collate_sft_pads_on_the_right() -> None:
    examples = EncodedExamples([([5, 6, 7], [False, True, True]), ([8], [True])])
    batch = collate_sft([[examples.example(0, 0)], [examples.example(1, 0)]], pad_id=99)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 99, 99]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    # 6 and 7 are predicted by the hidden states of 5 and 6; nothing predicts 8, which is first in its row
    assert batch["targets"].tolist() == [6, 7]
    assert batch["positions"].tolist() == [0, 1]
    batch = collate_sft([[examples.example(1, 0)], [examples.example(0, 0)]], pad_id=99)
    assert batch["positions"].tolist() == [3, 4]
    assert batch["input_ids"].dtype == torch.int64


def test_collate_regression_masks_missing_labels() -> None:
    examples = RegressionExamples([([5, 6], [1.5, np.nan]), ([7], [np.nan, 4.0])])
    batch = collate_regression([[examples.example(0, 0)], [examples.example(1, 0)]], pad_id=0)
    assert batch["labels"].tolist() == [[1.5, 0.0], [0.0, 4.0]]
    assert batch["label_mask"].tolist() == [[True, False], [False, True]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]


def encoded(count: int) -> EncodedExamples:
    rng = np.random.default_rng(0)
    return EncodedExamples(([1] * n, [True] * n) for n in rng.integers(3, 30, count).tolist())


def test_stream_runs_through_epochs_and_stops_where_told() -> None:
    examples = encoded(50)
    per_epoch = count_batches(examples.lengths, 100)
    batches = list(BatchStream(RowPlan(examples, 100), seed=5, num_batches=2 * per_epoch + 3))
    assert len(batches) == 2 * per_epoch + 3
    for epoch in (0, 1):
        keys = [key for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for key in batch]
        assert sorted(keys) == [((index,), epoch) for index in range(50)]
    assert {epoch for batch in batches[2 * per_epoch :] for _, epoch in batch} == {2}


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_an_epoch_and_an_empty_batch_fills_it_up(world_size: int) -> None:
    examples = encoded(41)
    plan = RowPlan(examples, 100)
    per_rank = plan.num_batches(0, world_size)
    ranks = [list(BatchStream(plan, 5, per_rank, rank, world_size)) for rank in range(world_size)]
    assert {len(batches) for batches in ranks} == {per_rank}
    alone = list(BatchStream(plan, 5, count_batches(examples.lengths, 100)))
    together = [batches[step] for step in range(per_rank) for batches in ranks]
    assert together[: len(alone)] == alone
    view = EpochView(examples)
    for batch in together[len(alone) :]:
        assert all((example.labels == IGNORED).all() for key in batch for example in view[key])
        assert all(len(example.input_ids) > 0 for key in batch for example in view[key])
