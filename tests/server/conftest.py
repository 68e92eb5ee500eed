"""One server for all tests that do not change it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.running import Running, running, tiny_service


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """An open server without a policy."""
    with running(tiny_service()) as started:
        yield started
