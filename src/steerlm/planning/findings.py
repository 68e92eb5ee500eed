"""What a look at a recipe's inputs found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """What was found: `problems` stop a run, `notes` do not."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
