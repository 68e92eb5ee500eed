from __future__ import annotations

import io

from rich.console import Console

from steerlm.reporting.terminal import estimate_cell, print_table


def test_a_table_shows_texts_as_they_are_and_loses_none_of_them() -> None:
    console = Console(file=io.StringIO(), width=40)
    name = "a [red]name[/red] that is longer than the terminal is wide"
    print_table(console, "[title]", ["", "n"], [[name, "12"], ["b"]])
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "[title]" in shown
    assert "".join(shown.split()).count("12") == 1
    for word in name.split():
        assert word in shown


def test_estimates_in_cells() -> None:
    known = {"value": 0.456, "low": 0.4, "high": 0.52}
    bare = {"value": 0.5, "low": None, "high": None, "note": "too few"}
    none = {"value": None, "low": None, "high": None}
    notes: dict[str, None] = {}
    assert estimate_cell(known) == "0.46 [0.40, 0.52]"
    assert estimate_cell(known, digits=0, percent=True, unit=" %") == "46 % [40 %, 52 %]"
    assert estimate_cell(known, signed=True) == "+0.46 [+0.40, +0.52]"
    assert [estimate_cell(row, notes=notes) for row in (bare, none, bare)] == ["0.50 (1)", "– (2)", "0.50 (1)"]
    assert list(notes) == ["too few", "no interval"]
    assert (estimate_cell(bare), estimate_cell(none), estimate_cell(None)) == ("0.50", "–", "")
