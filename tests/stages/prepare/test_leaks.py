"""Evaluation prompts in training data (made-up text)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.stages.prepare.leaks import EvaluationPrompts, load_evaluation_prompts

LONG = "Please tell me in three short and friendly sentences why a cup of green tea is good"


def prompts(path: Path, *rows: Any) -> EvaluationPrompts:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_evaluation_prompts([path])


def asked(*texts: str) -> list[Message]:
    return [m for text in texts for m in (Message("user", text), Message("assistant", f"You asked: {LONG}"))]


def test_a_leak_is_an_equal_user_turn(tmp_path: Path) -> None:
    found = prompts(tmp_path / "a.jsonl", "Name a tea!", LONG)
    assert found.find(asked("name a  TEA")) == "leak"
    assert found.find(asked("Hello", "Name a tea.")) == "leak"
    assert found.find(asked("Name a green tea")) is None  # a reply that quotes a prompt is none
    assert EvaluationPrompts(frozenset(), frozenset()).find(asked("Name a tea!")) is None


def test_a_prompt_of_several_turns_is_met_by_all_of_them(tmp_path: Path) -> None:
    found = prompts(tmp_path / "a.jsonl", {"messages": [m.to_dict() for m in asked("Name a tea", "And why?")[:-1]]})
    assert found.find(asked("Hello", "Name a tea!", "And why?")) == "leak"
    assert found.find(asked("Name a coffee", "And why?")) is None
    assert found.find(asked("And why?", "Name a tea")) is None


def test_a_near_leak_shares_thirteen_words(tmp_path: Path) -> None:
    found = prompts(tmp_path / "a.jsonl", LONG)
    words = LONG.split()
    assert found.find(asked("Well, " + " ".join(words[2:15]).upper() + "?")) == "near_leak"
    assert found.find(asked("Well, " + " ".join(words[2:14]) + " so?")) is None
    assert found.find(asked(LONG)) == "leak"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("Hi", {("hi",)}),
        ({"text": "Hi", "question_id": 1}, {("hi",)}),
        ({"prompt": "Hi"}, {("hi",)}),
        ({"instruction": "Hi"}, {("hi",)}),
        ({"question": "Hi"}, {("hi",)}),
        ({"turns": ["Hi", "And?"]}, {("hi",), ("hi", "and")}),
        (
            {"messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": "Go on"},
            ]},
            {("hi", "go on")},
        ),
    ],
)  # fmt: skip
def test_prompt_files_of_several_layouts(tmp_path: Path, row: Any, expected: set[tuple[str, ...]]) -> None:
    assert prompts(tmp_path / "a.jsonl", row).exact == expected


@pytest.mark.parametrize("row", [3, {"title": "x"}, {"turns": []}, {"messages": []}, {"prompt": None}])
def test_a_row_without_a_prompt_is_an_error_with_its_place(tmp_path: Path, row: Any) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl:2: found no evaluation prompt"):
        prompts(tmp_path / "a.jsonl", "Hi", row)


def test_real_prompt_files(shared_data: Path) -> None:
    files = {
        "vicuna/prompts/vicuna_questions.jsonl": 80,
        "fastchat_judge/mt_bench/question.jsonl": 160,  # 80 questions of two turns
        "open_assistant/prompt_lottery_en_250_text.jsonl": 250,
    }
    for name, count in files.items():
        assert count - 2 <= len(load_evaluation_prompts([shared_data / name]).exact) <= count
