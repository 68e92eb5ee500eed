"""Who may read a folder may read the weights in it, whatever wrote them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from steerlm.checkpoint.adapters import add_lora, merge_adapter
from steerlm.config.recipe import LoraSection
from steerlm.exporting.export import export
from tests.exporting.models import steerable
from tests.small_training import TOKENIZER, run, section, token_examples
from tests.tiny import random_model, tiny_llama_config

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    """Sets the umask; gives the mode of a new file."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def modes(folder: Path) -> set[int]:
    found = list(folder.rglob("*.safetensors"))
    assert found
    return {stat.S_IMODE(path.stat().st_mode) for path in found}


def test_checkpoints_and_exports(mode: int, tmp_path: Path) -> None:
    assert modes(steerable(tmp_path / "model")) == {mode}
    export(tmp_path / "model", tmp_path / "out")
    assert modes(tmp_path / "out") == {mode}


def test_an_adapter(mode: int, tmp_path: Path) -> None:
    model = add_lora(random_model(tiny_llama_config(len(TOKENIZER))), LoraSection(rank=2), [])
    merge_adapter(model, tmp_path / "adapter", TOKENIZER)
    assert modes(tmp_path / "adapter") == {mode}


def test_checkpoints_of_a_training(mode: int, tmp_path: Path) -> None:
    model = random_model(tiny_llama_config(len(TOKENIZER)))
    run(section(max_steps=2), model, token_examples(8), tmp_path / "out")
    assert modes(tmp_path / "out" / "checkpoints") == {mode}
