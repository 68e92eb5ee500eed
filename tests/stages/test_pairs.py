"""Pairs by hindsight: what is paired, what it is labelled with, and what a draw does to data that move together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlm.__main__ import main
from steerlm.attributes import AttributeSchema
from steerlm.conversation import Conversation, read_conversations
from steerlm.errors import UserError
from steerlm.scorers.dials import DialMeasures
from steerlm.scorers.goal_measures import GOALS, goal_schema
from steerlm.scorers.text_measures import tokens
from steerlm.stages.pairs import stage
from steerlm.stages.pairs.stage import content_overlap
from steerlm.studies.steerbench.probe import PUBLISHED_BOUNDS

SCHEMA = [
    {"name": "length", "maximum": 3, "measure": "words", "cuts": [8, 16, 32]},
    {"name": "parts", "maximum": 2, "measure": "sentences", "cuts": [2, 4]},
]
LONG = (
    "The river rises slowly, but nobody leaves. The houses stand near water. Everybody waits; it is late. Rain falls."
)
SHORT = "The river rises slowly but nobody leaves houses near water."
OTHER = "Cheese contains calcium and protein."


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, texts in (("a", [LONG, OTHER]), ("b", [SHORT, "Bread and butter taste good."])):
        rows = [{"question_id": i, "text": text} for i, text in enumerate(texts)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "schema.yaml").write_text(yaml.safe_dump(SCHEMA), encoding="utf-8")
    return tmp_path


def pairs(files: Path, *more: str) -> int:
    return main(["pairs", "--attributes", str(files / "schema.yaml"), "--out", str(files / "out"), *more])


def texts(files: Path) -> list[str]:
    return ["--texts", str(files / "a.jsonl"), "--texts", str(files / "b.jsonl")]


def written(files: Path) -> tuple[AttributeSchema, list[Conversation]]:
    schema = AttributeSchema.from_dict(yaml.safe_load((files / "out" / "attributes.yaml").read_text(encoding="utf-8")))
    return schema, list(read_conversations(files / "out" / "pairs.jsonl", schema))


def source_of(record: Conversation) -> str:
    return record.messages[0].content.removeprefix("Rewrite the following text.\n\n")


def test_related_texts_are_paired_both_ways(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pairs(files, *texts(files)) == 0
    _, records = written(files)
    found = {source_of(r): r.messages[1] for r in records}
    assert found.keys() == {LONG, SHORT}, "texts on one question that share no words are no rewrites"
    assert found[LONG].content == SHORT
    assert found[LONG].attributes == {"length": 1, "parts": 0}
    assert found[SHORT].attributes == {"length": 2, "parts": 2}
    assert found[SHORT].scores is not None
    assert found[SHORT].labelled_by == {"length": "measure:words", "parts": "measure:sentences"}
    assert {r.group for r in records} == {"0"}
    assert "2 pairs of 2 texts (2 texts)" in " ".join(capsys.readouterr().out.split())


def test_a_model_that_a_measure_lacks_is_named_before_anything_is_paired(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> None:
        raise UserError("NLTK's sentence model is missing")

    monkeypatch.setattr(tokens, "_tokenizer", missing)
    monkeypatch.setattr(stage, "content_overlap", lambda *_: pytest.fail("texts were compared"))
    monkeypatch.setattr(stage, "edits_of", lambda _: pytest.fail("texts were edited"))
    (files / "schema.yaml").write_text("- {name: length, maximum: 1, measure: nltk_tokens}\n", encoding="utf-8")
    assert pairs(files, *texts(files), "--edits") == 2
    assert "NLTK's sentence model is missing" in capsys.readouterr().err
    assert not (files / "out").exists()


def test_edits_go_there_and_back(files: Path) -> None:
    assert pairs(files, *texts(files), "--edits", "--min-overlap", "1") == 0
    _, records = written(files)
    assert {r.source for r in records} == {"edit", "undone edit"}
    there = {(source_of(r), r.messages[1].content) for r in records if r.source == "edit"}
    back = {(r.messages[1].content, source_of(r)) for r in records if r.source == "undone edit"}
    assert there == back
    assert {r.group for r in records} == {"0", "1"}


def test_a_draw_is_even_and_repeatable(files: Path) -> None:
    def drawn(seed: str) -> list[Conversation]:
        assert pairs(files, *texts(files), "--edits", "--num-pairs", "20", "--seed", seed) == 0
        return written(files)[1]

    first = drawn("1")
    assert len(first) == 20
    assert drawn("1") == first
    assert drawn("2") != first


def test_an_interrupted_run_measures_no_text_twice(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "schema.yaml").write_text("- {name: length, maximum: 2, measure: words}\n", encoding="utf-8")
    assert pairs(files, *texts(files), "--edits", "--seed", "3") == 0
    whole = {path.name: path.read_bytes() for path in (files / "out").iterdir()}
    for name in ("pairs.jsonl", "labels.jsonl"):
        (files / "out" / name).unlink()
    asked: list[int] = []
    score = DialMeasures.score

    def killed(self: DialMeasures, turns: Any) -> Any:
        asked.append(len(turns))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return score(self, turns)

    monkeypatch.setattr(stage, "_CHUNK", 4)
    monkeypatch.setattr(DialMeasures, "score", killed)
    assert pairs(files, *texts(files), "--edits", "--seed", "3") == 130
    monkeypatch.setattr(stage, "fit_dials", None)
    assert pairs(files, *texts(files), "--edits", "--seed", "3") == 0
    assert sum(asked) == len(whole["labels.jsonl"].splitlines()) + 4
    assert {path.name: path.read_bytes() for path in (files / "out").iterdir()} == whole
    monkeypatch.undo()
    (files / "b.jsonl").write_text((files / "a.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    assert pairs(files, *texts(files), "--edits", "--seed", "3") == 0
    assert (files / "out" / "labels.jsonl").read_bytes() != whole["labels.jsonl"], "other texts"


def test_a_model_s_own_rewrites(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files / "answers.jsonl"
    row: Any = {
        "id": "3/17",
        "messages": [
            {"role": "user", "content": f"Please rewrite the following, but make it shorter.\n\n{LONG}"},
            {"role": "assistant", "content": SHORT},
        ],
    }
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert pairs(files, "--rewrites", str(path)) == 0
    _, [record] = written(files)
    assert (record.source, record.group) == ("rewrite", "answers/3")
    assert (source_of(record), record.messages[1].content) == (LONG, SHORT)
    row["messages"][0]["content"] = "Hello?"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert pairs(files, "--rewrites", str(path)) == 2
    assert "conversation '3/17' is no rewrite" in capsys.readouterr().err
    del row["messages"][1]  # nobody has rewritten it
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert pairs(files, "--rewrites", str(path)) == 2
    assert "conversation '3/17' is no rewrite" in capsys.readouterr().err


def test_cuts_that_are_not_given_are_fitted(files: Path) -> None:
    (files / "schema.yaml").write_text("- {name: length, maximum: 2, measure: words}\n", encoding="utf-8")
    assert pairs(files, *texts(files), "--edits") == 0
    schema, records = written(files)
    assert len(schema["length"].cuts) == 2
    assert {r.messages[1].attributes["length"] for r in records if r.messages[1].attributes} == {0, 1, 2}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to pair: give --texts or --rewrites"),
        (["--texts", "A", "--min-overlap", "2"], "--min-overlap must be 0 to 1"),
        (["--texts", "A"], "no pairs: no two texts on one question share 30% of their content words"),
    ],
)
def test_mistakes(files: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    assert pairs(files, *[text.replace("A", str(files / "a.jsonl")) for text in more]) == 2
    assert message in capsys.readouterr().err


def test_levels_of_goals_are_evenly_spaced_in_the_benchmark_s_space() -> None:
    schema = goal_schema()
    assert schema.names == GOALS
    for k, goal in enumerate(GOALS):
        low, high = PUBLISHED_BOUNDS.low[k], PUBLISHED_BOUNDS.high[k]
        middle = [low + level / 9 * (high - low) for level in range(10)]
        cuts = schema[goal].cuts
        assert [sum(raw >= cut for cut in cuts) for raw in middle] == list(range(10))


def test_overlap_is_of_content_words() -> None:
    assert content_overlap("The old river.", "A river of old!") == 1
    assert content_overlap("river water", "river stone") == pytest.approx(1 / 3)
    assert content_overlap("", "") == 1
