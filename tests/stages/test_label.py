"""Labels of a judge: which turns it rates, what stays people's, what is paid for once, and who it agrees with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import AttributeSchema
from steerlm.config import LabelConfig
from steerlm.conversation import Conversation, Message, Score, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.stages.label import check_judge, choose_turns, label, projected
from steerlm.stages.train_attribute_model.examples import labelled_turns
from tests.studies.judge.fake_endpoint import FakeEndpoint

SCHEMA = AttributeSchema.from_dict(
    [
        {"name": "warmth", "judge": {"ratings": 12}, "low": "cold and curt", "high": "warm and caring"},
        {"name": "kind", "categories": ["joke", "fact"], "judge": {"ratings": 4}},
        {"name": "length", "measure": "words", "cuts": [4, 8]},
    ]
)
KINDS = ("dear friend", "no", "well then", "sure, my love", "go away")


def reply(body: dict[str, Any]) -> str:
    """Rates by the words of the answer, also between two levels."""
    asked = body["messages"][-1]["content"]
    answer = re.search(r"Start of the Response to Rate\]\n(.*?)\n\[The End", asked, re.DOTALL)
    assert answer is not None
    if "kind: [[rating]]" in asked:
        return "It is what it is.\nkind: [[fact]]"
    return f"So so.\nwarmth: [[{3.8 if 'dear' in answer[1] or 'love' in answer[1] else 1}]]"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    records = []
    for i in range(60):
        labels: dict[str, Any] = {"attributes": {"warmth": i % 5}, "labelled_by": "human"} if i < 30 else {}
        text = " ".join([KINDS[i % 5], *(f"thing{i % 7}",) * (i % 9)])
        turns = (Message("user", f"Question {i}?"), Message("assistant", text, **labels))
        records.append(Conversation(f"r{i}", turns, "ab"[i % 2], f"g{i}"))
    paths = [tmp_path / "train.jsonl", tmp_path / "validation.jsonl"]
    write_conversations(paths[0], records[:50], SCHEMA)
    write_conversations(paths[1], records[50:], SCHEMA)
    return paths


def test_a_judge_labels_what_people_did_not(files: list[Path], tmp_path: Path) -> None:
    told: list[str] = []
    with FakeEndpoint(reply) as endpoint:
        config = LabelConfig(model="m", base_url=endpoint.base_url, price_per_million=(10.0, 30.0))
        report = label(config, SCHEMA, files, tmp_path / "out", tmp_path / "judge", lambda x: not told.append(x))
        assert endpoint.num_requests == 12 + 4
        again = label(config, SCHEMA, files, tmp_path / "out2", tmp_path / "judge", lambda x: not told.append(x))
        assert endpoint.num_requests == 12 + 4, "nothing is paid for twice"
    assert report == again
    assert re.match(r"16 requests to the judge: about [\d,]+ tokens to read, at most [\d,]+ to write; costs", told[0])
    assert told[1].startswith("0 requests to the judge, 16 more are answered from earlier runs")
    assert report["asked"] == report["rated"] == {"warmth": 12, "kind": 4}
    labelled = [
        r.messages[-1]
        for name in ("train", "validation")
        for r in read_conversations(tmp_path / "out" / f"{name}.jsonl", SCHEMA)
    ]
    judged = [m for m in labelled if m.teller("warmth") == "judge:m"]
    assert judged
    assert all(m.attributes["warmth"] == (4 if "dear" in m.content or "love" in m.content else 1) for m in judged)
    human = [m for m in labelled if m.teller("warmth") == "human"]
    assert len(human) == 30, "people's labels stay"
    both = report["agreement"]["warmth"]
    assert both["n"] == 12 - len(judged) > 0
    assert sum("kind" in (m.attributes or {}) for m in labelled) == 4
    learned = SCHEMA.learned
    assert learned is not None
    taught = list(labelled_turns(tmp_path / "out" / "train.jsonl", learned, SCHEMA))
    assert {turn.labels["warmth"] for turn in taught if "warmth" in turn.labels} >= {1.0, 4.0}
    assert any(turn.labels.get("kind") == "fact" for turn in taught)


def test_what_is_rated_is_spread_over_sources_files_and_lengths(files: list[Path]) -> None:
    chosen = choose_turns(files, SCHEMA, 20)
    assert len(chosen) == 20
    assert len({(turn.file, turn.place) for turn in chosen}) == 20
    assert 2 <= sum(turn.file == files[1] for turn in chosen) <= 5
    lengths = [len(turn.messages[-1].content) for turn in chosen]
    everything = [len(r.messages[-1].content) for path in files for r in read_conversations(path, SCHEMA)]
    assert min(lengths) <= sorted(everything)[10]
    assert max(lengths) >= sorted(everything)[-10]
    first = choose_turns(files, SCHEMA, 8)
    assert [turn.place for turn in first][:4] == [turn.place for turn in chosen][:4]


def test_an_attribute_models_scores_tell_turns_apart(tmp_path: Path) -> None:
    def record(i: int, scored: bool) -> Conversation:
        score = Score(4.0 if i % 10 == 0 else 1.0 + i / 1000, 0.5)
        scores: dict[str, Any] = {"attributes": {"warmth": 1}, "scores": {"warmth": score}} if scored else {}
        turns = (Message("user", f"Question {i}?"), Message("assistant", "All the same words here.", **scores))
        return Conversation(f"r{i}", turns, "a")

    rare = []
    for scored in (True, False):
        path = tmp_path / f"{scored}.jsonl"
        write_conversations(path, [record(i, scored) for i in range(60)], SCHEMA)
        with projected(path, SCHEMA, tmp_path) as copy:
            chosen = choose_turns([copy], SCHEMA, 6)
        rare.append(sum(int(turn.place.record[1:]) % 10 == 0 for turn in chosen))
    assert rare[0] >= 3 > rare[1], "one in ten is scored otherwise"


def test_an_endpoint_that_is_down_is_told_before_anything_runs(tmp_path: Path) -> None:
    with FakeEndpoint() as endpoint:
        address = endpoint.base_url
    with pytest.raises(UserError, match=r"nothing answers at http://127.0.0.1:\d+/v1"):
        check_judge(LabelConfig(model="m", base_url=address), tmp_path)


def test_a_judge_that_says_nothing_readable(files: list[Path], tmp_path: Path) -> None:
    with FakeEndpoint(lambda body: "I would rather not.") as endpoint:
        config = LabelConfig(model="m", base_url=endpoint.base_url)
        with pytest.raises(UserError, match="m gave no readable rating of 'warmth' in 12 answers"):
            label(config, SCHEMA, files, tmp_path / "out", tmp_path / "judge")


def test_nobody_agrees(files: list[Path], tmp_path: Path) -> None:
    with FakeEndpoint(reply) as endpoint:
        config = LabelConfig(model="m", base_url=endpoint.base_url)
        with pytest.raises(UserError, match="was not asked"):
            label(config, SCHEMA, files, tmp_path / "out", tmp_path / "judge", lambda cost: False)
        assert endpoint.num_requests == 0
