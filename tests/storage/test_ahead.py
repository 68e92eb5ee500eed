"""Other processes prepare what comes next: order, mistakes, and that nothing stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from steerlm.errors import UserError
from steerlm.storage.ahead import read_ahead


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


_ENDLESS = """
import os, signal, sys, time
from steerlm.storage.ahead import read_ahead

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
for process in read_ahead(lambda number: os.getpid(), range(1000)):
    print(process, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_other_process_ends_with_this_one(how: signal.Signals, tmp_path: Path) -> None:
    with (tmp_path / "errors").open("w") as errors:
        started = subprocess.Popen([sys.executable, "-c", _ENDLESS], stdout=subprocess.PIPE, stderr=errors, text=True)
        assert started.stdout is not None
        reader = psutil.Process(int(started.stdout.readline()))
        started.send_signal(how)
        started.stdout.close()
        assert started.wait(30) != 0
    deadline = time.monotonic() + 30  # after SIGKILL it looks for its parent every few seconds
    while reader.is_running() and reader.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not reader.is_running() or reader.status() == psutil.STATUS_ZOMBIE
