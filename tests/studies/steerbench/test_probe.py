"""The probe: what is asked of which text, in which words; against hand-made cases and the original's values."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlm.errors import UserError
from steerlm.scorers.goal_measures import GOALS
from steerlm.statistics.steerability import uniform_weights
from steerlm.studies.steerbench.probe import (
    PUBLISHED_BOUNDS,
    Bounds,
    draw_deltas,
    fit_bounds,
    make_probe,
    read_probe,
)
from steerlm.studies.steerbench.wording import clean_response, instruction

NAN = math.nan


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Any:
    return json.loads((shared_data / "steerbench" / "golden.json").read_text(encoding="utf-8"))


def array(rows: Any) -> Any:
    return np.array([[NAN if v is None else v for v in row] for row in rows])


def test_requests_stay_in_reach() -> None:
    source = np.random.default_rng(0).uniform(size=(300, 4))
    source[:50] = np.round(source[:50])
    deltas = draw_deltas(source, 3, np.random.RandomState(1))
    active = ~np.isnan(deltas)
    assert (active.sum(axis=1) == 3).all()
    assert np.abs(deltas[active]).min() >= 0.1 - 1e-12
    assert np.abs(deltas[active]).max() <= 0.7
    reached = (source + deltas)[active]
    assert reached.min() >= -1e-12
    assert reached.max() <= 1 + 1e-12
    assert (deltas[active] > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_rare_texts_are_drawn_more_often() -> None:
    random = np.random.default_rng(0)
    points = np.vstack([random.uniform(0, 0.2, (90, 4)), random.uniform(0.8, 1, (10, 4))])
    weights = uniform_weights(points, np.random.RandomState(0))
    assert weights.sum() == pytest.approx(1)
    assert weights[90:].mean() > 3 * weights[:90].mean()


def test_a_probe_of_texts() -> None:
    texts = [f"text {i}" for i in range(40)]
    raw = np.random.default_rng(0).uniform([0, 40, 50, 40], [14, 130, 1600, 70], (40, 4))

    def probe(seed: int) -> Any:
        return make_probe(texts, raw, "x", bounds=PUBLISHED_BOUNDS, num_texts=5, num_goals=3, active=2, seed=seed)

    first, again, other = probe(1), probe(1), probe(2)
    assert len(first.texts) == len(set(first.texts)) == 5
    assert [row.text for row in first.rows] == [t for t in range(5) for _ in range(3)]
    assert first.texts == again.texts
    assert first.texts != other.texts
    one = first.rows[4]
    assert one.source == pytest.approx(PUBLISHED_BOUNDS.scale(raw[texts.index(first.texts[1])]))
    assert np.where(np.isnan(one.delta), one.source, one.source + one.delta) == pytest.approx(one.target)


def test_bounds() -> None:
    raw = np.arange(404.0).reshape(101, 4)
    found = fit_bounds(raw)
    assert found.low == pytest.approx(np.arange(4) + 10)
    assert found.scale(raw).min() == 0
    with pytest.raises(UserError, match="do not differ in formality"):
        fit_bounds(np.hstack([raw[:, :3], np.ones((101, 1))]))
    assert Bounds(np.zeros(4), np.full(4, 2.0)).scale(np.array([[-1, 1, 2, 3]])).tolist() == [[0, 0.5, 1, 1]]


def test_words_of_a_request() -> None:
    random = np.random.RandomState(0)
    one = instruction(np.array([NAN, -0.6, NAN, NAN]), random, strict=False)
    assert one == "Please rewrite the following, but make it use much less diverse language."
    two = instruction(np.array([0.3, NAN, NAN, -0.15]), random)
    assert two.startswith("Please rewrite the following, but make it ")
    assert " and slightly more informal" in two or "slightly more informal, and harder to read" in two
    assert two.endswith("Respond with only the rewritten text and do not explain your response.")
    asked = {instruction(np.array([0.3, 0.3, -0.3, NAN]), random, strict=False) for _ in range(30)}
    assert len(asked) == 6, "the phrases come in every order"


def test_answers_without_announcement_or_thinking() -> None:
    assert clean_response("<think>hm</think>\nText") == "Text"
    assert clean_response("Here is the rewritten text:\nText") == "Text"
    assert clean_response("Here is the rewritten text: Text") == "Here is the rewritten text: Text"


def write_probe(path: Path, **changes: str) -> Path:
    columns = ["text", *(f"{kind}_{goal}" for kind in ("source", "delta") for goal in GOALS)]
    rows = [["A text,\nof two lines.", "0.1", "0.2", "0.3", "0.4", "0.2", "", "-0.1", "0.3"]] * 2
    lines = [",".join(columns)] + [",".join([f'"{row[0]}"', *row[1:]]) for row in rows]
    text = "\n".join(lines) + "\n"
    for old, new in changes.items():
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    return path


def test_the_published_form(tmp_path: Path) -> None:
    probe = read_probe(write_probe(tmp_path / "probe.csv"))
    assert probe.published
    assert probe.texts == ("A text,\nof two lines.",)
    assert [row.text for row in probe.rows] == [0, 0]
    assert np.isnan(probe.rows[0].delta).tolist() == [False, True, False, False]
    assert probe.rows[0].target == pytest.approx([0.3, 0.2, 0.2, 0.7])


def test_a_probe_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs the column 'delta_formality': did you mean 'delta_formalty'"):
        read_probe(write_probe(tmp_path / "a.csv", delta_formality="delta_formalty"))
    bad = tmp_path / "b.csv"
    bad.write_text(write_probe(tmp_path / "a.csv").read_text(encoding="utf-8").replace("-0.1", "down"), "utf-8")
    with pytest.raises(UserError, match=r"b\.csv, line 3: delta_text_length is 'down', not a number"):
        read_probe(bad)


def test_golden_requests(golden: Any) -> None:
    probe = golden["probe"]
    points = np.array(probe["source_points"])
    for active in (1, 2, 3, 4):
        found = draw_deltas(points, active, np.random.RandomState(42))
        assert found == pytest.approx(array(probe[f"deltas_active_{active}_seed42"]), abs=1e-9, nan_ok=True)
    table = np.array(probe["normalise_input"])
    bounds = fit_bounds(table)
    assert bounds.to_dict() == {goal: pytest.approx(ends) for goal, ends in probe["normalise_bounds"].items()}
    scaled = bounds.scale(table)
    assert scaled == pytest.approx(np.array(probe["normalise_output"]), abs=1e-9)
    weights = uniform_weights(scaled, np.random.RandomState(int(probe["uniform_weights_np_seed"])))
    assert weights == pytest.approx(np.array(probe["uniform_weights"]), abs=1e-4)
    assert PUBLISHED_BOUNDS.to_dict() == {g: [v["min"], v["max"]] for g, v in golden["normalisation"].items()}


def test_golden_words(golden: Any) -> None:
    bare, strict = np.random.RandomState(42), np.random.RandomState(42)
    for case in golden["instructions"]["cases"]:
        deltas = array([case["deltas"]])[0]
        for random, key, suffixes in ((bare, "sha256_bare", False), (strict, "sha256_with_both_suffixes", True)):
            text = instruction(deltas, random, suffixes)
            assert hashlib.sha256(text.encode()).hexdigest() == case[key], text
    for case in golden["cleaning"]:
        assert clean_response(case["response"]) == case["cleaned"]
