"""Model self-identification (M-SID): dialogues in which the assistant says who it is, in the ShareGPT layout.

The paper adds 910 such pairs so that the model answers questions about itself truthfully. The name of the assistant
and of its maker stand in the data: use a file made for your own model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from steerlm.sources import sharegpt
from steerlm.sources.draft import Draft, Labels


def convert(row: Any, labels: Labels) -> Iterator[Draft]:
    """Yield the one conversation of a row; see `sharegpt.convert`."""
    return sharegpt.convert(row, labels)
