"""The results pages say what the numbers say, also where it is worse."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_ablation", DOCS / "results_ablation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def difference(low: float | None, high: float | None, *seeds: float) -> dict[str, Any]:
    return {"value": 0.0, "low": low, "high": high, "seeds": {str(i): {"value": v} for i, v in enumerate(seeds)}}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (difference(0.1, 0.3, 0.2, 0.2), "**better**"),
        (difference(0.1, 0.3, 0.5, -0.1), "**better**, not in every seed"),
        (difference(-0.3, -0.1, -0.2, -0.2), "**worse**"),
        (difference(-0.3, 0.1, -0.2, -0.2), "no difference shown"),
        (difference(None, None, 1.0), "too few prompts to tell"),
    ],
)
def test_a_difference_is_put_into_words(row: dict[str, Any], said: str, pages: ModuleType) -> None:
    assert pages.verdict(row, "better", "worse") == said


def rungs(**quality: float) -> dict[str, Any]:
    return {"rungs": {name: {"quality": {"value": value}} for name, value in quality.items()}}


def test_the_order_is_compared_with_the_paper_s(pages: ModuleType) -> None:
    assert "in the paper's order" in pages._order(rungs(plain=1.0, human=2.0, predicted=3.0))
    assert "**not**" not in pages._order(rungs(plain=1.0, human=2.0, predicted=3.0))
    assert "**not**" in pages._order(rungs(plain=1.0, human=3.0, predicted=2.0))


def test_what_is_copied_keeps_the_values_of_the_seeds(pages: ModuleType) -> None:
    value = {"a": [{"value": 1.0, "seeds": {"0": {"value": 1.0, "low": 0.5, "high": 2.0}}}], "seeds": [0, 1]}
    assert pages._slim(value) == {"a": [{"value": 1.0, "seeds": {"0": {"value": 1.0}}}], "seeds": [0, 1]}
