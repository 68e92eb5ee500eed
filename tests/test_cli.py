from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from steerlm.cli import main, parse_overrides
from steerlm.errors import UserError


def test_help_imports_neither_torch_nor_pydantic() -> None:
    code = (
        "import sys\nfrom steerlm.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in (
        "run",
        "prepare",
        "train-attribute-model",
        "annotate",
        "train-sft",
        "bootstrap",
        "evaluate",
        "chat",
    ):
        assert command in done.stdout


def test_overrides_are_yaml() -> None:
    assert parse_overrides(["a.b=2", "c=null", "d=[x, y]", "e=p=q"]) == {
        "a.b": 2,
        "c": None,
        "d": ["x", "y"],
        "e": "p=q",
    }
    with pytest.raises(UserError, match="not of the form key=value"):
        parse_overrides(["oops"])
    with pytest.raises(UserError, match="not a YAML value"):
        parse_overrides(["a=[1"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["run", "nowhere.yaml"], "no such recipe: nowhere.yaml"),
        (["annotate", "--model", "m", "--out", "OUT"], "--data is missing"),
        (["train-sft", "--out", "OUT", "--base-model", "m", "--train", "t"], "--validation is missing"),
        (["prepare", "--out", "OUT", "--source", "chats.jsonl", "--attributes", "oasst"], "FORMAT:PATH"),
        (["prepare", "--out", "OUT", "--source", "nope:chats.jsonl", "--attributes", "oasst"], "format"),
        (["evaluate", "--out", "OUT", "--prompts", "p"], "--model is missing"),
        (["evaluate", "--out", "OUT", "--model", "a/model", "--model", "b/model"], "the name 'model' stands twice"),
        (["playground"], "needs a recipe"),
        (["report", "nowhere"], "no such run folder"),
        (["export-nemo", "a", "b", "--attributes", "oast"], "did you mean 'oasst'"),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    argv: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [str(tmp_path / "out") if word == "OUT" else word for word in argv]
    assert main(argv) == 2
    captured = capsys.readouterr().err
    assert words in captured
    assert captured.startswith("steerlm: error: ")
    assert "Traceback" not in captured


def test_a_source_of_any_file_name_gets_a_name(tmp_path: Path) -> None:
    (tmp_path / "my data (1).jsonl").write_text('{"instruction": "Tea?", "output": "Green."}\n')
    source = f"alpaca:{tmp_path / 'my data (1).jsonl'}"
    assert main(["prepare", "--out", str(tmp_path / "out"), "--source", source, "--attributes", "oasst"]) == 0
    assert '"source":"my-data-1-"' in (tmp_path / "out" / "train.jsonl").read_text()


def test_unknown_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["run", "x.yaml", "--humor", "3"])
    assert error.value.code == 2
    assert "unrecognized arguments: --humor 3" in capsys.readouterr().err


def test_a_full_disk_is_reported_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from steerlm.commands import handlers as commands

    def full(_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commands, "report", full)
    assert main(["report", str(tmp_path)]) == 1
    captured = capsys.readouterr().err
    assert "No space left on device" in captured
    assert "the same command goes on" in captured
