"""A run folder in place of a model: its final model is taken, and a run without one says so."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlm.__main__ import main
from steerlm.commands import named_models
from steerlm.errors import UserError
from tests.exporting.models import finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"id": "1", "messages": [{"role": "user", "content": "Hi"}]}\n')
    return path


class Reached(UserError):
    """What a command would have begun to work with."""


def reached(*given: Any, **named: Any) -> None:
    raise Reached(f"reached: {given}")


def test_the_final_model_is_taken(run: Path, tmp_path: Path) -> None:
    final = run / "bootstrap" / "model"
    assert named_models.model_folder(run) == named_models.model_folder(final) == final
    assert named_models.in_run(f"a={run}") == f"a={final}"
    assert named_models.in_run(f"a={run}@humor=4") == f"a={final}@humor=4"
    for other in (f"a={final}@humor=4", "a=answers.jsonl", "a=org/model", "a=https://x@host/v1#m", "none", "a="):
        assert named_models.in_run(other) == other


def test_an_unfinished_run_names_what_there_is(run: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    (half / "train_sft").mkdir(parents=True)
    (half / "train_sft" / "done.json").write_text("{}")
    (half / "recipe.yaml").write_text(yaml.safe_dump({"name": "x", "train_sft": {}, "bootstrap": {"rounds": 1}}))
    with pytest.raises(UserError, match=f"bootstrap is not done .*, or give {half}/train_sft/model"):
        named_models.model_folder(half)


def test_chat_with_a_run(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("/set\n/quit\n"))
    assert main(["chat", str(run)]) == 0
    assert "humor" in capsys.readouterr().out
    assert main(["chat", f"{run}@humor=3"]) == 2
    assert "this model was trained without attributes" in capsys.readouterr().err


def test_commands_take_a_run(
    run: Path, prompts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    final = str(run / "bootstrap" / "model")
    out = ["--prompts", str(prompts), "--out", str(prompts.parent / "out")]
    for place, argv in (
        ("steerlm.server.run.serve", ["serve", str(run), "--port", "0"]),
        ("steerlm.stages.evaluate.stage.evaluate", ["evaluate", "--model", str(run), *out]),
        ("steerlm.studies.compare.study.compare", ["compare", f"a={run}", f"b={final}", "--scorer", "text", *out]),
        ("steerlm.studies.ways.study.compare_ways", ["evaluate", "--model", str(run), "--ways", "header", *out]),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, reached)
            assert main(argv) == 2, argv
        told = capsys.readouterr().err
        assert "reached: " in told, told
        assert final in told, told


def test_the_attribute_model_of_a_run_is_taken(run: Path, tmp_path: Path) -> None:
    scorer = run / "train_attribute_model" / "model"
    assert named_models.attribute_model(run, "--annotator") == scorer
    assert named_models.attribute_model(scorer, "--annotator") == scorer
    with pytest.raises(UserError, match=r"--annotator: .* is a steerable model, not an attribute model"):
        named_models.attribute_model(run / "bootstrap" / "model", "--annotator")
    none = tmp_path / "none"
    none.mkdir()
    (none / "recipe.yaml").write_text(yaml.safe_dump({"name": "x", "train_sft": {}}))
    with pytest.raises(UserError, match="has no attribute model: its recipe trains none; give one of another run"):
        named_models.attribute_model(none, "--annotator")
