"""How numbers and texts from data are written in a report, in HTML and in Markdown."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

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


def shade(value: float | None, full: float = 1.0) -> str:
    """Return the background of a heat-map cell: blue up, orange down, on light and dark pages alike."""
    if value is None or not math.isfinite(value):
        return "transparent"
    strength = min(abs(value) / full, 1.0)
    return f"rgb({'66 120 220' if value > 0 else '226 120 40'} / {0.75 * strength:.2f})"


def markdown_text(text: object) -> str:
    """Escape text for a line or a table cell of Markdown."""
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(" ".join(str(text).split()), quote=False))
    return re.sub(r"^([#+>-]|\d+[.)])", r"\\\1", escaped)


def markdown_quote(text: str) -> str:
    """Return text as a block quote of Markdown."""
    lines: Sequence[str] = text.strip().splitlines() or [""]
    return "\n".join(f"> {markdown_text(line)}" for line in lines)


def inline_code(text: str) -> Markup:
    """Return text for HTML in which `code` between backticks is marked as such."""
    pieces = [escape(piece) for piece in text.split("`")]
    if len(pieces) % 2 == 0:  # a backtick without its partner is just a backtick
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(pieces))


def estimate_text(estimate: Estimate | None, digits: int = 2) -> str:
    """Format an estimate with its interval in brackets, or with the reason why there is none."""
    if estimate is None:
        return DASH
    text = number(estimate.value, digits)
    if estimate.has_interval:
        return f"{text} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"
    return f"{text} ({estimate.note})" if estimate.note else text
