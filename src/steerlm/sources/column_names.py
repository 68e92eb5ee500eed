"""What columns are usually called, and which of them a name means."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from steerlm.errors import shell_word

PROMPTS = ("prompt", "question", "query", "instruction", "input", "user", "player", "human", "context", "request")
RESPONSES = (
    "response", "answer", "reply", "output", "completion", "assistant", "bot", "npc_reply", "npc_response",
    "target", "gpt",
)  # fmt: skip
SYSTEMS = ("system", "system_prompt", "persona", "npc", "character", "speaker", "role")
OTHERS = ("id", "group", "split", "index", "timestamp", "date", "source", "weight", "train", "trainable")
_PARTS = {"prompt": PROMPTS, "response": RESPONSES}


def plain_name(column: str) -> str:
    """Return a column's name as an attribute's: lower-case letters, digits, underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", column.strip().lower()).strip("_")
    return name if name[:1].isalpha() else f"a_{name}".rstrip("_")


def by_name(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the column whose name is one of these, or begins or ends with one."""
    plain = {column: plain_name(column) for column in columns}
    for name in names:
        for column in plain:
            if plain[column] == name:
                return column
    for name in names:
        for column in plain:
            words = plain[column].split("_")
            if name in (words[0], words[-1]):
                return column
    return None


def exchange_remedy(columns: Sequence[str]) -> str:
    """Return how `--columns` says which columns hold the prompt and the response; empty where no name tells."""
    pairs = []
    for part, names in _PARTS.items():
        if part in columns:
            continue
        column = by_name((name for name in columns if name not in _PARTS), names)
        if column is None:
            return ""
        pairs.append(f"{part}={column}")
    return f"--columns {shell_word(','.join(pairs))}" if pairs else ""
