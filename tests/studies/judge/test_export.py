"""A judge's ratings as training data."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerlm.__main__ import main
from steerlm.attributes import AttributeSchema
from steerlm.commands.common import held_folder
from steerlm.conversation import Conversation, Message, read_conversations, write_conversations
from steerlm.stages.train_attribute_model.examples import labelled_turns
from tests.studies.judge.fake_endpoint import FakeEndpoint

ATTRIBUTES = "- {name: warmth, minimum: 1, maximum: 5}\n- {name: kind, categories: [joke, fact]}\n"


def test_export_of_rubric_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(ATTRIBUTES)
    answers = [
        Conversation(f"q{i}", (Message("user", f"Q{i}?"), Message("assistant", f"Answer {i}"))) for i in range(3)
    ]
    write_conversations("ours.jsonl", answers)

    def reply(body: dict) -> str:
        asked = body["messages"][-1]["content"]
        if "Answer 2" in asked:
            return "I cannot say."
        return "kind: [[fact]]" if "kind: [[rating]]" in asked else f"warmth: [[{4 if 'Answer 0' in asked else 3.8}]]"

    given = ["--answers", "ours=ours.jsonl", "--attributes", "a.yaml", "--out", "judged"]
    with FakeEndpoint(reply) as endpoint:
        asked = ["--protocol", "rubric", "--model", "m", "--base-url", endpoint.base_url, "--yes"]
        assert main(["judge", *asked, *given]) == 0
    with held_folder(Path("judged")):
        assert main(["judge", "export", *given]) == 2
    assert "another process is writing to judged" in capsys.readouterr().err
    assert main(["judge", "export", *given]) == 0
    assert "4 ratings of 2 answers" in capsys.readouterr().out
    schema = AttributeSchema.from_dict(
        [{"name": "warmth", "minimum": 1, "maximum": 5}, {"name": "kind", "categories": ["joke", "fact"]}]
    )
    records = list(read_conversations("judged/ratings.jsonl", schema))
    assert [record.messages[-1].attributes for record in records] == [{"warmth": 4, "kind": "fact"}] * 2
    assert {record.messages[-1].labelled_by for record in records} == {"judge:m"}
    turns = list(labelled_turns(Path("judged/ratings.jsonl"), schema))
    assert [turn.labels for turn in turns] == [{"warmth": 4.0, "kind": "fact"}] * 2
    assert main(["judge", "export", "--attributes", "a.yaml", "--out", "judged"]) == 2
    assert "give --answers" in " ".join(capsys.readouterr().err.split())
