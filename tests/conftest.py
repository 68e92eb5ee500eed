"""What holds for every test: one thread per process, no hub, reproducible examples, and where the real data lies."""

from __future__ import annotations

import functools
import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# also for the processes that tests start
os.environ["OMP_NUM_THREADS"] = "1"  # models this small only lose by more
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub, or waits for one that cannot be reached

import pytest
from hypothesis import HealthCheck, settings

from steerlm.planning import estimate

SHARED = Path(__file__).resolve().parents[2] / "shared"

# a busy machine is slower: that is nobody's mistake, and the same examples everywhere can be repeated anywhere
settings.register_profile(
    "suite", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("suite")


def pytest_collection_finish() -> None:
    """Keep what has been imported: every training collects garbage, and would look through all of it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data beside the checkout; skips where it is absent."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder of real checkpoints beside the checkout; skips where it is absent."""
    return _shared("models")


def _shared(kind: str) -> Path:
    if not (SHARED / kind).is_dir():
        pytest.skip(f"no ../shared/{kind} beside the checkout")
    return SHARED / kind


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' endpoints listen on the loopback interface: a proxy of the environment could not reach it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(autouse=True, scope="session")
def _measured_once() -> Iterator[None]:
    """How fast this machine is, a process of the tests measures once, not for every plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "this_machine", functools.cache(estimate.this_machine))
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many tests were skipped, and why."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
    if reasons:
        why = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common())
        terminalreporter.write_line(f"{reasons.total()} tests skipped: {why}")
