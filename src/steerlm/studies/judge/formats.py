"""Questions and answers of FastChat, of QLoRA and of this project; which of them a file holds shows in its keys.

* ours: `{"id", "messages"}`, a conversation that ends with the answer (a question file may end with the question);
  earlier turns are context that all systems share;
* FastChat today: `{"question_id", "category", "turns"}` and `{"question_id", "model_id", "choices": [{"turns"}]}`;
* FastChat's first form: `{"question_id", "text", "category"}` and `{"question_id", "answer_id", "text"}`;
* QLoRA: answers as `generation`, or `generation_truncated` where the model had gone on to speak for the user.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steerlm.conversation import Conversation, conversation_from_dict
from steerlm.errors import UserError
from steerlm.scorers.llm.protocols import BenchmarkQuestion, SystemAnswers
from steerlm.sources.prompts import AskedPrompt, read_prompts
from steerlm.storage.files import read_objects

_QLORA_SYSTEM_PROMPT = "A chat between a curious human and an artificial intelligence"
_SHORTUUID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def read_questions(path: Path) -> list[BenchmarkQuestion]:
    """Read a question file, in any of the forms."""
    questions: dict[str, BenchmarkQuestion] = {}
    for prompt in read_prompts(path):
        question = _question(prompt)
        if question.id in questions:
            raise UserError(f"{prompt.place}: question {question.id!r} stands twice")
        questions[question.id] = question
    if not questions:
        raise UserError(f"{path} holds no questions")
    return list(questions.values())


def read_answers(path: Path, name: str) -> SystemAnswers:
    """Read a system's answers, in any of the forms."""
    answers: dict[str, tuple[str, ...]] = {}
    answer_ids: dict[str, str] = {}
    for row, place in _rows(path):
        question_id = str(row.get("id") if "messages" in row else row.get("question_id"))
        turns = _answer(row, place)
        if question_id in answers:
            raise UserError(f"{place}: question {question_id!r} is answered twice; give one file per system")
        answers[question_id] = turns
        answer_ids[question_id] = str(row.get("answer_id") or answer_id(turns[0]))
    if not answers:
        raise UserError(f"{path} holds no answers")
    return SystemAnswers(name, answers, answer_ids)


def with_references(questions: Sequence[BenchmarkQuestion], references: SystemAnswers) -> list[BenchmarkQuestion]:
    """Return the questions with the reference answers that there are."""
    return [
        replace(question, references=references.answers.get(question.id, question.references)) for question in questions
    ]


def answer_id(text: str) -> str:
    """Return the id that QLoRA gives an answer without one: a short UUID of its text."""
    # equal to shortuuid.uuid(text), which takes another name space for addresses
    space = uuid.NAMESPACE_URL if text.lower().startswith(("http://", "https://")) else uuid.NAMESPACE_DNS
    number, digits = uuid.uuid5(space, text).int, ""
    while number:
        number, digit = divmod(number, len(_SHORTUUID_ALPHABET))
        digits = _SHORTUUID_ALPHABET[digit] + digits
    return digits.rjust(22, _SHORTUUID_ALPHABET[0])


def _rows(path: Path) -> Iterator[tuple[Mapping[str, Any], str]]:
    for row, place in read_objects(path):
        if row.get("id" if "messages" in row else "question_id") is None:
            raise UserError(f"{place}: the record has neither a question_id nor an id with messages")
        yield row, place


def _question(prompt: AskedPrompt) -> BenchmarkQuestion:
    if prompt.id is None:
        raise UserError(f"{prompt.place}: the record has neither a question_id nor an id with messages")
    # MT-bench's own `reference` notes are shown to no judge: FastChat takes the reference answers of another file
    return BenchmarkQuestion.asked(prompt.id, prompt.messages, prompt.category, prompt.following)


def _answer(row: Mapping[str, Any], place: str) -> tuple[str, ...]:
    if "messages" in row:
        last = _conversation(row, place).messages[-1]
        if last.role != "assistant":
            raise UserError(f"{place}: the conversation does not end with an answer")
        return (last.content,)
    if "choices" in row:
        choices = row["choices"]
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise UserError(f"{place}: choices must be a list of objects with turns, got {choices!r}")
        return _texts(choices[0].get("turns"), "turns", place)
    for key in ("generation_truncated", "generation"):
        if key in row:
            [text] = _texts([row[key]], key, place)
            return (text.split(_QLORA_SYSTEM_PROMPT)[0],)  # as QLoRA: what follows is the next, made-up chat
    return _texts([row.get("text")], "text", place)


def _conversation(row: Mapping[str, Any], place: str) -> Conversation:
    try:
        return conversation_from_dict(row, None, place)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None


def _texts(raw: Any, key: str, place: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not raw or not all(isinstance(text, str) for text in raw):
        raise UserError(f"{place}: {key} must be text, got {raw!r}")
    return tuple(raw)
