"""The line that stands below a finished stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steerlm.commands.summaries import print_summary


def test_pairs_leave_out_what_there_is_none_of(capsys: pytest.CaptureFixture[str]) -> None:
    summary: dict[str, Any] = {"pairs": 2, "texts": 1, "kinds": {"edit": 2}, "moved": {"1": 2}, "same_way": {}}
    print_summary("pairs", summary, Path())
    assert capsys.readouterr().out == "2 pairs of 1 texts (2 edit); attributes that move, by number: 1: 2\n"
    print_summary("pairs", {**summary, "same_way": {"a, b": 0.5}}, Path())
    assert capsys.readouterr().out.endswith("1: 2; the same way where both move: a, b 50%\n")
