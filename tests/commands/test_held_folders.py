"""Studies that take hours, and an export, hold their folder: a second one does not write into it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from steerlm.__main__ import main
from steerlm.commands.common import held_beside, held_folder
from steerlm.config import load_recipe
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.runs import RunFolder
from tests.test_config import MINIMAL

ENDPOINT = ["--model", "m", "--base-url", "http://127.0.0.1:9/v1", "--yes"]


@pytest.mark.parametrize(
    "command",
    [
        ["ablate", "playground"],
        ["baselines", "playground"],
        ["evaluate", "--suite", "steerbench", "--texts", "texts.jsonl"],
        ["grow", "run.yaml"],
        ["judge", "--reviews", "texts.jsonl"],
        ["judge", "--protocol", "vicuna", "--answers", "a=a.jsonl", "--answers", "b=b.jsonl", *ENDPOINT],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_folder_that_another_process_writes_to_is_refused(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text('{"text": "One. Two."}\n', encoding="utf-8")
    for name in ("a", "b"):
        said = (Message("user", "One?"), Message("assistant", "Two."))
        write_conversations(f"{name}.jsonl", [Conversation("q", said)])
    Path("run.yaml").write_text(yaml.safe_dump({**MINIMAL, "run_dir": "run"}), encoding="utf-8")
    run = RunFolder(load_recipe(Path("run.yaml")))
    run.open()
    for stage in run.stages:
        run.execute(stage, lambda _: {})
    with held_folder(Path("out")):
        assert main([*command, "--out", "out"]) == 2
    assert "another process is writing to out; wait for it or give another --out" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["lock"]


def test_an_export_that_another_process_writes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model").mkdir()
    with held_beside(Path("out")):
        assert main(["export", "model", "--out", "out"]) == 2
    assert "another process is writing to out; wait for it or give another --out" in capsys.readouterr().err
    assert not Path("out").exists(), "the lock would be in what is uploaded"
