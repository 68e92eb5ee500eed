"""Shared fixtures: where the real data and models lie, and one thread per test process."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real data beside the checkout; skips where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED / 'data'}")
    return SHARED / "data"


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder of real checkpoints beside the checkout; skips where it is absent."""
    if not (SHARED / "models").is_dir():
        pytest.skip(f"no real models at {SHARED / 'models'}")
    return SHARED / "models"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' endpoints listen on the loopback interface: a proxy of the environment could not reach it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
