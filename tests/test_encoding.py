"""What a tokenizer's private copy costs; what it encodes is tested with the templates."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import pytest

from steerlm.encoding import _return_freed_memory

_STATUS = Path("/proc/self/statm")


def _resident_bytes() -> int:
    return int(_STATUS.read_text(encoding="utf-8").split()[1]) * resource.getpagesize()


@pytest.mark.skipif(
    not (_STATUS.is_file() and hasattr(ctypes.CDLL(None), "malloc_trim")),
    reason="the C library keeps or gives by itself",
)
def test_what_a_vocabulary_took_is_given_back() -> None:
    """What is freed below a block that stays is kept by the C library until it is asked."""
    words = [bytes(600) for _ in range(100_000)]
    stays = words[-1]
    del words
    before = _resident_bytes()
    _return_freed_memory()
    assert before - _resident_bytes() > 40e6, "of 60 MB"
    assert len(stays) == 600
