"""Rows of new tokens learn faster; what is trained beside them does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from steerlm.training.new_rows import FASTER
from tests.small_training import Killed, kill_at, language_model, parameters, run, section, token_examples

NEW = (7, 203)
EMBEDDING = "model.embed_tokens.weight"


def test_one_step_moves_new_rows_ten_times_as_far_and_nothing_else(tmp_path: Path) -> None:
    before = parameters(language_model())
    moved = []
    for new_ids in ((), NEW):
        model = language_model()
        config = section(max_steps=1, warmup_steps=0, weight_decay=0.0, tokens_per_batch=4096)
        run(config, model, token_examples(60), tmp_path / str(len(new_ids)), new_ids=new_ids)
        moved.append({name: value - before[name] for name, value in parameters(model).items()})
    plain, faster = moved
    rows = list(NEW)
    assert plain[EMBEDDING][rows].abs().min() > 0
    torch.testing.assert_close(faster[EMBEDDING][rows], FASTER * plain[EMBEDDING][rows], rtol=1e-4, atol=1e-7)
    plain[EMBEDDING][rows] = faster[EMBEDDING][rows] = 0
    for name, value in plain.items():
        assert torch.equal(faster[name], value), name


def test_an_interrupted_training_ends_like_one_that_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = section(epochs=3, eval_steps=2)
    whole = language_model()
    run(config, whole, token_examples(30), tmp_path / "whole", new_ids=NEW)
    with monkeypatch.context() as patch:
        kill_at(6, patch)
        with pytest.raises(Killed):
            run(config, language_model(), token_examples(30), tmp_path / "again", new_ids=NEW)
    again = language_model()
    run(config, again, token_examples(30), tmp_path / "again", new_ids=NEW)
    found = parameters(again)
    assert all(torch.equal(value, found[name]) for name, value in parameters(whole).items())
