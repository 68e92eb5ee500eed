"""The converter of the humor recipe, on packages written for the purpose."""

from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from steerlm.config import load_recipe
from steerlm.conversation import read_conversations

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "humor"
SCREENPLAY = """# ELAINE
1.4
[GIGGLES]
3.1
2.2
**LOL**
3.2
So the dentist is
still angry, huh?
5.3
# JERRY
5.4
Oh, sure. He has
6.0
6.1
lost a tooth.
7.3
8.1
**LOL**
# ELAINE
8.4
Which one?
9.0
"""


def load() -> ModuleType:
    # by its path: another recipe has a script of this name
    spec = importlib.util.spec_from_file_location("humor_convert", FOLDER / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


convert = load()


def write_archive(path: Path, files: dict[str, str]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))


def test_a_turn_ends_at_a_laugh_and_where_somebody_else_speaks() -> None:
    assert list(convert.turns_of(SCREENPLAY)) == [
        ("ELAINE", "So the dentist is still angry, huh?", False),
        ("JERRY", "Oh, sure. He has lost a tooth.", True),
        ("ELAINE", "Which one?", False),
    ]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("humor")
    episodes = {f"corpus/The.{n}.merged": SCREENPLAY for n in ("Tooth", "Chair", "Soup", "Nap", "Cat", "Dog")}
    write_archive(folder / "seinfeld_laugh_corpus-1.tar.gz", {**episodes, "corpus/README.rst": "no screenplay"})
    jokes = [{"body": f"My other car is number {n}.", "tags": ["car"]} for n in range(20)]
    coarse = {"body": "A joke at somebody's expense.", "tags": ["life", "insults"]}
    write_archive(folder / "one-liner-joke-1.tgz", {"package/jokes.json": json.dumps([*jokes, jokes[0], coarse])})
    quotes = [{"author": "nobody", "text": f"A house of {n} walls stands still."} for n in range(20)]
    write_archive(folder / "quotesy-1.tgz", {"package/quotes.json": json.dumps(quotes)})
    counts = convert.convert(folder, folder / "out")
    assert counts["jokes"]["train"] + counts["jokes"]["test"] == 20, "one was there twice, one is left out"
    assert (counts["laughs"]["funny"], counts["jokes"]["funny"], counts["quotes"]["funny"]) == (1.0, 1.0, 0.0)
    return folder / "out"


def test_the_two_halves_share_no_episode_and_no_text(converted: Path) -> None:
    schema = load_recipe(FOLDER / "recipe.yaml").schema_
    groups = {}
    for part in ("train", "test"):
        rows = [row for path in (converted / part).glob("*.jsonl") for row in read_conversations(path, schema)]
        assert {row.source for row in rows} == {"laughs", "jokes", "quotes"}
        groups[part] = {row.group for row in rows}
    assert not groups["train"] & groups["test"]


def test_what_was_said_before_is_the_prompt(converted: Path) -> None:
    schema = load_recipe(FOLDER / "recipe.yaml").schema_
    [first, *_] = read_conversations(converted / "train" / "laughs.jsonl", schema)
    asked, said = first.messages
    assert asked.content == "So the dentist is still angry, huh?"
    assert said.content == "Oh, sure. He has lost a tooth."
    assert said.human_labels == {"humor": 1}
