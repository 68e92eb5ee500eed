"""Several dials at once: what models with known rules obtain, and what their single dials say of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from steerlm.reporting.report import mixed_rows, write_report
from steerlm.results.evaluation import evaluation_file
from steerlm.results.steerability import Steerability
from tests.stages.evaluate.test_evaluate import World, deaf, exact


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def measured(world: World, rule: Any) -> Steerability:
    world.evaluate(sft=world.model("sft", rule))
    found = evaluation_file(world.folder / "out" / "results.json").final_model.steerability
    assert found is not None
    return found


def test_exact_obedience_has_no_error_and_is_predicted(world: World) -> None:
    found = measured(world, exact)
    assert found.attributes == ["quality", "humor", "toxicity"]
    assert found.floor.value == 0
    for group in (found.single, found.several):
        assert group is not None
        figures = (group.steering_error.value, group.miscalibration.value, group.side_effects.value)
        assert figures == pytest.approx((0, 0, 0), abs=1e-6)
        assert group.steering_error.clusters == 8
    assert found.prediction is not None
    assert found.prediction.r2 == pytest.approx(1)
    assert found.correlated is None, "nothing leaks"


def test_leakage_helps_some_requests_and_hinders_others(world: World) -> None:
    def entangled(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
        """Humor and toxicity pull each other up by half a level per level."""
        humor, toxicity = attributes["humor"], attributes["toxicity"]
        return {**attributes, "humor": humor + 0.5 * toxicity, "toxicity": toxicity + 0.5 * humor}

    found = measured(world, entangled)
    assert found.prediction is not None
    assert found.prediction.r2 == pytest.approx(1, abs=1e-6), "a linear rule is predicted by its single dials"
    assert found.prediction.best_r2 == pytest.approx(1)
    assert found.several is not None
    assert found.prediction.miscalibration == pytest.approx(found.several.miscalibration.value, abs=1e-6)
    assert found.prediction.side_effects == pytest.approx(found.several.side_effects.value, abs=1e-3)
    assert found.single is not None
    assert found.single.side_effects.value > 0.2
    assert found.correlated is not None
    assert found.correlated.rows <= found.several.rows


def test_another_category_is_no_answer_at_the_defaults(world: World) -> None:
    def funnier_in_german(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
        return {**attributes, "humor": attributes["humor"] + (attributes["lang"] == "de")}

    found = measured(world, funnier_in_german)
    assert found.floor.value == 0, "the noise of the defaults themselves"
    assert found.floor.n == 8


def test_what_single_dials_cannot_tell_stays_unexplained(world: World) -> None:
    def interacting(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
        """Humor has its way only where quality is at its best."""
        return {**attributes, "humor": attributes["humor"] if attributes["quality"] == 4 else 0}

    found = measured(world, interacting)
    assert found.prediction is not None
    assert found.prediction.r2 < 0.95


def test_a_model_that_does_not_move(world: World) -> None:
    found = measured(world, deaf)
    assert found.single is not None
    # 1 for every request but those for the level at which it stands anyway
    assert 0.7 < found.single.miscalibration.value < 1
    assert found.single.side_effects.value == pytest.approx(0, abs=1e-3)
    assert found.prediction is not None


def test_the_report_has_both(world: World) -> None:
    found = measured(world, exact)
    assert [row[0] for row in mixed_rows(found)] == [
        "one dial", "several dials", "several dials, predicted from single ones",
    ]  # fmt: skip
    assert mixed_rows(None) == []
    write_report(world.folder / "out")
    page = (world.folder / "out" / "report.md").read_text(encoding="utf-8")
    assert "### Several dials at once" in page
    assert "explains 100 % of how answers" in page
