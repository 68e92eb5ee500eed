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


def shown(width: int, columns: list[str], rows: list[list[str]]) -> str:
    console = Console(file=io.StringIO(), width=width)
    print_table(console, "t", columns, rows)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_word_of_a_table_is_broken_at_80_columns() -> None:
    levels, own = "  0   1   2   3   4", "the dial's own measure (exact)"
    columns = [
        "attribute",
        f"obtained for\n{levels}",
        "Spearman",
        "error\n(levels)",
        "largest\nside effect",
        "measured by",
    ]
    rows = [
        ["length", "2.2 2.2 2.2 2.2 2.2", "0.00", "1.28", "0.00 reading_grade", own],
        ["reading_grade", "4.0 4.0 4.0 4.0 4.0", "0.00", "2.00", "0.00 length", own],
    ]
    told = shown(80, columns, rows)
    assert max(map(len, told.splitlines())) <= 80
    for whole in (levels, "4.0 4.0 4.0 4.0 4.0", "reading_grade", "measure", "(levels)"):
        assert whole in told
    assert told.count("reading_grade") == 2
    wide = shown(200, columns, rows)
    assert "0.00 reading_grade   the dial's own measure (exact)" in wide
    plan = ["train_attribute_model", "104.9 M", "39.8 k", "~24.3 GiB", "yes", "124,928", "~33 min", "1,234.50"]
    told = shown(80, ["stage", "tokens", "model", "memory", "fits", "max batch", "time", "cost"], [plan])
    assert max(map(len, told.splitlines())) <= 80
    assert "train_attribute_model" in told


def test_a_table_wider_than_the_terminal_loses_nothing() -> None:
    told = shown(20, ["a", "b"], [["x" * 30, "y" * 30]])
    assert (told.count("x"), told.count("y")) == (30, 30)
    assert max(map(len, told.splitlines())) <= 20
    assert "\u65e5\u672c\u8a9e" in shown(20, ["a", "b"], [["\u65e5\u672c\u8a9e", "1"]])
