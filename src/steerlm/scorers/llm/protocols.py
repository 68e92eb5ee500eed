"""What a judge is asked: the Vicuna protocol, MT-bench single and pairwise, and a rubric per attribute.

* **vicuna** (Chiang et al. 2023; SteerLM, section 4): two answers side by side, two scores 1..10, with the general,
  coding or math prompt according to the question's category.
* **mt-bench-pair**, **mt-bench-single** (Zheng et al. 2023, arXiv 2306.05685): a verdict `[[A]]`, `[[B]]`, `[[C]]` or a
  rating `[[1]]`..`[[10]]` per turn, with reference answers for math, reasoning and coding.
* **rubric**: one answer, one attribute, a level of the attribute's scale.

Pairs are always shown in both orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import RubricLanguage
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.scorers.text_measures.language import language_of
from steerlm.storage.files import read_yaml

PairProtocol = Literal["vicuna", "mt-bench-pair"]
Protocol = Literal["vicuna", "mt-bench-pair", "mt-bench-single", "rubric"]

MAX_TOKENS = {"vicuna": 1024, "pair": 2048, "single": 2048, "rubric": 512}
"""Longest answer of the judge, by the first word of the prompt's name: FastChat's, and one for a short explanation."""
_VICUNA_PROMPTS = {"coding": "vicuna-coding", "math": "vicuna-math"}
REFERENCE_CATEGORIES = ("math", "reasoning", "coding")
"""The categories of MT-bench that are judged against a reference answer."""


class JudgePrompt(NamedTuple):
    """A system prompt and a template of the user prompt, filled with `str.format`."""

    system: str
    template: str


PROMPTS = {name: JudgePrompt(**texts) for name, texts in read_yaml(Path(__file__).with_name("prompts.yaml")).items()}
"""What a judge is shown, by name; the names of the MT-bench ones are FastChat's."""


@dataclass(frozen=True)
class BenchmarkQuestion:
    """A benchmark question.

    Attributes:
        category: chooses the prompt: `coding`, `math`, `reasoning`; anything else is general.
        references: reference answers, one per turn; empty where there are none.
        system: the system prompt the answers were given under; shown to no judge but the rubric's.
    """

    id: str
    turns: tuple[str, ...]
    category: str = ""
    references: tuple[str, ...] = ()
    system: str = ""

    @staticmethod
    def asked(
        name: str, messages: Sequence[Message], category: str, following: Sequence[str] = ()
    ) -> BenchmarkQuestion:
        """Return a conversation that ends with a user's turn as a question: earlier turns are written out."""
        system = messages[0].content if messages[0].role == "system" else ""
        turns = [message for message in messages if message.role != "system"]
        text = turns[0].content
        if len(turns) > 1:
            text = "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in turns)
        return BenchmarkQuestion(name, (text, *following), category, system=system)


@dataclass(frozen=True)
class SystemAnswers:
    """What one system answered.

    Attributes:
        answers: question id -> its answers, one per turn.
        answer_ids: question id -> the answer's own id, where the file has one.
    """

    name: str
    answers: Mapping[str, tuple[str, ...]]
    answer_ids: Mapping[str, str]


class JudgeRequest(NamedTuple):
    """One request to the judge: what it is shown and how long it may answer."""

    system: str
    user: str
    max_tokens: int


@dataclass(frozen=True)
class JudgeAsk:
    """One thing to be judged.

    Attributes:
        turn: 1 or 2: which answer counts.
        kind: name of the prompt, which also says how the output is read: one of `PROMPTS`, or `rubric`.
        systems: the systems in the order shown; one for single ratings.
    """

    question: str
    turn: int
    kind: str
    systems: tuple[str, ...]
    prompt: JudgeRequest
    attribute: Attribute | None = None


def pair_asks(
    protocol: PairProtocol, questions: Sequence[BenchmarkQuestion], a: SystemAnswers, b: SystemAnswers
) -> list[JudgeAsk]:
    """Ask about two systems' answers to every question that both answered, in both orders."""
    if a.name == b.name:
        raise UserError(f"two systems are called {a.name!r}; give them different names with NAME=FILE")
    common = [question for question in questions if question.id in a.answers and question.id in b.answers]
    if not common:
        raise UserError(
            f"{a.name} and {b.name} answered none of the {len(questions)} questions both; "
            f"ids look like {_example(a.answers)} and {_example(b.answers)}, the questions' like {questions[0].id!r}"
            if questions
            else "there are no questions"
        )
    build = _vicuna_asks if protocol == "vicuna" else _mt_bench_pair_asks
    return [ask for question in common for pair in ((a, b), (b, a)) for ask in build(question, *pair)]


def single_asks(questions: Sequence[BenchmarkQuestion], answers: SystemAnswers) -> list[JudgeAsk]:
    """Ask for a rating 1..10 of every answer and turn (MT-bench, single-answer grading)."""
    asks = []
    for question in questions:
        given = answers.answers.get(question.id)
        if given is None:
            continue
        for turn in range(1, _num_turns(question, given) + 1):
            kind = ("single-math-v1" if _use_reference(question, turn) else "single-v1") + _suffix(turn)
            fields = {"question": question.turns[0], "answer": given[0]}
            if turn == 2:
                fields = {f"question_{i}": text for i, text in enumerate(question.turns[:2], 1)}
                fields |= {f"answer_{i}": text for i, text in enumerate(given[:2], 1)}
            asks.append(JudgeAsk(question.id, turn, kind, (answers.name,), _fill(kind, question, fields)))
    if not asks:
        raise UserError(
            f"{answers.name} answered none of the {len(questions)} questions; ids look like {_example(answers.answers)}"
        )
    return asks


