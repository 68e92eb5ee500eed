"""Prompts that stand once: which rows are made, and what a row looks like."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from steerlm.batching.batches import EncodedExamples, RowPlan
from steerlm.batching.shared_prompts import (
    Sharing,
    common_length,
    lay_out,
    neighbours,
    shared_attention,
    shared_rows,
    single_rows,
)

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=6)


def ids(*tokens: int) -> np.ndarray:
    return np.array(tokens, dtype=np.int32)


def test_a_row_holds_the_prompt_once() -> None:
    layout = lay_out([ids(1, 2, 5, 6), ids(1, 2, 3), ids(1, 2, 5, 7)])
    assert layout.input_ids.tolist() == [1, 2, 3, 5, 6, 7]
    assert layout.position_ids.tolist() == [0, 1, 2, 2, 3, 3]
    assert layout.ends.tolist() == [6, 6, 3, 6, 5, 6]
    assert [place.tolist() for place in layout.places] == [[0, 1, 3, 4], [0, 1, 2], [0, 1, 3, 5]]
    assert layout.branched


def test_a_conversation_that_goes_on_needs_no_mask() -> None:
    layout = lay_out([ids(1, 2, 3, 4), ids(1, 2), ids(1, 2)])
    assert layout.input_ids.tolist() == [1, 2, 3, 4]
    assert not layout.branched
    assert [place.tolist() for place in layout.places] == [[0, 1, 2, 3], [0, 1], [0, 1]]


@given(SEQUENCES)
@settings(max_examples=60)
def test_every_token_sees_its_own_sequence_and_nothing_else(rows: list[list[int]]) -> None:
    sequences = [ids(*row) for row in rows]
    layout = lay_out(sequences)
    mask = shared_attention(torch.from_numpy(layout.ends)[None], "sdpa", torch.float32)[0, 0]
    for sequence, place in zip(sequences, layout.places, strict=True):
        assert layout.input_ids[place].tolist() == sequence.tolist()
        assert layout.position_ids[place].tolist() == list(range(len(sequence)))
        for depth, token in enumerate(place):
            assert np.flatnonzero(mask[token].numpy() == 0).tolist() == place[: depth + 1].tolist()
    paths = {tuple(row[:depth]) for row in rows for depth in range(1, len(row) + 1)}
    assert len(layout.input_ids) == len(paths), "what is common stands once"


def test_flex_attention_gets_the_same_mask() -> None:
    layout = lay_out([ids(1, 2, 5, 6), ids(1, 2, 3), ids(1, 2, 5, 7)])
    ends = torch.from_numpy(np.stack([layout.ends, np.full(6, 6)]))
    block = shared_attention(ends, "flex_attention", torch.float32)
    assert tuple(block.shape) == (2, 1, 6, 6)
    visible = create_mask(block.mask_mod, 2, None, 6, 6, device="cpu")
    assert torch.equal(visible, shared_attention(ends, "eager", torch.float32) == 0)


@given(SEQUENCES, st.data())
@settings(max_examples=50)
def test_neighbours_have_in_common_what_they_have(rows: list[list[int]], data: st.DataObject) -> None:
    sequences = [ids(*row) for row in rows]
    prompts = np.array(data.draw(st.lists(st.integers(0, 1), min_size=len(rows), max_size=len(rows))))
    found = neighbours(prompts, sequences.__getitem__)
    drawn = np.array(data.draw(st.permutations(range(len(rows)))))[: data.draw(st.integers(1, len(rows)))]
    members, common = found.sorted(drawn)
    assert sorted(members.tolist()) == sorted(drawn.tolist())
    assert common[0] == 0
    for (a, b), length in zip(pairwise(members), common[1:], strict=True):
        alike = prompts[a] == prompts[b]
        assert length == (common_length(sequences[a], sequences[b]) if alike else 0)


def rows_of(count: int, prompt: int, response: int, limit: int = 10_000, quadratic: float = 2000.0) -> list[int]:
    lengths = np.full(count, prompt + response)
    common = np.array([0] + [prompt] * (count - 1))
    shared = shared_rows(np.arange(count), lengths, common, limit, Sharing(quadratic))
    sizes = np.diff(shared.starts)
    assert shared.lengths.tolist() == [prompt + n * response for n in sizes]
    return sizes.tolist()


def test_prompts_are_shared_where_that_is_cheaper() -> None:
    assert rows_of(8, 190, 100) == [8]
    assert rows_of(2, 20, 100) == [1, 1], "a tenth of the tokens is not worth a mask"
    assert rows_of(8, 190, 100, limit=600) == [4, 4], "a row keeps within the budget"
    assert rows_of(2, 190, 100, limit=250) == [1, 1]
    # attention over a long row costs more than the prompts it saves, unless it skips what it must not see
    assert max(rows_of(64, 190, 100)) < 20
    assert rows_of(64, 190, 100, quadratic=math.inf) == [64]


def test_without_a_common_prompt_everything_is_as_it_was() -> None:
    examples = EncodedExamples([([1, 2, 3], [True] * 3)] * 4)
    plan = RowPlan(examples, 100, Sharing(2000.0))
    assert plan.sharing is None
    assert [plan.rows(0).row(i) for i in range(4)] == [(0,), (1,), (2,), (3,)]


@pytest.mark.parametrize(("prompt", "shared"), [(30, True), (2, False)])
def test_a_plan_shares_only_what_is_worth_it(prompt: int, shared: bool) -> None:
    rows = [([7] * prompt + [i] * 10, [False] * prompt + [True] * 10) for i in range(6)]
    plan = RowPlan(EncodedExamples(rows, prompts=[5, 5, 5, 9, 9, 9]), 1000, Sharing(2000.0))
    assert (plan.sharing is not None) == shared
    assert sorted(len(plan.rows(0).row(i)) for i in range(len(plan.rows(0).lengths))) == ([3, 3] if shared else [1] * 6)


def test_costs_of_single_rows_are_those_of_the_rule() -> None:
    sharing = Sharing(100.0)
    lengths = np.array([10, 50])
    assert single_rows(np.arange(2), lengths, sharing).cost == sharing.cost(10, False) + sharing.cost(50, False)
    assert sharing.cost(50, True) == 75
