"""`--dry-run` of `run`, `ablate` and `baselines` says what would end the command, and writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from steerlm.__main__ import main
from steerlm.config import load_recipe
from steerlm.planning import estimate
from steerlm.planning.devices import DEVICES, Machines
from steerlm.runs import RunFolder
from steerlm.studies.ablate.rungs import in_folder
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


NO_BEST = "attributes=[{name: humor}, {name: helpfulness}]"
NOBODY_RATES = "attributes=[{name: length, measure: words, best: max}]"


@pytest.mark.parametrize(
    ("command", "change", "said"),
    [
        (["ablate"], "train_attribute_model=null", "needs a section train_attribute_model"),
        (["ablate"], NOBODY_RATES, "an attribute that nothing measures"),
        (["ablate"], NO_BEST, "set `best`"),
        (["ablate", "--rungs", "bootstrap"], "seed=0", "needs the section `bootstrap`"),
        (["ablate"], "evaluate.prompts=nowhere.jsonl", "evaluate.prompts: no such file"),
        (["ablate"], "bootstrap={judge: nowhere}", "bootstrap.judge: no such file"),
        (["ablate"], "train_sft.learning_rate=0.1", "another recipe (different: train_sft.learning_rate)"),
        (["baselines"], "train_attribute_model=null", "needs a section train_attribute_model"),
        (["baselines"], NOBODY_RATES, "an attribute that nothing measures"),
        (["baselines"], NO_BEST, "set `best`"),
        (["baselines"], "evaluate.prompts=nowhere.jsonl", "evaluate.prompts: no such file"),
        (["baselines"], "train_sft.learning_rate=0.1", "another recipe (different: train_sft.learning_rate)"),
    ],
)
def test_a_study_s_dry_run_is_refused_as_the_study_is(
    command: list[str], change: str, said: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    begun = RunFolder(in_folder(recipe, {}, out)[0])
    begun.open()
    begun.execute("train_sft", lambda _: {})
    before = files(tmp_path)
    name, *more = command
    arguments = [name, str(recipe), *more, "--out", str(out), "--set", change]
    errors = []
    for dry in (["--dry-run"], []):
        assert main([*arguments, *dry]) == 2
        errors.append(capsys.readouterr().err)
    assert said in errors[0]
    assert errors[0] == errors[1]
    assert files(tmp_path) == before
