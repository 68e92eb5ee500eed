from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from steerlm.errors import UserError
from steerlm.scorers.llm.judge import Judgement, to_matches, write_judgements
from steerlm.scorers.llm.parsing import THREE_WAY
from steerlm.scorers.llm.protocols import SystemAnswers
from steerlm.studies.judge.stored import read_stored, reparsed, write_fastchat, write_reviews


def pair(systems: tuple[str, str], outcome: float | None, text: str = "[[A]]", **fields: Any) -> Judgement:
    defaults: dict[str, Any] = {"question": "81", "turn": 1, "kind": "pair-v2", "judge": "j", "user_prompt": "shown"}
    return Judgement(systems=systems, text=text, outcome=outcome, **defaults | fields)


def test_judgements_survive_their_own_file(tmp_path: Path) -> None:
    judgements = [
        pair(("a", "b"), 1.0),
        pair(("b", "a"), None, "hm", problem="no [[A]], [[B]] or [[C]]"),
        Judgement("x", 2, "rubric", "j", ("s",), "humor: [[3]]", (3.0,), attribute="humor", user_prompt="rate"),
        Judgement("y", 1, "rubric", "j", ("s",), "", problem="status 400: no", failed=True, attribute="humor"),
    ]
    write_judgements(tmp_path / "j.jsonl", judgements)
    assert read_stored([tmp_path / "j.jsonl"], {}) == judgements


def test_pairs_in_fastchats_form(tmp_path: Path) -> None:
    """Keys, winners and the order of the games as `show_result.py` and `clean_judgment.py` of FastChat read them."""
    judgements = [
        pair(("a", "b"), 1.0, "[[A]]"),
        pair(("b", "a"), 0.5, "[[C]]"),
        pair(("a", "b"), 0.0, "[[B]]", turn=2, kind="pair-v2-multi-turn"),
        pair(("b", "a"), None, "", turn=2, kind="pair-v2-multi-turn", problem="down", failed=True),
    ]
    write_fastchat(tmp_path / "p.jsonl", judgements)
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "question_id": 81,
        "model_1": "a",
        "model_2": "b",
        "judge": ["j", "pair-v2"],
        "turn": 1,
        "g1_winner": "model_1",
        "g1_user_prompt": "shown",
        "g1_judgment": "[[A]]",
        "g2_winner": "tie",
        "g2_user_prompt": "shown",
        "g2_judgment": "[[C]]",
    }
    assert (rows[1]["g1_winner"], rows[1]["g2_winner"], rows[1]["g2_judgment"]) == ("model_2", "error", "$ERROR$")
    back = read_stored([tmp_path / "p.jsonl"], {})
    assert [(j.systems, j.outcome, j.turn, j.failed) for j in back] == [
        (j.systems, j.outcome, j.turn, j.failed) for j in judgements
    ]
    assert to_matches(back) == to_matches(judgements)


def test_single_ratings_in_fastchats_form(tmp_path: Path) -> None:
    judgements = [
        Judgement("81", 1, "single-v1", "j", ("a",), "Rating: [[7]]", (7.0,), user_prompt="shown"),
        Judgement("q", 2, "single-v1-multi-turn", "j", ("a",), "Seven.", problem="no [[rating]]"),
    ]
    write_fastchat(tmp_path / "s.jsonl", judgements)
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert rows[0] == {
        "question_id": 81,
        "model": "a",
        "judge": ["j", "single-v1"],
        "user_prompt": "shown",
        "judgment": "Rating: [[7]]",
        "score": 7.0,
        "turn": 1,
    }
    assert (rows[1]["question_id"], rows[1]["score"]) == ("q", -1)
    back = read_stored([tmp_path / "s.jsonl"], {})
    assert [(j.question, j.scores, j.problem) for j in back] == [("81", (7.0,), ""), ("q", (), "stored as not parsed")]


def test_vicuna_reviews_in_qloras_form(tmp_path: Path) -> None:
    systems = {name: SystemAnswers(name, {"1": ("x",)}, {"1": f"id-{name}"}) for name in ("a", "b")}
    judgements = [
        pair(("a", "b"), 1.0, "8 6\nok", question="1", kind="vicuna-coding", scores=(8.0, 6.0)),
        pair(("b", "a"), None, "hm", question="1", kind="vicuna-coding", problem="no two scores in the output"),
    ]
    write_reviews(tmp_path, judgements, systems)
    paths = sorted(tmp_path.iterdir())
    assert [path.name for path in paths] == ["a-vs-b.jsonl", "b-vs-a.jsonl"]
    [row] = [json.loads(line) for line in paths[0].read_text().splitlines()]
    assert len(row.pop("review_id")) == 22
    assert row == {
        "question_id": 1,
        "answer1_id": "id-a",
        "answer2_id": "id-b",
        "reviewer_id": 2,
        "metadata": {"judge": "j"},
        "text": "8 6\nok",
        "score": [8.0, 6.0],
    }
    back = read_stored(paths, {"id-a": "a", "id-b": "b"})
    assert [(j.systems, j.scores, j.outcome) for j in back] == [(("a", "b"), (8.0, 6.0), 1.0), (("b", "a"), (), None)]


def test_reading_outputs_anew_can_recover_or_withdraw_a_verdict() -> None:
    stored = [
        pair(("a", "b"), None, "Final: [[B]]", problem="stored as not parsed"),
        pair(("a", "b"), 1.0, "The answer '[[A]]' is a trick. [[B]]"),
        pair(("a", "b"), 1.0, "A wins."),
        pair(("a", "b"), 1.0, "I take the first.\n1", kind=THREE_WAY),
        pair(("a", "b"), None, "error", kind=THREE_WAY, problem="stored as not parsed", failed=True),
        Judgement("x", 1, "rubric", "j", ("s",), "humor: [[3]]", (3.0,), attribute="humor"),
    ]
    anew = reparsed(stored)
    assert [judgement.outcome for judgement in anew] == [0.0, 0.0, None, 1.0, None, None]
    assert [bool(judgement.problem) for judgement in anew] == [False, False, True, False, True, False]
    assert anew[4:] == stored[4:]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"hello": 1}, ":1: neither a judgement of steerlm judge, nor FastChat's, nor a review"),
        ({"judge": ["j", "single-v1"], "judgment": "x", "question_id": 1}, ":1: no judgement of FastChat's form"),
        ({"kind": "pair-v2", "systems": ["a", "b"]}, ":1: no judgement of steerlm judge"),
        ({"kind": "pair-v2", "systems": 3}, ":1: no judgement of steerlm judge"),
        ([1], ":1: a record must be a JSON object"),
    ],
)
def test_other_files_are_refused_with_their_line(row: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError) as error:
        read_stored([tmp_path / "x.jsonl"], {})
    assert words in str(error.value)


def test_published_reviews_are_read_as_judgements(shared_data: Path) -> None:
    relative = read_stored(sorted((shared_data / "vicuna/ratings/relative").glob("*.jsonl")), {})
    assert len(relative) == 5760
    assert sum(bool(judgement.problem) for judgement in relative) == 60
    assert not any(judgement.problem for judgement in reparsed(relative))
    pairwise = read_stored(sorted((shared_data / "vicuna/ratings/pairwise").glob("*.jsonl")), {})
    kinds = Counter((judgement.failed, bool(judgement.problem)) for judgement in pairwise)
    assert kinds == {(False, False): 4467, (False, True): 5, (True, True): 8}