def rubric_asks(
    name: str,
    conversations: Mapping[str, Sequence[Message]],
    schema: AttributeSchema,
    language: RubricLanguage = "en",
) -> list[JudgeAsk]:
    """Ask for a level of every attribute of the last answer of every conversation.

    One attribute per request: a judge that rates several at once lets them rub off on each other, which would show as
    leakage between dials. The conversation stands first, so that a server's prefix cache serves all attributes.

    Args:
        language: that it is asked in; `conversation`: that of each conversation, or English without a rubric in it.
    """
    asks = []
    for conversation_id, messages in conversations.items():
        assert messages[-1].role == "assistant", "the last message is the answer to rate"
        words = RUBRICS[_spoken(messages) if language == "conversation" else language]
        shown = "\n\n".join(f"### {message.role.capitalize()}:\n{message.content}" for message in messages[:-1])
        for attribute in schema:
            task = words.task.format(rubric=rubric_text(attribute, words), name=attribute.name)
            user = _RATED.format(conversation=shown, answer=messages[-1].content) + task
            prompt = JudgeRequest(words.system, user, MAX_TOKENS["rubric"])
            asks.append(JudgeAsk(conversation_id, len(messages) // 2, "rubric", (name,), prompt, attribute))
    return asks


class RubricWords(NamedTuple):
    """A language's words for a rubric; see `rubrics.yaml`."""

    system: str
    task: str
    meaning: str
    choose: str
    scale: str
    degrees: Sequence[str]
    between: str


RUBRICS = {name: RubricWords(**words) for name, words in read_yaml(Path(__file__).with_name("rubrics.yaml")).items()}
"""The words of every language in which a judge can be asked for a rating."""

_RATED = (
    "[The Start of the Conversation]\n{conversation}\n[The End of the Conversation]\n\n"
    "[The Start of the Response to Rate]\n{answer}\n[The End of the Response to Rate]\n\n[Task]\n"
)


def _spoken(messages: Sequence[Message]) -> str:
    """The language of a conversation, of its answer before all; English where there is no rubric in it."""
    for text in (messages[-1].content, "\n".join(message.content for message in messages)):
        found = language_of(text)
        if found is not None:
            return found if found in RUBRICS else "en"
    return "en"


def rubric_text(attribute: Attribute, words: RubricWords = RUBRICS["en"]) -> str:
    """Return an attribute's rubric: its name, what it means, and its scale with the ends in the schema's words."""
    name = attribute.name.replace("_", " ")
    meaning = attribute.description or words.meaning.format(name=name)
    if attribute.kind == "categorical":
        return f"{name}: {meaning}\n{words.choose.format(categories=', '.join(attribute.categories))}"
    low, high = attribute.minimum, attribute.maximum
    own = {low: attribute.low, high: attribute.high}
    steps = "\n".join(f"{n}: {own.get(n) or _degree(attribute.to_unit(n), words)}" for n in range(low, high + 1))
    return f"{name}: {meaning}\n{words.scale.format(low=low, high=high)}\n{steps}"


def _degree(unit: float, words: RubricWords) -> str:
    """Words for a place on the scale; only the ends and the quarters have some, as between them words mislead."""
    quarters = unit * 4
    return words.degrees[round(quarters)] if abs(quarters - round(quarters)) < 1e-9 else words.between


def _vicuna_asks(question: BenchmarkQuestion, first: SystemAnswers, second: SystemAnswers) -> list[JudgeAsk]:
    kind = _VICUNA_PROMPTS.get(question.category, "vicuna-general")
    fields = {
        "question": question.turns[0],
        "answer_1": first.answers[question.id][0],
        "answer_2": second.answers[question.id][0],
    }
    return [JudgeAsk(question.id, 1, kind, (first.name, second.name), _fill(kind, question, fields))]


def _mt_bench_pair_asks(question: BenchmarkQuestion, first: SystemAnswers, second: SystemAnswers) -> list[JudgeAsk]:
    asks = []
    shown = (first.answers[question.id], second.answers[question.id])
    for turn in range(1, min(_num_turns(question, given) for given in shown) + 1):
        kind = ("pair-math-v1" if _use_reference(question, turn) else "pair-v2") + _suffix(turn)
        fields = {"question": question.turns[0], "answer_a": shown[0][0], "answer_b": shown[1][0]}
        if turn == 2:
            fields = {f"question_{i}": text for i, text in enumerate(question.turns[:2], 1)}
            for letter, given in zip("ab", shown, strict=True):
                fields |= {f"answer_{letter}_{i}": text for i, text in enumerate(given[:2], 1)}
        prompt = _fill(kind, question, fields)
        asks.append(JudgeAsk(question.id, turn, kind, (first.name, second.name), prompt))
    return asks


def _fill(kind: str, question: BenchmarkQuestion, fields: Mapping[str, str]) -> JudgeRequest:
    references = {f"ref_answer_{i}": text for i, text in enumerate(question.references[:2], 1)}
    system, template = PROMPTS[kind]
    return JudgeRequest(system, template.format(**fields, **references), MAX_TOKENS[kind.split("-")[0]])


def _use_reference(question: BenchmarkQuestion, turn: int) -> bool:
    """As FastChat: by category. A question without a reference is judged by the general prompt."""
    return question.category in REFERENCE_CATEGORIES and len(question.references) >= turn


def _num_turns(question: BenchmarkQuestion, given: Sequence[str]) -> int:
    return min(len(question.turns), len(given), 2)


def _suffix(turn: int) -> str:
    return "-multi-turn" if turn == 2 else ""


def _example(ids: Mapping[str, object]) -> str:
    return repr(next(iter(ids), "(none)"))
