"""Systems and prompts: how they are written down, what their answers are, and refusals that help."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerlm.attributes import OASST
from steerlm.checkpoint.info import CheckpointInfo, save_info
from steerlm.errors import UserError
from steerlm.studies.compare.systems import ComparedPrompt, parse_system, parse_systems, read_prompts, stored_answers


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with a steerable checkpoint, a baseline without dials, an attribute model, and answers."""
    monkeypatch.chdir(tmp_path)
    for name, info in {
        "steerable": CheckpointInfo("sft", OASST, "steerlm"),
        "baseline": CheckpointInfo("sft", OASST, "steerlm", conditioning=False),
        "scorer": CheckpointInfo("regression", OASST, "steerlm"),
    }.items():
        (tmp_path / name).mkdir()
        save_info(tmp_path / name, info)
    (tmp_path / "plain").mkdir()
    (tmp_path / "answers.jsonl").write_text('{"question_id": "1", "text": "So."}\n')
    return tmp_path


def test_every_form_of_system(place):
    steerable = parse_system("a=steerable@humor=3,toxicity=1")
    assert (steerable.kind, steerable.where) == ("steerable", "steerable")
    assert steerable.setting == {"quality": 4, "toxicity": 1, "humor": 3, "creativity": 0}
    assert parse_system("a=steerable").setting == OASST.defaults
    assert parse_system("a=baseline").setting == {}
    assert parse_system("a=plain").kind == parse_system("a=some-org/some-model").kind == "plain"
    assert parse_system("a=answers.jsonl").kind == "stored"
    served = parse_system("a=https://user@host:8000/v1/#org/model@humor=3,lang=en")
    assert (served.kind, served.where, served.model) == ("endpoint", "https://user@host:8000/v1", "org/model")
    assert served.setting == {"humor": 3, "lang": "en"}
    assert served.shown == "https://host:8000/v1"  # nobody's password in a report
    assert parse_system("a=http://host/v1#m").shown == "http://host/v1"


def test_a_folder_whose_name_looks_like_a_setting(place):
    (place / "run@lr=3").mkdir()
    assert (parse_system("a=run@lr=3").kind, parse_system("a=run@lr=3").where) == ("plain", "run@lr=3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steerable", "not of the form NAME=WHERE"),
        ("a b=steerable", "may hold letters, digits"),
        ("a=missing", "there is no file or folder missing"),
        ("a=missing.jsonl", "there is no file or folder missing.jsonl"),
        ("a=some/folder/deep", "there is no file or folder"),
        ("a=https://host/v1", "an endpoint is written URL#MODEL"),
        ("a=steerable@humour=3", "unknown attribute 'humour': did you mean 'humor'"),
        ("a=steerable@humor=7", "7"),
        ("a=steerable@humor=", "not of the form humor=4,verbosity=1"),
        ("a=scorer", "is an attribute model"),
        ("a=baseline@humor=3", "has no dials to set"),
        ("a=plain@humor=3", "has no dials; only steerable checkpoints and endpoints"),
        ("a=answers.jsonl@humor=3", "has no dials"),
    ],
)
def test_mistakes_are_named(place, text, message):
    with pytest.raises(UserError, match=message):
        parse_system(text)


def test_a_comparison_needs_two_systems_with_names_of_their_own(place):
    with pytest.raises(UserError, match="two systems are called 'a'"):
        parse_systems(["a=steerable", "a=plain"])
    with pytest.raises(UserError, match="at least two systems, got 1"):
        parse_systems(["a=steerable"])


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def turns(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def test_prompts_of_conversations_end_with_the_last_user_turn(tmp_path):
    system = [{"role": "system", "content": "Be kind."}]
    path = write(
        tmp_path / "p.jsonl",
        [
            {"id": "x", "messages": system + turns("one", "two", "three", "four"), "category": "math"},
            {"id": 7, "messages": turns("alone")},
        ],
    )
    long, short = read_prompts(path, None, seed=0)
    assert [m.content for m in long.messages] == ["Be kind.", "one", "two", "three"]
    assert (short.id, short.messages[0].content, long.category) == ("7", "alone", "math")
    assert long.seed != short.seed
    question = long.question()
    assert question.turns == ("User: one\n\nAssistant: two\n\nUser: three",)
    assert (question.system, question.category) == ("Be kind.", "math")
    assert short.question().turns == ("alone",)


def test_prompts_of_benchmark_questions(tmp_path):
    path = write(
        tmp_path / "q.jsonl",
        [{"question_id": 81, "category": "writing", "turns": ["Write.", "Rewrite."]}],
    )
    [prompt] = read_prompts(path, None, seed=0)
    assert (prompt.id, [m.content for m in prompt.messages]) == ("81", ["Write."])
    assert prompt.question().category == "writing"


def test_prompts_are_drawn_by_seed(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"id": f"{i}", "messages": turns(f"question {i}")} for i in range(30)])
    chosen = [p.id for p in read_prompts(path, 10, seed=1)]
    assert chosen == [p.id for p in read_prompts(path, 10, seed=1)] == sorted(chosen, key=int)
    assert chosen != [p.id for p in read_prompts(path, 10, seed=2)]
    assert len(read_prompts(path, 99, seed=1)) == 30


def test_prompts_without_ids_of_their_own_are_refused(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"id": "x", "messages": turns("one")}] * 2)
    with pytest.raises(UserError, match="prompt id 'x' stands twice"):
        read_prompts(path, None, 0)
    with pytest.raises(UserError, match="no questions"):
        read_prompts(write(tmp_path / "empty.jsonl", []), None, 0)


def test_stored_answers_of_every_form(tmp_path):
    prompts = read_prompts(
        write(
            tmp_path / "p.jsonl",
            [{"id": "1", "messages": turns("a", "b", "c")}, {"id": "2", "messages": turns("d")}],
        ),
        None,
        0,
    )
    files = {
        "ours": [
            {"id": "1", "messages": turns("a", "b", "c", "answer 1")},
            {"id": "2", "messages": turns("d", "answer 2")},
        ],
        "old": [{"question_id": 1, "answer_id": "q", "text": "answer 1"}, {"question_id": 2, "text": "answer 2"}],
        "new": [{"question_id": i, "model_id": "m", "choices": [{"turns": [f"answer {i}"]}]} for i in (1, 2)],
        "qlora": [{"question_id": i, "text": "asked", "generation": f"answer {i}"} for i in (1, 2)],
    }
    for name, rows in files.items():
        system = parse_system(f"{name}={write(tmp_path / f'{name}.jsonl', rows)}")
        assert [answer.text for answer in stored_answers(system, prompts)] == ["answer 1", "answer 2"], name


def test_the_first_answer_belongs_to_the_first_turn(tmp_path):
    path = write(tmp_path / "mt.jsonl", [{"question_id": 81, "choices": [{"turns": ["first", "second"]}]}])
    questions = write(tmp_path / "q.jsonl", [{"question_id": 81, "turns": ["one", "two"]}])
    [answer] = stored_answers(parse_system(f"x={path}"), read_prompts(questions, None, 0))
    assert answer.text == "first"


def test_missing_answers_say_so(place):
    prompts = [ComparedPrompt("1", (), "", 0), ComparedPrompt("2", (), "", 0)]
    found, missing = stored_answers(parse_system("a=answers.jsonl"), prompts)
    assert (found.text, missing.text, missing.problem) == ("So.", None, "no answer in the file")
