"""`steerlm tune-guidance RECIPE` on a finished run: its recipe needs no section, and stays the run's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlm import pipeline
from steerlm.__main__ import main
from steerlm.config import TuneGuidanceConfig, build_recipe, load_recipe
from steerlm.runs import RunFolder
from tests.test_config import MINIMAL

TUNED = {"strengths": {"quality": 2.0}, "tried": [1.0, 2.0], "errors": {"quality": [1.0, 0.5]}, "prompts": 8}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe without the section, all of whose stages are done."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, "run_dir": str(tmp_path / "run")}))
    folder = RunFolder(load_recipe(path))
    folder.open()
    for stage in folder.stages:
        folder.execute(stage, lambda _: {})

    def tune(run: RunFolder, out: Path) -> Mapping[str, Any]:
        assert run.recipe.tune_guidance is not None
        (out / "strength-1").mkdir()
        return TUNED

    monkeypatch.setitem(pipeline._WORK, "tune_guidance", tune)
    return path


def test_a_finished_run_is_tuned_by_default_values(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune-guidance", str(recipe)]) == 0
    assert "--from evaluate" in capsys.readouterr().out
    run = RunFolder(load_recipe(recipe))
    assert run.done("tune_guidance") is not None
    assert run.done("evaluate") is not None
    assert load_recipe(run.path / "recipe.yaml").tune_guidance == TuneGuidanceConfig()
    run.open()  # the recipe that has no section is still the run's, and the record of the tuning stays
    assert load_recipe(run.path / "recipe.yaml").tune_guidance == TuneGuidanceConfig()
    assert main(["tune-guidance", str(recipe)]) == 0
    assert "tune_guidance: already done" in capsys.readouterr().out


def test_the_section_alone_makes_no_other_recipe(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**raw, "tune_guidance": {"num_prompts": 4}}))
    assert main(["tune-guidance", str(recipe)]) == 0
    recipe.write_text(yaml.safe_dump({**raw, "tune_guidance": {"num_prompts": 5}}))
    assert main(["tune-guidance", str(recipe)]) == 2
    assert "another recipe (different: tune_guidance.num_prompts)" in capsys.readouterr().err
    recipe.write_text(yaml.safe_dump({**raw, "tune_guidance": {"num_prompts": 4}, "refine": {}}))
    assert main(["tune-guidance", str(recipe)]) == 2
    assert "another recipe (different: refine)" in capsys.readouterr().err


def test_a_tuning_that_is_deleted_is_no_longer_recorded(recipe: Path) -> None:
    assert main(["tune-guidance", str(recipe)]) == 0
    run = RunFolder(load_recipe(recipe))
    run.open(redo_from="train_sft")
    assert not (run.path / "tune_guidance").exists()
    assert load_recipe(run.path / "recipe.yaml") == build_recipe(yaml.safe_load(recipe.read_text()))
