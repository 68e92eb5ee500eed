"""Every importer on real data; the counts were taken from the files with other code (see each test)."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import STEERLM
from steerlm.config import SourceConfig, SourceFormat
from steerlm.conversation import Conversation
from steerlm.sources import export_nemo, read_source
from steerlm.sources.rows import BadRecords

Loaded = tuple[list[Conversation], BadRecords]


def load(path: Path, source_format: SourceFormat) -> Loaded:
    bad = BadRecords()
    return list(read_source(SourceConfig(name="s", format=source_format, path=path), STEERLM, bad, Counter())), bad


def test_hh_rlhf(shared_data: Path) -> None:
    path = shared_data / "hh_rlhf" / "harmless-base-test.jsonl.gz"
    conversations, bad = load(path, "hh_rlhf")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    assert len(rows) == 2312
    # 13 dialogues have two assistant turns in a row, 4 end with an empty one: told, not mended
    assert (len(conversations), bad.count) == (2 * 2312 - 17, 17)
    assert Counter("due" in example for example in bad.examples) == {True: 13, False: 4}
    for conversation in conversations:
        text = rows[int(conversation.id.split("/")[1].split("-")[0])][str(conversation.meta["preference"])]
        rendered = "".join(f"{'Human' if m.role == 'user' else 'Assistant'}{m.content}" for m in conversation.messages)
        assert re.sub(r"\s|:", "", rendered) == re.sub(r"\s|:", "", text)
        assert conversation.messages[-1].role == "assistant"


@pytest.mark.parametrize("name", ["en_100_tree.jsonl", "en_100_message.jsonl"])
def test_open_assistant(shared_data: Path, name: str) -> None:
    path = shared_data / "open_assistant" / name
    conversations, bad = load(path, "oasst")
    assert bad.count == 0
    assert len({c.group for c in conversations}) == 100
    assert len({c.id for c in conversations}) == len(conversations)
    # an independent walk: the texts on the way to every assistant message without an assistant message below it
    expected = []

    def walk(message: dict[str, Any], before: tuple[str, ...]) -> bool:
        way = (*before, message["text"])
        answered = True in [walk(reply, way) for reply in message["replies"]]
        if message["role"] == "assistant" and not answered:
            expected.append(way)
        return answered or message["role"] == "assistant"

    for line in path.read_text(encoding="utf-8").splitlines():
        tree = json.loads(line)
        walk(tree.get("prompt", tree), ())
    assert sorted(tuple(m.content for m in c.messages) for c in conversations) == sorted(expected)
    assert all(m.attributes is None for c in conversations for m in c.messages)  # this release has no labels


def test_the_two_open_assistant_layouts_agree(shared_data: Path) -> None:
    trees, _ = load(shared_data / "open_assistant" / "en_100_tree.jsonl", "oasst")
    bare, _ = load(shared_data / "open_assistant" / "en_100_message.jsonl", "oasst")
    assert trees == bare


def test_self_identification(shared_data: Path) -> None:
    path = shared_data / "model_self_identification" / "dummy_conversation.json"
    conversations, bad = load(path, "self_identification")
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert (len(conversations), bad.count) == (len(rows), 0) == (500, 0)
    for conversation, row in zip(conversations, rows, strict=True):
        assert [m.content for m in conversation.messages] == [turn["value"] for turn in row["conversations"]]
        assert conversation.id == f"s/{row['id']}"


def test_role_play_as_alpaca(shared_data: Path) -> None:
    path = shared_data / "gpteacher_roleplay" / "roleplay-simple-deduped-roleplay-dataset.json"
    conversations, bad = load(path, "alpaca")
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert (len(conversations), bad.count) == (len(rows), 0) == (3146, 0)
    for conversation, row in zip(conversations, rows, strict=True):
        assert conversation.messages[1].content == row["output"]
        assert conversation.messages[0].content.startswith(row["instruction"])
        given = row["input"].replace("<noinput>", "").replace("noinput", "")
        assert conversation.messages[0].content == row["instruction"] + (given and f"\n\n{given}")
    assert sum("noinput" in row["input"] for row in rows) == 4


def nemo_text(row: dict[str, Any]) -> str:
    """NeMo-Aligner's rendered text (its label lines left out where there is no label)."""
    text = f"<extra_id_0>System\n{row['system']}\n"
    for turn in row["conversations"]:
        label = f"<extra_id_2>{turn['label']}\n" if turn["label"] else ""
        text += f"<extra_id_1>{turn['from']}\n{label}{turn['value']}\n"
    return text + "<extra_id_1>"


def test_nemo_round_trip(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "nemo_aligner" / "sft_512_sample_extra_id_format.jsonl"
    originals = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    conversations, bad = load(path, "nemo")
    assert (len(conversations), bad.count) == (512, 0)
    export_nemo(conversations, STEERLM, tmp_path / "out.jsonl")
    exported = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n") if line]
    flattened = 0
    for original, row in zip(originals, exported, strict=True):
        if "<extra_id_1>" in original["conversations"][0]["value"]:
            flattened += 1  # taken apart: other turns, but the same text for the model
        else:
            assert row == {key: original[key] for key in ("conversations", "system", "mask")} | {
                "type": "VALUE_TO_TEXT"
            }
        assert nemo_text(row) == nemo_text(original)
        assert row["conversations"][-1]["label"] == original["conversations"][-1]["label"]
    assert flattened == 329
    again, _ = load(tmp_path / "out.jsonl", "nemo")
    assert [c.messages for c in again] == [c.messages for c in conversations]
    assert [c.group for c in again] == [c.group for c in conversations]
    export_nemo(again, STEERLM, tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
