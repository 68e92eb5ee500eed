"""A stage on explicit files: the folder it writes to is its own meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerlm.__main__ import COMMANDS, main
from steerlm.commands import common
from steerlm.errors import UserError


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def second() -> common.Summary:
        with pytest.raises(UserError, match=f"another process is writing to {out}; .* another --out"):
            common.run_alone("annotate", out, pytest.fail)
        (out / "scores").write_text("kept")
        raise UserError("stopped")

    with pytest.raises(UserError, match="stopped"):
        common.run_alone("annotate", out, second)
    assert (out / "scores").read_text() == "kept"
    with pytest.raises(UserError, match="stopped again"):  # the hold ended with its process's work
        common.run_alone("annotate", out, lambda: (_ for _ in ()).throw(UserError("stopped again")))


def test_a_new_folder_that_is_left_empty_goes_again(tmp_path: Path) -> None:
    def work() -> common.Summary:
        raise UserError("nothing to do")

    with pytest.raises(UserError, match="nothing to do"):
        common.run_alone("annotate", tmp_path / "out", work)
    assert not (tmp_path / "out").exists()


def test_a_missing_permission_names_the_place_and_the_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(arguments: object) -> int:
        raise PermissionError(13, "Permission denied", "/there/out")

    monkeypatch.setattr(COMMANDS["report"], "run", refused)
    assert main(["report", "run"]) == 1
    said = capsys.readouterr().err
    assert "no permission for /there/out: " in said
    assert "the same command goes on" not in said
