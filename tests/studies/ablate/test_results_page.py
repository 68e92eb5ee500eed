"""The results pages say what the numbers say, also where it is worse."""

from __future__ import annotations

import math
from types import ModuleType

import pytest

from steerlm.results.studies import AblationResult, BaselinesResult, OverSeeds, SeededEstimate
from steerlm.statistics.estimates import Estimate
from tests.docs_scripts import docs_script


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    return docs_script("results_ablation")


def difference(low: float, high: float, *seeds: float) -> SeededEstimate:
    each = {str(i): Estimate(v, math.nan, math.nan, 1, 1) for i, v in enumerate(seeds)}
    return SeededEstimate(Estimate(0.0, low, high, 9, 9), each, OverSeeds(len(seeds), 0.0, 0.0, low, high))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (difference(0.1, 0.3, 0.2, 0.2), "**better**"),
        (difference(0.1, 0.3, 0.5, -0.1), "**better**, not in every seed"),
        (difference(-0.3, -0.1, -0.2, -0.2), "**worse**"),
        (difference(-0.3, 0.1, -0.2, -0.2), "no difference shown"),
        (difference(math.nan, math.nan, 1.0), "too few prompts to tell"),
    ],
)
def test_a_difference_is_put_into_words(row: SeededEstimate, said: str, pages: ModuleType) -> None:
    assert pages.verdict(row, "better", "worse") == said


def test_the_order_is_compared_with_the_paper_s(pages: ModuleType) -> None:
    assert "in the paper's order" in pages._order({"plain": 1.0, "human": 2.0, "predicted": 3.0})
    assert "**not**" not in pages._order({"plain": 1.0, "human": 2.0, "predicted": 3.0})
    assert "**not**" in pages._order({"plain": 1.0, "human": 3.0, "predicted": 2.0})


def test_what_is_copied_keeps_the_values_of_the_seeds(pages: ModuleType) -> None:
    value = {"a": [{"value": 1.0, "seeds": {"0": {"value": 1.0, "low": 0.5, "high": 2.0}}}], "seeds": [0, 1]}
    assert pages._slim(value) == {"a": [{"value": 1.0, "seeds": {"0": {"value": 1.0}}}], "seeds": [0, 1]}


def test_copies_are_read_without_the_intervals_of_single_seeds(pages: ModuleType) -> None:
    for name, kind in (("ablation", AblationResult), ("baselines", BaselinesResult)):
        found = pages._read(name, kind)
        rows = found.rungs if name == "ablation" else found.methods
        for row in rows.values():
            assert row.figures.quality.estimate.has_interval
            assert row.figures.quality.seeds
            assert not any(seed.has_interval for seed in row.figures.quality.seeds.values())
