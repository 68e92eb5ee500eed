"""What `steerlm label` says that it labelled, and who is still to be asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from steerlm.__main__ import main
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.studies.rate.store import open_study


def test_attributes_that_nobody_labelled_wait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = [
        {"name": "length", "measure": "words", "cuts": [2, 4, 6, 8]},
        {"name": "warmth", "judge": {"ratings": 5}},
        {"name": "quality"},
        {"name": "humor"},
    ]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(schema))
    turns = [Message("assistant", "word " * (i + 1), attributes={"quality": 2} if i else None) for i in range(9)]
    data = [Conversation(str(i), (Message("user", "q"), turn)) for i, turn in enumerate(turns)]
    labelled = {"humor": 1, "quality": 2}
    data.append(Conversation("9", (Message("user", "q"), Message("assistant", "Ha.", attributes=labelled))))
    write_conversations(tmp_path / "d.jsonl", data)
    out = tmp_path / "out"
    argv = ["label", str(tmp_path / "d.jsonl"), "--attributes", str(tmp_path / "a.yaml"), "--out", str(out)]
    assert main([*argv, "--with", "measure"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:5] == [
        "d.jsonl: 10 turns labelled",
        "length by words",
        "length: levels begin at 2, 4, 6, 8",
        "warmth: 10 of 10 turns wait for --with judge",
        "quality: 1 of 10 turns wait for --with people",
    ]
    assert said[5] == "humor: 9 of 10 turns wait for --with people"
    for name in ("done.json", "summary.json"):
        found = json.loads((out / name).read_text())
        found = found.get("summary", found)
        assert found["said_by"] == {"length": "words"}
        assert found["waiting"] == {"warmth": "judge", "quality": "people", "humor": "people"}


def test_people_are_asked_only_for_what_nothing_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toxic = {"model": "some/classifier", "label": "toxic"}
    computed = [{"name": "length", "measure": "words"}, {"name": "toxicity", "classifier": toxic}]
    data = [Conversation("0", (Message("user", "q"), Message("assistant", "a")))]
    write_conversations(tmp_path / "d.jsonl", data)
    argv = ["label", str(tmp_path / "d.jsonl"), "--with", "people", "--attributes", str(tmp_path / "a.yaml")]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump([*computed, {"name": "quality"}]))
    assert main([*argv, "--out", str(tmp_path / "study")]) == 0
    asked = open_study(tmp_path / "study").schema
    assert asked is not None
    assert asked.names == ("quality",)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(computed))
    assert main([*argv, "--out", str(tmp_path / "none")]) == 2
    assert "no attribute is left to people" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
