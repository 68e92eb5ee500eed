"""A checkpoint is converted for OpenVINO once, however many ask for it at the same time; the converter is a stub."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from steerlm.generation import openvino_conversion
from steerlm.generation.openvino_conversion import converted


def test_who_comes_second_takes_what_the_first_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def convert(path: Path, precision: str, folder: Path) -> None:
        calls.append(path)
        (folder / "first.bin").write_text("1")
        time.sleep(0.3)
        (folder / "second.bin").write_text("2")

    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(__version__="1"))
    monkeypatch.setattr(openvino_conversion, "_convert", convert)
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")

    def ask(_: int) -> list[str]:
        with converted(model, "fp32") as folder:
            return sorted(path.name for path in folder.iterdir())

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(ask, range(3)))
    assert found == [["first.bin", "second.bin", "steerlm_conversion.json"]] * 3
    assert len(calls) == 1
    (model / "model.safetensors").write_bytes(b"other weights")
    ask(0)
    assert len(calls) == 2, "of other weights it is made anew"
