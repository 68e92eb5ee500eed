from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from steerlm.attributes import OASST, Attribute, AttributeSchema
from steerlm.config import RubricLanguage
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.scorers.llm.protocols import (
    PROMPTS,
    RUBRICS,
    BenchmarkQuestion,
    SystemAnswers,
    pair_asks,
    rubric_asks,
    rubric_text,
    single_asks,
)


def answers(name: str, turns: dict[str, tuple[str, ...]]) -> SystemAnswers:
    return SystemAnswers(name, turns, {question: f"{name}-{question}" for question in turns})


TWO_TURNS = BenchmarkQuestion("101", ("How many?", "And now?"), "math", ("Four.", "Five."))
A = answers("a", {"101": ("A one {x}", "A two"), "7": ("only a",)})
B = answers("b", {"101": ("B one", "B two")})


def test_the_prompts_are_the_published_ones_to_the_letter(shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "fastchat_judge/judge_prompts.jsonl").read_text().splitlines()]
    for row in rows:
        assert PROMPTS[row["name"]] == (row["system_prompt"], row["prompt_template"])
    vicuna = (shared_data / "vicuna/prompts/vicuna_prompt_relative.jsonl").read_text().splitlines()
    for row in map(json.loads, vicuna):
        template = row["prompt_template"].replace("{prompt}", row["defaults"]["prompt"])
        assert PROMPTS[f"vicuna-{row['category']}"] == (row["system_prompt"], template)
    assert len(PROMPTS) == len(rows) + len(vicuna)


@pytest.mark.parametrize(
    ("category", "kind"),
    [("coding", "vicuna-coding"), ("math", "vicuna-math"), ("generic", "vicuna-general"), ("", "vicuna-general")],
)
def test_vicuna_shows_both_orders_with_the_prompt_of_the_category(category: str, kind: str) -> None:
    asks = pair_asks("vicuna", [BenchmarkQuestion("101", ("Why?",), category)], A, B)
    assert [(ask.systems, ask.kind, ask.turn) for ask in asks] == [(("a", "b"), kind, 1), (("b", "a"), kind, 1)]
    user = asks[0].prompt.user
    assert user.startswith(
        "[Question]\nWhy?\n\n[The Start of Assistant 1's Answer]\nA one {x}\n\n[The End of Assistant 1's Answer]\n\n"
        "[The Start of Assistant 2's Answer]\nB one\n\n[The End of Assistant 2's Answer]\n\n[System]\n"
    )
    assert asks[1].prompt.user.index("B one") < asks[1].prompt.user.index("A one {x}")
    assert asks[0].prompt.max_tokens == 1024


def test_mt_bench_pairs_have_two_turns_with_references_where_the_category_wants_them() -> None:
    asks = pair_asks("mt-bench-pair", [TWO_TURNS], A, B)
    kinds = ["pair-math-v1", "pair-math-v1-multi-turn"]
    assert [(ask.systems, ask.kind, ask.turn) for ask in asks] == [
        (systems, kind, turn) for systems in (("a", "b"), ("b", "a")) for turn, kind in enumerate(kinds, 1)
    ]
    first, second = asks[0].prompt.user, asks[1].prompt.user
    assert "[The Start of Reference Answer]\nFour.\n" in first
    assert "Five." not in first
    assert "A two" not in first
    for part in (
        "### User:\nAnd now?",
        "### Reference answer:\nFive.",
        "### Assistant A:\nA two",
        "Assistant B:\nB two",
    ):
        assert part in second


def test_without_a_reference_the_general_prompt_judges() -> None:
    asks = pair_asks("mt-bench-pair", [BenchmarkQuestion("101", TWO_TURNS.turns, "math")], A, B)
    assert [ask.kind for ask in asks][:2] == ["pair-v2", "pair-v2-multi-turn"]
    writing = BenchmarkQuestion("101", TWO_TURNS.turns, "writing", TWO_TURNS.references)
    assert single_asks([writing], A)[0].kind == "single-v1"
    half = BenchmarkQuestion("101", TWO_TURNS.turns, "math", ("Four.",))
    assert [ask.kind for ask in single_asks([half], A)] == ["single-math-v1", "single-v1-multi-turn"]


def test_mt_bench_single_rates_every_turn_that_was_answered() -> None:
    asks = single_asks([TWO_TURNS, BenchmarkQuestion("7", ("Hm?", "Well?"))], A)
    assert [(ask.question, ask.turn, ask.kind) for ask in asks] == [
        ("101", 1, "single-math-v1"),
        ("101", 2, "single-math-v1-multi-turn"),
        ("7", 1, "single-v1"),
    ]
    assert "### Assistant A:\nA two" in asks[1].prompt.user


def test_only_questions_that_both_answered_are_compared() -> None:
    questions = [BenchmarkQuestion("7", ("Hm?",)), BenchmarkQuestion("101", ("Why?",))]
    assert {ask.question for ask in pair_asks("vicuna", questions, A, B)} == {"101"}
    with pytest.raises(UserError, match="a and c answered none of the 2 questions both; ids look like '101' and 'zzz'"):
        pair_asks("vicuna", questions, A, answers("c", {"zzz": ("c",)}))
    with pytest.raises(UserError, match="two systems are called 'a'"):
        pair_asks("vicuna", questions, A, A)
    with pytest.raises(UserError, match="a answered none of the 1 questions"):
        single_asks([BenchmarkQuestion("8", ("Hm?",))], A)


