"""A worker in a process of its own: the same tokens, and an end to both sides however one of them ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from steerlm.attributes import OASST
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.checkpoint.models import save_model
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.engine import LocalEngine, Request, Sampling, load_engine, said
from steerlm.generation.online import Scheduler, SchedulerStopped
from steerlm.generation.requests import Draw
from steerlm.generation.worker import Worker, process_worker
from tests import processes
from tests.thread_worker import thread_worker
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

PARENT = """
import sys, time
from steerlm.generation.online import Scheduler
from steerlm.generation.worker import process_worker
if __name__ == "__main__":
    worker = process_worker(sys.argv[1], 4)
    Scheduler(worker, 4)
    print(worker.body.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = byte_tokenizer(OASST)
    path = tmp_path_factory.mktemp("worker") / "model"
    model = random_model(tiny_llama_config(len(tokenizer), 60_000), 5, 0.25)
    save_model(path, model, tokenizer, CheckpointInfo("sft", OASST, "steerlm"), "card")
    return path


@pytest.fixture(scope="module")
def engine(folder: Path) -> LocalEngine:
    return load_engine(folder, batch_size=4)


@pytest.fixture(scope="module")
def started(folder: Path) -> Iterator[tuple[Scheduler, Worker]]:
    with pytest.MonkeyPatch.context() as patch:
        processes.copied(patch)
        worker = process_worker(folder, batch_size=4)
    scheduler = Scheduler(worker, max_waiting=50)
    yield scheduler, worker
    scheduler.close()
    assert isinstance(worker.body, BaseProcess)
    assert worker.body.exitcode in (0, -signal.SIGKILL)


def rows_of(engine: LocalEngine, number: int, tokens: int = 20) -> list[Draw]:
    request = Request((Message("user", f"Question {number}"),), {"humor": number % 5}, 1 + number % 2, seed=number)
    sampling = Sampling(tokens, temperature=number % 2)
    return engine.draws(request, sampling, said(request.messages), 3 if number % 3 else None)


def submit(scheduler: Scheduler, rows: list[Draw]) -> threading.Event:
    told = threading.Event()
    scheduler.submit(rows, lambda: all(row.done for row in rows) and told.set())
    return told


def test_another_process_draws_the_same_tokens(engine: LocalEngine, started: tuple[Scheduler, Worker]) -> None:
    scheduler, _ = started
    groups = [rows_of(engine, number) for number in range(8)]
    for told in [submit(scheduler, rows) for rows in groups]:
        assert told.wait(60)
    for number, rows in enumerate(groups):
        alone = rows_of(engine, number)
        decoder = engine.decoder()
        decoder.add(alone)
        while decoder.busy:
            decoder.step()
        assert [row.tokens for row in rows] == [row.tokens for row in alone]
        assert [row.stopped for row in rows] == [row.stopped for row in alone]
        for row, other in zip(rows, alone, strict=True):
            assert len(row.logprobs) == (len(row.tokens) if number % 3 else 0)
            assert [p.drawn for p in row.logprobs] == pytest.approx([p.drawn for p in other.logprobs], abs=1e-4)


def test_a_killed_process_is_told(engine: LocalEngine, started: tuple[Scheduler, Worker]) -> None:
    scheduler, worker = started
    rows = rows_of(engine, 4, 50_000)
    told = threading.Event()
    scheduler.submit(rows, lambda: None if scheduler.running else told.set())
    assert isinstance(worker.body, BaseProcess)
    assert worker.body.pid is not None
    os.kill(worker.body.pid, signal.SIGKILL)
    assert told.wait(60)
    assert not any(row.done for row in rows)
    with pytest.raises(SchedulerStopped):
        scheduler.submit(rows_of(engine, 0), lambda: None)


def test_a_model_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes.copied(monkeypatch)
    worker = process_worker(tmp_path / "none", batch_size=4)
    with pytest.raises(UserError, match="none"):
        Scheduler(worker, max_waiting=4)
    worker.body.join()


def test_the_worker_ends_with_the_process_that_started_it(folder: Path) -> None:
    parent, printed = processes.talk(["-c", PARENT, str(folder)])
    pid = int(printed.readline())
    parent.kill()
    parent.join()
    printed.close()
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it goes on for nobody"
        time.sleep(0.02)


@pytest.mark.parametrize("pause", [0.0, 1000.0])
def test_growth_is_told_now_and_then_and_ends_at_once(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    monkeypatch.setattr("steerlm.generation.worker._PAUSE_S", pause)
    told: list[int] = []
    scheduler = Scheduler(thread_worker(engine.decoder()), max_waiting=4)
    [row] = engine.draws(Request((Message("user", "Hi"),), None, seed=3), Sampling(100, temperature=1), 0)
    done = threading.Event()

    def notify() -> None:
        told.append(len(row.tokens))
        if row.done:
            done.set()

    scheduler.submit([row], notify)
    assert done.wait(60)
    scheduler.close()
    assert len(row.tokens) > 5
    assert told == ([1, len(row.tokens)] if pause else list(range(1, len(row.tokens) + 1)))
