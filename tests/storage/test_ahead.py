"""Other processes prepare what comes next: order, mistakes, and that nothing stays behind."""

from __future__ import annotations

import gc
import os
import signal
import time
from multiprocessing.process import BaseProcess
from typing import Any

import psutil
import pytest
import torch

from steerlm.errors import UserError
from steerlm.storage.ahead import read_ahead
from tests import processes


def test_results_come_in_order_from_other_processes() -> None:
    found = list(read_ahead(lambda number: (number, os.getpid()), range(3, 20)))
    assert [number for number, _ in found] == list(range(3, 20))
    assert os.getpid() not in {process for _, process in found}
    assert list(read_ahead(str, range(0))) == []
    assert list(read_ahead(str, range(7, 8))) == ["7"]


def test_a_mistake_is_raised_in_its_turn() -> None:
    def load(number: int) -> int:
        if number == 3:
            raise UserError("data.jsonl:3: what is wrong")
        return number

    found = read_ahead(load, range(10))
    assert [next(found), next(found), next(found)] == [0, 1, 2]
    with pytest.raises(UserError, match=r"^data\.jsonl:3: what is wrong$"):
        next(found)


def test_an_error_of_the_program_is_raised_with_its_place() -> None:
    def load(number: int) -> float:
        return 1 / number

    with pytest.raises(ZeroDivisionError, match="division by zero"):
        list(read_ahead(load, range(5)))


def test_random_numbers_drawn_elsewhere_do_not_change() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    list(read_ahead(str, range(5)))
    assert torch.equal(torch.rand(3), expected)


def test_one_that_is_left_to_the_collector_tells_its_processes_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()  # what a traceback of another test has kept is not looked at here
    terminate, killed = BaseProcess.terminate, []

    def kill(process: BaseProcess) -> None:
        killed.append(process)
        terminate(process)

    monkeypatch.setattr(BaseProcess, "terminate", kill)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 120)  # then it is killed
    monkeypatch.setattr("torch.utils.data._utils.worker.MP_STATUS_CHECK_INTERVAL", 1e6)  # then it would look around
    circle: list[Any] = [read_ahead(str, range(10))]
    assert next(circle[0]) == "0"
    circle.append(circle)
    del circle
    gc.collect()
    assert killed == []


_ENDLESS = """
import os, signal, sys, time
from steerlm.storage.ahead import read_ahead

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
for process in read_ahead(lambda number: os.getpid(), range(1000)):
    print(process, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_other_process_ends_with_this_one(how: signal.Signals) -> None:
    started, printed = processes.talk(["-c", _ENDLESS])
    reader = psutil.Process(int(printed.readline()))
    assert started.pid is not None
    os.kill(started.pid, how)
    printed.close()
    started.join(30)
    assert started.exitcode not in (0, None)
    deadline = time.monotonic() + 30  # after SIGKILL it looks for its parent every few seconds
    while reader.is_running() and reader.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE
