"""Tables on the terminal, and estimates in their cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(
    console: Console, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1
) -> None:
    """Print a table; what stands in it is shown as it is.

    Args:
        rows: one text per column; missing ones are empty.
        words: so many columns are words, on the left; the others are figures.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number < words else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(Text(title), highlight=False)  # as a title of the table it would be as narrow as that
    console.print(table)


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