def test_the_rubric_asks_for_one_attribute_at_a_time() -> None:
    schema = AttributeSchema((OASST["humor"], Attribute("lang", kind="categorical", categories=("en", "de"))))
    conversation = [
        Message("system", "Be brief."),
        Message("user", "Hello?"),
        Message("assistant", "Old answer"),
        Message("user", "A joke?"),
        Message("assistant", "The answer to rate"),
    ]
    humor, lang = rubric_asks("s", {"c1": conversation}, schema)
    assert (humor.question, humor.turn, humor.kind, humor.systems) == ("c1", 2, "rubric", ("s",))
    assert (humor.attribute, lang.attribute) == tuple(schema)
    assert (
        "humor: How funny the response tries to be.\nScale, from 0 (lowest) to 4 (highest):\n0: " in humor.prompt.user
    )
    assert humor.prompt.user.endswith("humor: [[rating]]")
    assert "one of: en, de." in lang.prompt.user
    assert "toxicity" not in humor.prompt.user + lang.prompt.user
    shared = humor.prompt.user.index("humor: How funny")
    assert humor.prompt.user[:shared] == lang.prompt.user[:shared]  # what a prefix cache keeps
    start = humor.prompt.user.index("[The Start of the Response to Rate]")
    assert "The answer to rate" in humor.prompt.user[start:]
    assert "Old answer" in humor.prompt.user[:start]
    assert "Be brief." in humor.prompt.user[:start]


def test_the_ends_of_the_scale_have_the_schemas_own_words() -> None:
    plain = rubric_text(Attribute("humor")).splitlines()
    named = rubric_text(Attribute("humor", low="dry as dust", high="one joke after another")).splitlines()
    assert (named[2], named[-1]) == ("0: dry as dust", "4: one joke after another")
    assert named[:2] + named[3:-1] == plain[:2] + plain[3:-1]
    assert rubric_text(Attribute("humor", low="dry")).splitlines()[1:] == [plain[1], "0: dry", *plain[3:]]


@pytest.mark.parametrize("language", [name for name in RUBRICS if name != "en"])
def test_a_judge_can_be_asked_in_another_language(language: RubricLanguage) -> None:
    schema = AttributeSchema(
        (Attribute("my_dial", maximum=5), Attribute("tone", categories=("dry", "warm"), kind="categorical"))
    )
    conversation = [Message("user", "Hallo?"), Message("assistant", "Die Antwort")]
    for ask, english in zip(
        rubric_asks("s", {"1": conversation}, schema, language),
        rubric_asks("s", {"1": conversation}, schema),
        strict=True,
    ):
        assert ask.attribute is not None
        begin = ask.prompt.user.index("[Task]")
        assert ask.prompt.user[:begin] == english.prompt.user[:begin]
        task = ask.prompt.user[begin:]
        assert task.endswith(f"{ask.attribute.name}: [[rating]]")
        assert not set(task.splitlines()[1:-1]) & set(english.prompt.user.splitlines()) - {""}
        assert ask.prompt.system != english.prompt.system
        levels = ask.attribute.levels if ask.attribute.kind == "ordinal" else ()
        assert [line.split(":")[0] for line in task.splitlines() if line[:1].isdigit()] == [
            str(level) for level in levels
        ]
        assert ask.attribute.kind == "ordinal" or "dry, warm" in task
        assert len(RUBRICS[language].degrees) == 5


@pytest.mark.parametrize(
    ("said", "language"),
    [
        ("Der Teig muss eine Stunde lang ruhen, bevor er in den Ofen kommt.", "de"),
        ("The dough has to rest for an hour before it goes into the oven.", "en"),
        ("Deigen skal hvile i en time, før den kommer i ovnen.", "en"),  # Danish, for which there is no rubric
        ("42", "de"),  # too short: what was said before it tells
    ],
)
def test_a_judge_is_asked_in_the_language_of_the_conversation(said: str, language: RubricLanguage) -> None:
    question = Message("user", "Wie lange muss der Teig ruhen, und warum ist das eigentlich so wichtig?")
    conversation = {"1": [question, Message("assistant", said)]}
    schema = AttributeSchema((Attribute("humor"),))
    assert rubric_asks("s", conversation, schema, "conversation") == rubric_asks("s", conversation, schema, language)


def test_every_language_that_a_recipe_may_name_has_a_rubric() -> None:
    assert {*RUBRICS, "conversation"} == set(get_args(get_args(RubricLanguage)[0]))


@pytest.mark.parametrize(("maximum", "named"), [(4, 5), (9, 2), (1, 2), (2, 3)])
def test_every_level_of_the_scale_stands_in_the_rubric(maximum: int, named: int) -> None:
    lines = rubric_text(Attribute("humor", maximum=maximum)).splitlines()
    assert [line.split(":")[0] for line in lines[2:]] == [str(level) for level in range(maximum + 1)]
    assert sum("in between" not in line for line in lines[2:]) == named
    assert lines[2].endswith("as little as possible")
    assert lines[-1].endswith("as much as possible")
