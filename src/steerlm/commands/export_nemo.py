"""Write conversations as NeMo-Aligner JSONL."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from steerlm.commands import common, inputs, options, terminal


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="conversations, JSONL")
    parser.add_argument("out", type=Path, help="file to write")
    options.add_attributes(parser, default="steerlm")


def run(arguments: argparse.Namespace) -> int:
    """Convert a file."""
    from steerlm.conversation import read_conversations
    from steerlm.sources.nemo import export_nemo

    schema = common.schema_of(arguments.attributes)
    data = inputs.conversations_file(arguments.data, "data")
    changed = Counter[str]()
    count = export_nemo(read_conversations(data, schema), schema, arguments.out, changed)
    terminal.say(f"{count} conversations written to {arguments.out}")
    for what, number in changed.items():
        terminal.say(f"changed: {what}: {number:,}")
    return 0
