"""Batch 8 = 1 x 8 accumulation = other buckets = resumed: compared on loss and parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from steerlm.batching.batches import count_batches
from steerlm.checkpoint.adapters import add_lora
from steerlm.config import LoraSection
from tests.small_training import (
    Killed,
    kill_at,
    language_model,
    logged,
    parameters,
    rated_examples,
    regressor,
    run,
    section,
    token_examples,
)

CASES: dict[str, tuple[Callable[[], Any], Callable[[int], Any]]] = {
    "language model": (language_model, token_examples),
    "regression with missing labels": (regressor, rated_examples),
}


def grouped(case: str, tokens_per_batch: int, out: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train six epochs of one step each on eight examples, in as many batches per step as the budget makes."""
    make_model, make_examples = CASES[case]
    examples = make_examples(8)
    batches = count_batches(examples.lengths, tokens_per_batch)
    config = section(
        epochs=6,
        tokens_per_batch=tokens_per_batch,
        gradient_accumulation_steps=batches,
        learning_rate=2e-4,
        eval_steps=3,
    )
    model = make_model()
    run(config, model, examples, out)
    return [loss for _, loss in logged(out, "loss")], parameters(model)


@pytest.mark.parametrize("case", CASES)
def test_any_grouping_of_a_step_gives_the_same_training(case: str, tmp_path: Path) -> None:
    examples = CASES[case][1](8)
    counts = {count_batches(examples.lengths, budget) for budget in (1000, 90, 16)}
    assert len(counts) == 3
    assert {1, 8} < counts
    losses, weights = grouped(case, 1000, tmp_path / "one")
    assert len(losses) == 3
    for budget in (90, 16):
        other_losses, other_weights = grouped(case, budget, tmp_path / str(budget))
        assert other_losses == pytest.approx(losses, rel=1e-6)
        for name, value in weights.items():
            torch.testing.assert_close(other_weights[name], value, rtol=0, atol=1e-6, msg=name)


# dropout makes the result depend on the state of the random numbers too
DROPOUT = 0.2
INTERRUPTED = section(epochs=2, eval_steps=4, gradient_accumulation_steps=2, tokens_per_batch=128)


class Whole(NamedTuple):
    """A training that nothing interrupted."""

    summary: dict[str, Any]
    weights: dict[str, torch.Tensor]
    folder: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    model, folder = language_model(DROPOUT), tmp_path_factory.mktemp("whole")
    return Whole(run(INTERRUPTED, model, token_examples(90), folder), parameters(model), folder)


@pytest.mark.parametrize("kill", [1, 4, 9, 14])
def test_a_killed_run_ends_with_the_same_bits(
    kill: int, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = token_examples(90)
    assert whole.summary["steps"] > 14
    with monkeypatch.context() as patch:
        kill_at(kill, patch)
        with pytest.raises(Killed):
            run(INTERRUPTED, language_model(DROPOUT), examples, tmp_path)
    resumed = language_model(DROPOUT)
    assert run(INTERRUPTED, resumed, examples, tmp_path) == whole.summary
    assert all(torch.equal(value, parameters(resumed)[name]) for name, value in whole.weights.items())
    for key in ("loss", "eval_loss", "learning_rate", "grad_norm"):
        assert list(logged(tmp_path, key)) == list(logged(whole.folder, key))


def test_a_killed_lora_run_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = section(epochs=1, eval_steps=2)
    examples = token_examples(60)

    def adapted() -> Any:
        return add_lora(language_model(), LoraSection(rank=2, dropout=0.2), [250, 251])

    whole = adapted()
    summary = run(config, whole, examples, tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(4, patch)
        with pytest.raises(Killed):
            run(config, adapted(), examples, tmp_path / "killed")
    resumed = adapted()
    assert run(config, resumed, examples, tmp_path / "killed") == summary
    assert all(torch.equal(value, parameters(resumed)[name]) for name, value in parameters(whole).items())


def test_killed_before_the_best_weights_were_loaded(tmp_path: Path) -> None:
    config = section(epochs=1)
    examples = token_examples(30)
    model = language_model()
    summary = run(config, model, examples, tmp_path)
    again = language_model()
    assert run(config, again, examples, tmp_path) == summary
    assert all(torch.equal(value, parameters(again)[name]) for name, value in parameters(model).items())
