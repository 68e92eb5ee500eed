from __future__ import annotations

import math
from pathlib import Path

import pytest

from steerlm.conversation import read_conversations
from steerlm.errors import UserError
from steerlm.stages.train_attribute_model.examples import labelled_turns, read_attribute_data
from steerlm.studies.rate.export import ExportedRatings, export_ratings
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.studies.rate.studies import SCHEMA, comparison, rating, vote
from tests.tiny import byte_tokenizer


def test_everybodys_ratings_are_kept_as_lists(tmp_path: Path) -> None:
    study = rating(tmp_path, 3, all_turns=True)
    # items 0 and 1 are the two turns of c0
    vote(study, "ana", 1, {"humor": "1", "helpfulness": "9", "lang": "en", "": ""})
    vote(study, "ben", 1, {"humor": "4", "helpfulness": "8", "lang": "de", "": ""})
    vote(study, "eve", 1, {"humor": "4", "": ""})
    vote(study, "ana", 0, {"humor": "0", "": ""})
    vote(study, "ben", 5, {"lang": "en", "": ""})
    vote(study, "ben", 2, {"humor": "2", "": ""})
    vote(study, "ben", 2, {"": "skip"})
    path = tmp_path / "ratings.jsonl"
    assert export_ratings(study, path) == ExportedRatings(conversations=2, turns=3, ratings=9, undecided=1)
    first, second = read_conversations(path, SCHEMA)
    assert (first.id, first.source, first.group, first.meta) == ("c0", "test", "group-c0", {"meta": {"kept": "c0"}})
    assert first.messages[4].ratings == {"humor": (1.0, 4.0, 4.0), "helpfulness": (9.0, 8.0)}
    assert first.messages[4].attributes == {"humor": 3, "helpfulness": 9}  # no majority for `lang`
    assert first.messages[4].labelled_by == "human"
    assert first.messages[2].ratings == {"humor": (0.0,)}
    # labels that the data came with are gone: here they were a model's
    assert second.id == "c2"
    assert second.messages[2].attributes is None
    assert second.messages[4].attributes == {"lang": "en"}
    assert second.messages[4].ratings is None


def test_the_training_data_builder_accepts_the_export(tmp_path: Path) -> None:
    study = rating(tmp_path, 4)
    for item in range(4):
        vote(study, "ana", item, {"humor": "1", "helpfulness": str(item), "lang": "en", "": ""})
        vote(study, "ben", item, {"humor": "4", "": ""})
    path = tmp_path / "ratings.jsonl"
    export_ratings(study, path)
    turns = list(labelled_turns(path, SCHEMA))
    assert [turn.labels for turn in turns] == [{"humor": 2.5, "helpfulness": float(i), "lang": "en"} for i in range(4)]
    assert turns[0].ratings == {"humor": (1.0, 4.0), "helpfulness": (0.0,)}
    assert [turn.group for turn in turns] == [f"group-c{i}" for i in range(4)]
    encoder = ConversationEncoder(byte_tokenizer(SCHEMA), SCHEMA)
    data = read_attribute_data(path, encoder, "regression", 512, keep_turns=True)
    assert data.labels_N_K.tolist() == [[2.5, float(i), 0.0] for i in range(4)]
    assert not math.isnan(data.labels_N_K.sum())


def test_nothing_to_export(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only a study of ratings"):
        export_ratings(comparison(tmp_path / "a"), tmp_path / "out.jsonl")
    study = rating(tmp_path / "b")
    vote(study, "ana", 0, {"": "skip"})
    with pytest.raises(UserError, match="holds no rating yet"):
        export_ratings(study, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
