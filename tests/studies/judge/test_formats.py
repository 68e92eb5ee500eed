from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerlm.errors import UserError
from steerlm.scorers.llm.protocols import BenchmarkQuestion
from steerlm.studies.judge.formats import answer_id, read_answers, read_questions, with_references


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


OURS = {
    "id": "p1",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "a1"},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "a2"},
    ],
}


def test_questions_in_every_form(tmp_path: Path) -> None:
    path = write(
        tmp_path / "q.jsonl",
        {"question_id": 1, "text": "Why?", "category": "math"},
        {"question_id": 2, "turns": ["How?", "And?"], "category": "coding", "reference": ["7", ""]},
        OURS,
        {"id": "p2", "messages": [{"role": "user", "content": "just asked"}]},
    )
    assert read_questions(path) == [
        BenchmarkQuestion("1", ("Why?",), "math"),
        BenchmarkQuestion("2", ("How?", "And?"), "coding"),
        BenchmarkQuestion("p1", ("User: q1\n\nAssistant: a1\n\nUser: q2",), system="Be brief."),
        BenchmarkQuestion("p2", ("just asked",)),
    ]


def test_answers_in_every_form(tmp_path: Path) -> None:
    next_chat = "A chat between a curious human and an artificial intelligence assistant."
    path = write(
        tmp_path / "a.jsonl",
        {"question_id": 1, "answer_id": "x1", "model_id": "m", "text": "old form"},
        {"question_id": 2, "answer_id": "x2", "choices": [{"index": 0, "turns": ["t1", "t2"]}, {"turns": ["no"]}]},
        {"question_id": 3, "text": "the question", "generation": f"said{next_chat} ### Human: made up"},
        {
            "question_id": 4,
            "text": "the question",
            "generation": "said ### Human: more",
            "generation_truncated": "said",
        },
        OURS,
    )
    found = read_answers(path, "m")
    assert found.answers == {"1": ("old form",), "2": ("t1", "t2"), "3": ("said",), "4": ("said",), "p1": ("a2",)}
    assert (found.answer_ids["1"], found.answer_ids["2"]) == ("x1", "x2")
    assert found.answer_ids["3"] == found.answer_ids["4"] == answer_id("said")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"text": "no id"}], ":1: the record has neither a question_id nor an id with messages"),
        ([[1]], ":1: a record must be a JSON object, got list"),
        ([{"question_id": 1, "choices": []}], ":1: choices must be a list of objects with turns, got []"),
        ([{"question_id": 1, "choices": [{"turns": "x"}]}], ":1: turns must be text, got 'x'"),
        ([{"question_id": 1, "text": None}], ":1: text must be text, got [None]"),
        ([{"question_id": 1, "text": "a"}, {"question_id": "1", "text": "b"}], ":2: question '1' is answered twice"),
        (
            [{"id": 1, "messages": [{"role": "user", "content": "q"}]}],
            ":1: the conversation does not end with an answer",
        ),
        ([{"id": 1, "messages": [{"role": "bot", "content": "q"}]}], ":1: message 0: role 'bot' is not one of"),
        ([], "holds no answers"),
    ],
)
def test_other_answer_files_are_refused_with_their_line(rows: list[Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_answers(write(tmp_path / "a.jsonl", *rows), "m")
    assert words in str(error.value)


def test_a_question_may_not_stand_twice(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", {"question_id": 1, "text": "a"}, {"question_id": 1, "text": "b"})
    with pytest.raises(UserError, match=r":2: question '1' stands twice"):
        read_questions(path)
    with pytest.raises(UserError, match="holds no questions"):
        read_questions(write(tmp_path / "empty.jsonl"))


def test_answer_ids_are_those_of_the_published_reviews(shared_data: Path) -> None:
    """QLoRA's reviews name generated answers by an id of their text."""
    name = "65b-guanaco-vicuna-generations-topp0.9-temp0.7"
    found = read_answers(shared_data / "vicuna/generations" / f"{name}.jsonl", "guanaco")
    reviews = shared_data / "vicuna/ratings/pairwise" / f"{name}-vs-answer-gpt35-gpt-4-reviewer-threeclass.jsonl"
    rows = [json.loads(line) for line in reviews.read_text(encoding="utf-8").splitlines()]
    assert [found.answer_ids[str(row["question_id"])] for row in rows] == [row["answer1_id"] for row in rows]


def test_every_published_file_is_read(shared_data: Path) -> None:
    for path in sorted((shared_data / "vicuna/generations").glob("*.jsonl")):
        assert len(read_answers(path, "m").answers) == 80, path.name
    judge = shared_data / "fastchat_judge"
    assert len(read_questions(shared_data / "vicuna/prompts/vicuna_questions.jsonl")) == 80
    assert len(read_answers(judge / "vicuna_bench/model_answer/gpt-4o.jsonl", "m").answers) == 80
    questions = with_references(
        read_questions(judge / "mt_bench/question.jsonl"),
        read_answers(judge / "mt_bench/reference_answer/gpt-4.jsonl", "reference"),
    )
    assert len(questions) == 80
    assert {len(question.turns) for question in questions} == {2}
    with_reference = {question.category for question in questions if question.references}
    assert with_reference == {"math", "reasoning", "coding"}
    assert all(len(q.references) == 2 for q in questions if q.category in with_reference)
