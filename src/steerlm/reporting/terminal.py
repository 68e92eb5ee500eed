"""Tables on the terminal, and estimates in their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

_GAP, _NARROW_GAP = 3, 2
"""Columns of the terminal between two columns of a table, and where it would not fit otherwise."""


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> None:
    """Print a table; what stands in it is shown as it is, and no word is broken as long as all of them fit.

    Args:
        rows: one text per column; missing ones are empty.
        words: so many columns are words, on the left; the others are figures.
    """
    rows = list(rows)
    texts = [[column, *(row[number] for row in rows if number < len(row))] for number, column in enumerate(columns)]
    gaps, between = len(columns) - 1, _GAP
    if sum(_widest(of, _lines) for of in texts) + between * gaps > console.width:
        between = _NARROW_GAP
    widths = _widths(texts, console.width - between * gaps)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, between - 2))
    for number, (column, width) in enumerate(zip(columns, widths, strict=True)):
        justify: Literal["left", "right"] = "left" if number < words else "right"
        table.add_column(Text(column), justify=justify, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(Text(title), highlight=False)  # as a title of the table it would be as narrow as that
    console.print(table)


def _widths(texts: Sequence[Sequence[str]], room: int) -> list[int]:
    """Return how wide columns may be: as wide as their lines, else what wraps is wrapped, the widest first."""
    widths = [_widest(of, _lines) for of in texts]
    # first what was arranged in lines stays so, then words stay whole, at last nothing but the room counts
    for unbroken in (_arranged, str.split, None):
        least = [1 if unbroken is None else _widest(of, unbroken) for of in texts]
        while sum(widths) > room and widths != least:
            spare = [width - small for width, small in zip(widths, least, strict=True)]
            widths[spare.index(max(spare))] -= 1
    return widths


def _widest(texts: Iterable[str], pieces: Callable[[str], Sequence[str]]) -> int:
    return max((cell_len(piece) for text in texts for piece in pieces(text)), default=1) or 1


def _lines(text: str) -> list[str]:
    return text.split("\n")


def _arranged(text: str) -> list[str]:
    """Return what must not be wrapped: the lines of a text that has several, else its words."""
    return _lines(text) if "\n" in text else text.split()


def estimate_cell(
    estimate: Mapping[str, object] | None,
    *,
    digits: int = 2,
    percent: bool = False,
    signed: bool = False,
    unit: str = "",
    notes: dict[str, None] | None = None,
) -> str:
    """Return `0.56 [0.51, 0.61]`, or the value alone; empty where there is no estimate.

    Args:
        estimate: in its JSON form.
        digits: after the point.
        percent: the values are shares; shown in percent, without the sign.
        signed: show a plus.
        notes: collects why an interval is missing; the cell then ends with the note's number.
    """
    if estimate is None:
        return ""
    form = f"{'+' if signed else ''}.{digits}f"
    value, low, high = (_figure(estimate[key], form, 100 if percent else 1, unit) for key in ("value", "low", "high"))
    if estimate["low"] is not None:
        return f"{value} [{low}, {high}]"
    if notes is None:
        return value
    note = str(estimate.get("note", "no interval"))
    notes.setdefault(note)
    return f"{value} ({list(notes).index(note) + 1})"


def _figure(value: object, form: str, scale: int, unit: str) -> str:
    return format(scale * value, form) + unit if isinstance(value, int | float) else "–"
