"""`steerlm run RECIPE --dry-run` says what would end the run, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from steerlm.__main__ import main
from steerlm.config import load_recipe
from steerlm.planning import estimate
from steerlm.planning.devices import DEVICES, Machines
from steerlm.runs import RunFolder
from tests.test_config import MINIMAL


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setattr(estimate, "plan", lambda recipe: estimate.CostPlan(Machines(DEVICES["H100"])))
    (tmp_path / "a.jsonl").write_text("one\n")
    path = tmp_path / "recipe.yaml"
    source = {"name": "a", "format": "messages", "path": str(tmp_path / "a.jsonl")}
    path.write_text(yaml.safe_dump({**MINIMAL, "run_dir": str(tmp_path / "run"), "prepare": {"sources": [source]}}))
    return path


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_another_recipe_is_a_problem(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(recipe), "--dry-run"]) == 0
    folder = RunFolder(load_recipe(recipe))
    assert not folder.path.exists()
    folder.open()
    folder.execute("prepare", lambda _: {})
    folder.execute("train_sft", lambda _: {})
    before = files(recipe.parent)
    assert main(["run", str(recipe), "--dry-run"]) == 0
    changed = [str(recipe), "--dry-run", "--set", "train_sft.epochs=7"]
    assert main(["run", *changed]) == 1
    assert "problem: " + str(folder.path) in (said := capsys.readouterr().out)
    assert "another recipe (different: train_sft.epochs)" in said
    assert main(["run", *changed, "--from", "train-sft"]) == 0
    assert files(recipe.parent) == before


def test_data_that_have_changed_are_a_problem_unless_they_are_read_anew(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(load_recipe(recipe))
    folder.open()
    folder.execute("prepare", lambda _: {})
    (recipe.parent / "a.jsonl").write_text("two\n")
    assert main(["run", str(recipe), "--dry-run"]) == 1
    assert "a.jsonl changed since the run" in capsys.readouterr().out
    assert main(["run", str(recipe), "--dry-run", "--from", "prepare"]) == 0
