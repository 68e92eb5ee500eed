"""Folders of weights that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerlm.checkpoint.weights import whole_folder


def test_behind_a_link_the_folder_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "disk" / "kept").mkdir(parents=True)
    (tmp_path / "disk" / "kept" / "old").touch()
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "disk" / "kept")
    with whole_folder(link) as partial:
        (partial / "new").touch()
    assert link.is_symlink()
    assert [path.name for path in (tmp_path / "disk" / "kept").iterdir()] == ["new"]
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["kept"]


def test_the_working_directory_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with whole_folder(Path()) as partial:
        (partial / "new").touch()
    assert (tmp_path / "here" / "new").is_file()
