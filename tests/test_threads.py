"""The number of threads is chosen by speed, with a fake clock."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from steerlm import threads
from steerlm.attributes import OASST, Attribute, AttributeSchema
from steerlm.checkpoint.models import CheckpointInfo
from steerlm.conversation import Message
from steerlm.generation import decoding
from steerlm.generation.engine import LocalEngine, Request, Sampling
from steerlm.scorers.attribute_models import loaded_attribute_model
from steerlm.threads import ThreadChooser, candidates, thread_chooser
from tests.small_training import language_model, parameters, run, section, token_examples
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config


class Machine:
    """Takes some seconds for a token, by the number of threads; remembers which were set."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.seconds = seconds
        self.set: list[int] = []

    def train(self, chooser: ThreadChooser, steps: int, tokens: int = 100) -> None:
        for _ in range(steps):
            chooser.step(tokens, tokens * self.seconds(chooser.current))


def chooser_of(most: int, machine: Machine) -> ThreadChooser:
    return ThreadChooser(candidates(most, parameters=1000), machine.set.append, "training")


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        (lambda n: 1.0 / n, 8),  # a quiet machine
        (lambda n: float(n**2), 1),  # a busy one
        (lambda n: 1.0 + 0.05 * abs(n - 4), 4),
        (lambda n: 1.0 - 0.001 * n, 1),  # hardly any faster
    ],
)
def test_the_fastest_stays(
    seconds: Callable[[int], float], best: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(seconds)
    chooser = chooser_of(8, machine)
    monkeypatch.setattr(threads, "_said", set())
    with caplog.at_level(logging.INFO):
        machine.train(chooser, 400)
    assert machine.set == [2, 4, 8, best]
    assert chooser.threads == best
    said = [f"training with {best} thread(s)"] if best < 8 else []
    assert [record.getMessage().split(",")[0] for record in caplog.records] == said


@pytest.mark.parametrize(("most", "tried"), [(2, [1, 2]), (3, [1, 2, 3]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])])
def test_every_core_is_tried(most: int, tried: list[int]) -> None:
    machine = Machine(lambda n: 1.0 / n)
    machine.train(chooser_of(most, machine), 60)
    assert [1, *machine.set] == [*tried, most]


def test_it_is_chosen_again_when_speed_collapses() -> None:
    machine = Machine(lambda n: 1.0 / n)
    chooser = chooser_of(4, machine)
    machine.train(chooser, 100)
    assert chooser.threads == 4
    machine.seconds = lambda n: 0.3 / n + 0.1  # slower, but not by half
    machine.train(chooser, 100)
    assert machine.set == [2, 4, 4]
    machine.seconds = lambda n: float(n**2)
    machine.train(chooser, 100)
    assert machine.set == [2, 4, 4, 1, 2, 4, 1]
    assert chooser.threads == 1


def test_the_first_step_of_each_number_does_not_count() -> None:
    chooser = chooser_of(2, Machine(lambda n: 1.0))
    for seconds in (0.1, 0.1, 0.1, 0.1, 1.9, 0.05, 0.05, 0.05):
        chooser.step(10, seconds)
    assert chooser.threads == 2


def test_tiny_steps_are_measured_for_longer_and_huge_ones_once() -> None:
    tiny = chooser_of(2, Machine(lambda n: 1.0))
    for _ in range(20):
        tiny.step(1, 0.001)
    assert tiny.current == 1
    huge = chooser_of(2, Machine(lambda n: 1.0))
    for seconds in (60, 30):
        huge.step(1, seconds)
    assert huge.threads == 2


def test_a_collapse_of_slow_steps_is_seen_at_once() -> None:
    machine = Machine(lambda n: 0.3 / n)
    chooser = chooser_of(2, machine)
    machine.train(chooser, 40, tokens=1)
    assert chooser.threads == 2
    machine.seconds = lambda n: 20.0 * n
    machine.train(chooser, 3, tokens=1)
    assert chooser.threads == chooser.current == 1


