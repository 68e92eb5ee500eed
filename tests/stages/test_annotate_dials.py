"""Annotation by who says each attribute: measures and a classifier without an attribute model, and beside people."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.config import AnnotateConfig
from steerlm.conversation import Conversation, Message, read_conversations, write_conversations
from steerlm.stages.annotate.stage import annotate
from tests.scorers.test_classifiers import save

WORDS = {"name": "length", "measure": "words", "cuts": [3, 5]}
QUALITY = {"name": "quality"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rated = {"attributes": {"quality": 1}, "ratings": {"quality": (2.0, 3.0)}, "labelled_by": "human"}
    records = [
        Conversation("a", (Message("user", "Hm?"), Message("assistant", "you are kind", **rated))),
        Conversation("b", (Message("user", "Hm?"), Message("assistant", "..."))),
        Conversation("c", (Message("user", "Hm?"), Message("assistant", "the cat sat and laughed"))),
    ]
    write_conversations(tmp_path / "chats.jsonl", records)
    return tmp_path / "chats.jsonl"


def last_turns(path: Path) -> dict[str, Message]:
    return {record.id: record.messages[-1] for record in read_conversations(path)}


def test_measures_and_classifiers_label_without_an_attribute_model(data: Path, tmp_path: Path) -> None:
    toxic = {
        "name": "toxicity",
        "classifier": {"model": str(save(tmp_path / "m", ["fine", "toxic"])), "label": "toxic"},
    }
    schema = AttributeSchema.from_dict([WORDS, toxic | {"cuts": [0.0001, 1.0]}, {"name": "quality"}])
    summary = annotate(AnnotateConfig(window=2), [data], None, tmp_path / "out", schema=schema)
    found = last_turns(tmp_path / "out" / "chats.jsonl")
    assert found["a"].attributes == {"length": 1, "toxicity": 1, "quality": 1}
    assert found["a"].scores is not None
    assert "quality" not in found["a"].scores, "nobody but people said it"
    assert found["a"].teller("length") == "measure:words"
    assert found["a"].teller("toxicity").startswith("classifier:")
    assert found["a"].teller("quality") == "human"
    assert found["b"].attributes == {"length": 0, "toxicity": 1}, "three dots are no words, but a text"
    assert found["c"].attributes == {"length": 2, "toxicity": 1}
    assert summary["said_by"] == {"length": "words", "toxicity": "classifier", "quality": "people"}
    assert summary["missing"] == {"length": 0, "toxicity": 0, "quality": 2}
    assert summary["model"] is None
    assert found["a"].human_labels == {"quality": 1}


def test_one_teller_for_all_is_said_once(data: Path, tmp_path: Path) -> None:
    annotate(AnnotateConfig(), [data], None, tmp_path / "out", schema=AttributeSchema.from_dict([WORDS, QUALITY]))
    assert last_turns(tmp_path / "out" / "chats.jsonl")["c"].labelled_by == "measure:words"


def test_a_text_without_a_measure_is_not_too_long_for_a_model(data: Path, tmp_path: Path) -> None:
    varied = {"name": "variety", "maximum": 1, "measure": "mtld", "cuts": [5]}
    schema = AttributeSchema.from_dict([varied, QUALITY])
    summary = annotate(AnnotateConfig(), [data], None, tmp_path / "out", schema=schema)
    assert summary["files"]["chats.jsonl"] == {"records": 3, "turns": 3, "labelled": 1, "too_long": 0}
    assert summary["missing"] == {"variety": 3, "quality": 2}


def test_other_cuts_label_anew(data: Path, tmp_path: Path) -> None:
    for cuts, level in (([3, 5], 2), ([6, 9], 0)):
        schema = AttributeSchema.from_dict([WORDS | {"cuts": cuts}, QUALITY])
        annotate(AnnotateConfig(), [data], None, tmp_path / "out", schema=schema)
        assert last_turns(tmp_path / "out" / "chats.jsonl")["c"].attributes == {"length": level}
