"""The page of the real model says what its stored answers say, computed another way."""

from __future__ import annotations

from collections import defaultdict
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.docs_scripts import docs_script


@pytest.fixture(scope="module")
def page() -> ModuleType:
    return docs_script("results_real_model")


@pytest.fixture(scope="module")
def answers(page: ModuleType) -> dict[str, list[dict[str, Any]]]:
    """The stored answers by model."""
    found = defaultdict(list)
    for row in page.answers():
        found[row["model"]].append(row)
    return dict(found)


def test_the_stored_answers_are_small_and_hold_no_prompts(page: ModuleType) -> None:
    assert page.ANSWERS.stat().st_size < 2 << 20
    assert not page.STORED.evaluation().examples.sweeps


def test_the_figures_of_every_dial_follow_from_the_stored_answers(
    page: ModuleType, answers: dict[str, list[dict[str, Any]]]
) -> None:
    results = page.STORED.evaluation()
    assert sorted(answers) == sorted(results.models)
    defaults = results.attributes.defaults
    compared = 0
    for model, name, dial, scorer in results.headline_dials():
        others = {other: value for other, value in defaults.items() if other != name}
        rows = [
            (row["attributes"][name], row["scores"][scorer.id][name])
            for row in answers[model]
            if all(row["attributes"][other] == value for other, value in others.items())
            and row["scores"][scorer.id].get(name) is not None
        ]
        requested, obtained = np.array(rows, float).T
        found = dial.contexts["defaults"]
        assert len(rows) == found.n
        assert np.abs(requested - obtained).mean() == pytest.approx(found.mae.value, abs=1e-6)
        if np.ptp(obtained):
            assert spearmanr(requested, obtained)[0] == pytest.approx(found.spearman.value, abs=1e-9)
        compared += 1
    assert compared >= len(results.models)


def test_the_length_dial_is_what_the_texts_say(page: ModuleType, answers: dict[str, list[dict[str, Any]]]) -> None:
    """Levels of words rise with words, and two answers of one length have one level."""
    measured = next(s.id for s in page.STORED.evaluation().scorers if s.independent and "length" in s.attributes)
    for rows in answers.values():
        pairs = [
            (len(row["text"].split()), row["scores"][measured]["length"])
            for row in rows
            if row["scores"][measured].get("length") is not None
        ]
        words, levels = np.array(pairs, float).T
        assert spearmanr(words, levels)[0] > 0.9
