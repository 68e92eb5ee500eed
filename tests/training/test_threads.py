"""The number of threads is chosen by speed, with a fake clock."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from steerlm.training import threads
from steerlm.training.threads import ThreadChooser, may_choose
from tests.small_training import language_model, parameters, run, section, token_examples


class Machine:
    """Takes some seconds for a token, by the number of threads; remembers which were set."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.set: list[int] = []

    def train(self, chooser: ThreadChooser, steps: int, tokens: int = 100) -> None:
        for _ in range(steps):
            chooser.step(tokens, tokens * self.seconds(self.set[-1]))


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda n: 1.0 / n, 8),  # a quiet machine
        (lambda n: float(n**2), 1),  # a busy one
        (lambda n: abs(n - 4) + 1.0, 4),
        (lambda n: 1.0 - 0.001 * n, 1),  # hardly any faster
    ],
)
def test_the_fastest_stays(seconds: Callable[[int], float], best: int, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine(seconds)
    chooser = ThreadChooser(8, machine.set.append)
    with caplog.at_level(logging.INFO):
        machine.train(chooser, 400)
    assert machine.set == [1, 2, 4, 8, best]
    assert chooser.threads == best
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [f"training with {best} thread(s)"]


@pytest.mark.parametrize(("most", "tried"), [(2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])])
def test_every_core_is_tried(most: int, tried: list[int]) -> None:
    machine = Machine(lambda n: 1.0 / n)
    machine.train(ThreadChooser(most, machine.set.append), 60)
    assert machine.set == [*tried, most]


def test_it_is_chosen_again_when_speed_collapses() -> None:
    machine = Machine(lambda n: 1.0 / n)
    chooser = ThreadChooser(4, machine.set.append)
    machine.train(chooser, 100)
    assert chooser.threads == 4
    machine.seconds = lambda n: 0.3 / n + 0.1  # slower, but not by half
    machine.train(chooser, 100)
    assert machine.set == [1, 2, 4, 4]
    machine.seconds = lambda n: float(n**2)
    machine.train(chooser, 100)
    assert machine.set == [1, 2, 4, 4, 1, 2, 4, 1]
    assert chooser.threads == 1


def test_the_first_step_of_each_number_does_not_count() -> None:
    chosen: list[int] = []
    chooser = ThreadChooser(2, chosen.append)
    for seconds in (1, 1, 1, 1, 100, 0.5, 0.5, 0.5):
        chooser.step(10, seconds)
    assert chooser.threads == 2


def test_what_a_person_said_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert may_choose(model)
    monkeypatch.setattr(threads, "SMALL", 100)
    assert not may_choose(model)
    monkeypatch.setattr(threads, "SMALL", 1 << 40)
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert not may_choose(model)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not may_choose(model)


def test_a_training_chooses_and_leaves_the_process_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = language_model()
    run(section(max_steps=20), whole, token_examples(48), tmp_path / "one")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    tried: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", tried.append)
    try:
        model = language_model()
        run(section(max_steps=20), model, token_examples(48), tmp_path / "chosen")
    finally:
        monkeypatch.undo()
        torch.set_num_threads(before)
    assert tried[:2] == [1, 2]
    assert tried[-1] == 2
    for name, value in parameters(model).items():
        torch.testing.assert_close(value, parameters(whole)[name], rtol=1e-4, atol=1e-5)
