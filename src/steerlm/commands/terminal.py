"""The terminal that commands speak to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """Return the terminal; of several processes of one training, only the first one speaks."""
    from rich.console import Console

    return Console(quiet=os.environ.get("RANK", "0") != "0")


def note(mark: str, text: str) -> None:
    """Print a line behind a mark in rich's markup."""
    console().print(mark, end=" ")
    say(text)


def say(text: str) -> None:
    """Print a line as it is: no markup, no colours, not wrapped."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)