def test_more_threads_are_tried_again_once_other_programs_may_have_ended() -> None:
    machine = Machine(lambda n: 0.01 * (1 if n == 1 else 20))
    chooser = chooser_of(2, machine)
    machine.train(chooser, 5000, tokens=1)
    assert chooser.threads == chooser.current == 1
    tries = machine.set.count(2)
    assert 2 <= tries < 10, "at a twentieth of the time"
    machine.seconds = lambda n: 0.01 / n
    machine.train(chooser, 5000, tokens=1)
    assert chooser.threads == 2


def test_a_choice_that_is_close_is_final() -> None:
    machine = Machine(lambda n: 0.01 * (1 if n == 1 else 1.1))
    chooser = chooser_of(2, machine)
    machine.train(chooser, 5000, tokens=1)
    assert machine.set == [2, 1]


def test_a_large_model_computes_with_half_of_the_cores_or_all() -> None:
    assert candidates(64, parameters=1_000_000_000) == [32, 64]
    assert candidates(2, parameters=1_000_000_000) == [1, 2]


def test_what_a_person_said_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    model = language_model()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert thread_chooser(model, "training") is not None
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert thread_chooser(model, "training") is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert thread_chooser(model, "training") is None


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of threads that are set while two are there and it is ours to choose."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    tried: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", tried.append)
    yield tried
    monkeypatch.undo()
    torch.set_num_threads(before)


def test_a_training_chooses_and_leaves_the_process_as_it_was(tmp_path: Path, tried: list[int]) -> None:
    model = language_model()
    run(section(max_steps=20), model, token_examples(48), tmp_path / "chosen")
    assert tried[:2] == [1, 2]
    assert tried[-1] == 2
    tried.clear()
    whole = language_model()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "2")
        run(section(max_steps=20), whole, token_examples(48), tmp_path / "one")
    assert not tried
    for name, value in parameters(model).items():
        torch.testing.assert_close(value, parameters(whole)[name], rtol=1e-4, atol=1e-5)


def test_sampling_chooses_by_the_steps_in_which_no_row_enters(
    tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()  # every step takes as long
    monkeypatch.setattr(decoding, "time", SimpleNamespace(perf_counter=lambda: 0.1 * next(ticks)))
    tokenizer = byte_tokenizer(OASST)
    local = LocalEngine(random_model(tiny_llama_config(len(tokenizer))), tokenizer, OASST, batch_size=2)
    requests = [Request((Message("user", "Hi"),), {"quality": 4}, seed=i) for i in range(4)]
    answers = local.generate(requests, Sampling(max_new_tokens=20))
    assert tried == [1, 2, 1, 2], "each is tried, two are no faster, and afterwards it is as before"
    tried.clear()
    assert local.generate(requests, Sampling(max_new_tokens=20)) == answers
    assert tried == [1, 2]


def test_reading_chooses_by_batch(tried: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_SECONDS", (0.0, 2.0))
    schema = AttributeSchema((Attribute("quality"), Attribute("humor")))
    tokenizer = byte_tokenizer(schema)
    config = tiny_llama_config(len(tokenizer))
    config.num_labels, config.problem_type, config.pad_token_id = 2, "regression", tokenizer.pad_token_id
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    info = CheckpointInfo("regression", schema, "steerlm", True, {}, {"max_length": 512})
    loaded = loaded_attribute_model(model, tokenizer, info, "abcd", "fp32")
    turns = [(Message("user", "Hi"), Message("assistant", "Ho! " * n)) for n in range(1, 13)]
    scores = loaded.score(turns, tokens_per_batch=40)
    assert tried[:2] == [1, 2]
    assert tried[-1] == 2
    assert loaded.score(turns, tokens_per_batch=40) == scores


def test_batches_that_fail_leave_the_process_as_it_was(tried: list[int]) -> None:
    def fail() -> None:
        for _ in threads.paced([1, 2], thread_chooser(language_model(), "reading"), int):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert tried == [1, 2]
