"""Studies that take hours hold their folder: a second one does not write into it."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerlm.__main__ import main
from steerlm.commands.common import held_folder


@pytest.mark.parametrize(
    "command",
    [
        ["ablate", "playground"],
        ["baselines", "playground"],
        ["evaluate", "--suite", "steerbench", "--texts", "texts.jsonl"],
    ],
    ids=lambda command: command[0],
)
def test_a_folder_that_another_process_writes_to_is_refused(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.jsonl").write_text('{"text": "One. Two."}\n', encoding="utf-8")
    with held_folder(Path("out")):
        assert main([*command, "--out", "out"]) == 2
    assert "another process is writing to out; wait for it or give another --out" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["lock"]
