"""How numbers and texts from data are written in a report."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Mapping, Sequence

from steerlm.statistics.estimates import Estimate

MINUS = "\N{MINUS SIGN}"
DASH = "\N{EN DASH}"


def number(value: float | None, digits: int = 2) -> str:
    """Format a number with a proper minus sign; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.removeprefix("-")  # no "-0.00"
    return text.replace("-", MINUS)


def percent(value: float | None, digits: int = 0) -> str:
    """Format a share in percent."""
    return DASH if value is None or not math.isfinite(value) else f"{number(100 * value, digits)} %"


def interval_text(estimate: Estimate | None, digits: int = 2) -> str:
    """Format an estimate with its interval in brackets: `1020 [984, 1055]`."""
    return DASH if estimate is None else number(estimate.value, digits) + _brackets(estimate, digits)


def _brackets(estimate: Estimate, digits: int, scale: int = 1) -> str:
    """Format the interval of an estimate; nothing where it has none."""
    if not estimate.has_interval:
        return ""
    return f" [{number(scale * estimate.low, digits)}, {number(scale * estimate.high, digits)}]"


def estimate_text(estimate: Estimate | None, digits: int = 2) -> str:
    """Format an estimate with its interval, or with the reason why there is none."""
    text = interval_text(estimate, digits)
    return text if estimate is None or estimate.has_interval or not estimate.note else f"{text} ({estimate.note})"


def share_text(estimate: Estimate | None, digits: int = 0) -> str:
    """Format a share with its interval in percent: `55 % [47, 63]`."""
    return DASH if estimate is None else percent(estimate.value, digits) + _brackets(estimate, digits, 100)


def shade(value: float | None, full: float = 1.0) -> str:
    """Return the background of a heat-map cell: blue up, orange down, on light and dark pages alike."""
    if value is None or not math.isfinite(value):
        return "transparent"
    strength = min(abs(value) / full, 1.0)
    return f"rgb({'66 120 220' if value > 0 else '226 120 40'} / {0.75 * strength:.2f})"


def markdown_text(text: object) -> str:
    """Escape text for a line or a table cell of Markdown."""
    return _at_the_start(_escaped(" ".join(str(text).split())))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(text, quote=False))


def _at_the_start(text: str) -> str:
    """Escape what would make a heading, a list, a quote or a rule of a line."""
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", re.sub(r"^([#+>=-])", r"\\\1", text))


def markdown_lines(text: str) -> str:
    """Escape text for a paragraph of Markdown; its lines stay apart."""
    return "\\\n".join(markdown_text(line) for line in text.strip().splitlines())


def markdown_quote(text: str) -> str:
    """Return text as a block quote of Markdown; its lines stay apart."""
    lines = text.strip().splitlines() or [""]
    out = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        broken = "\\" if line.strip() and following.strip() else ""
        out.append(f"> {markdown_text(line)}{broken}".rstrip())
    return "\n".join(out)


def markdown_code(text: str) -> str:
    """Escape a line of Markdown in which `code` between backticks is meant as such."""
    pieces = " ".join(text.split()).split("`")
    if len(pieces) % 2 == 0:  # a backtick without its partner is just a backtick
        return markdown_text(text)
    return _at_the_start("".join(f"`{p}`" if i % 2 else _escaped(p) for i, p in enumerate(pieces)))


def fenced(text: str, language: str) -> str:
    """Return a block of code; its fence is longer than any in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table of cells that are Markdown already."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def count(value: float) -> str:
    """Format a count with its thousands apart."""
    return f"{value:,.0f}"


FORMATS: Mapping[str, Callable[..., str]] = {
    "num": number,
    "percent": percent,
    "est": estimate_text,
    "interval": interval_text,
    "share": share_text,
    "count": count,
    "md": markdown_text,
    "lines": markdown_lines,
    "quote": markdown_quote,
    "code": markdown_code,
    "fenced": fenced,
    "table": markdown_table,
}
"""The filters of the templates."""
