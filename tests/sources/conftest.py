"""A source made of a few rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from steerlm.attributes import STEERLM, AttributeSchema
from steerlm.config import SourceConfig, SourceFormat
from steerlm.conversation import Conversation
from steerlm.sources import read_source
from steerlm.sources.rows import BadRecords


class Read(NamedTuple):
    """What an importer made of the rows."""

    conversations: list[Conversation]
    bad: list[str]
    dropped: dict[str, int]


Import = Callable[..., Read]


@pytest.fixture
def read(tmp_path: Path) -> Import:
    """Import rows through a JSONL file, bad ones skipped; messages name the place relative to the file."""

    def run(
        source_format: SourceFormat,
        *rows: Any,
        schema: AttributeSchema = STEERLM,
        name: str = "s",
        preference: str | None = None,
    ) -> Read:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        bad, dropped = BadRecords(), Counter[str]()
        source = SourceConfig(name=name, format=source_format, path=path, preference=preference)
        conversations = list(read_source(source, schema, bad, dropped))
        return Read(conversations, [example.removeprefix(f"{path}:") for example in bad.examples], dict(dropped))

    return run


def turns(conversation: Conversation) -> list[tuple[str, str]]:
    """Return roles and texts."""
    return [(message.role, message.content) for message in conversation.messages]
