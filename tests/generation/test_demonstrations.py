"""Demonstrations: which training answers are chosen, and where they stand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.conversation import Conversation, Message, Score, write_conversations
from steerlm.errors import UserError
from steerlm.generation.demonstrations import (
    Demonstration,
    Demonstrations,
    placed,
    read_demonstrations,
    with_demonstrations,
)
from steerlm.generation.embedding import LetterEmbedder

SCHEMA = AttributeSchema(
    (
        Attribute("humor"),
        Attribute("verbosity"),
        Attribute("tone", kind="categorical", categories=("warm", "cold")),
    )
)
ASKED = (Message("system", "Be kind."), Message("user", "How do I bake bread at home?"))
FULL = {"humor": 4, "verbosity": 0, "tone": "warm"}


def example(prompt: str, answer: str, humor: int, verbosity: int = 0, tone: str = "warm") -> Demonstration:
    values = {"humor": humor, "verbosity": verbosity, "tone": tone}
    return Demonstration(prompt, Message("assistant", answer, attributes=values))


EXAMPLES = [
    example("Where do penguins live?", "In the south, like my ex.", 4),
    example("How is bread baked?", "Knead, wait, bake. It rises, unlike me.", 4),
    example("How is bread baked?", "Flour, and puns.", 4),
    example("How do I bake bread at home?", "The very question.", 4),
    example("How is bread baked?", "Knead, wait, bake.", 0),
    example("How is dough baked?", "Bake it, cold heart.", 4, tone="cold"),
    example("How is dough made?", "Mix it, then tell it a joke.", 3),
]


def test_the_setting_counts_first_then_the_prompt_and_the_nearest_stands_last() -> None:
    chosen = Demonstrations(EXAMPLES, SCHEMA).choose(ASKED, FULL, 3)
    assert [e.answer.content for e in chosen] == [
        "Mix it, then tell it a joke.",
        "In the south, like my ex.",
        "Knead, wait, bake. It rises, unlike me.",
    ]


def test_a_partial_setting_and_one_between_two_levels() -> None:
    shown = Demonstrations(EXAMPLES, SCHEMA)
    assert shown.choose(ASKED, {"tone": "cold"}, 1)[0].answer.content == "Bake it, cold heart."
    assert shown.choose(ASKED, {"humor": 3.1, "tone": "warm"}, 1)[0].answer.content == "Mix it, then tell it a joke."
    assert shown.choose(ASKED, {}, 1)[0].prompt == "How is bread baked?"


def test_scores_tell_the_surer_of_two_equal_labels() -> None:
    def scored(mean: float) -> Demonstration:
        answer = Message("assistant", f"{mean}", attributes={"humor": 4}, scores={"humor": Score(mean, 0.3)})
        return Demonstration("Same", answer)

    [first] = Demonstrations([scored(3.55), scored(3.95)], SCHEMA).choose(ASKED, {"humor": 4}, 1)
    assert first.answer.content == "3.95"


def test_what_is_not_allowed_is_not_shown() -> None:
    shown = Demonstrations(EXAMPLES, SCHEMA)
    kind = shown.choose(ASKED, {"humor": 4}, 9, lambda e: (e.answer.attributes or {})["tone"] == "warm")
    assert len(kind) == 3
    assert all((e.answer.attributes or {})["tone"] == "warm" for e in kind)


def test_demonstrations_stand_behind_the_system_message_with_their_own_headers_or_none() -> None:
    [nearest] = Demonstrations(EXAMPLES, SCHEMA).choose(ASKED, FULL, 1)
    system, question, answer, last = placed(ASKED, [nearest])
    assert (system, last) == ASKED
    assert question == Message("user", "How is bread baked?")
    assert answer.attributes == {"humor": 4, "verbosity": 0, "tone": "warm"}
    assert placed(ASKED, [nearest], headers=False)[2].attributes is None
    assert placed(ASKED[1:], [nearest])[0].role == "user"


@pytest.mark.parametrize(("room_for", "shown"), [(9, 3), (5, 1), (1, 0)])
def test_the_farthest_are_left_out_where_the_context_is_short(room_for: int, shown: int) -> None:
    demonstrations = Demonstrations(EXAMPLES, SCHEMA)
    messages, count = with_demonstrations(demonstrations, ASKED, FULL, 3, lambda m: 100 + room_for - len(m), 101)
    assert count == shown
    assert len(messages) == len(ASKED) + 2 * shown
    if shown:
        assert messages[-2].content == "Knead, wait, bake. It rises, unlike me."


def test_first_exchanges_with_attributes_are_read(tmp_path: Path) -> None:
    first = Message("assistant", "Yes.", attributes={"humor": 1})
    records = [
        Conversation("a", (Message("user", "One?"), first, Message("user", "And?"), first)),
        Conversation("b", (Message("system", "s"), Message("user", "Two?"), first)),
        Conversation("c", (Message("user", "Three?"), Message("assistant", "No label."))),
    ]
    path = tmp_path / "train.jsonl"
    write_conversations(path, records, SCHEMA)
    assert {e.prompt for e in read_demonstrations(path, SCHEMA).examples} == {"One?", "Two?"}
    kept = read_demonstrations(path, SCHEMA, most=1).examples
    write_conversations(path, records[::-1], SCHEMA)
    assert read_demonstrations(path, SCHEMA, most=1).examples == kept
    write_conversations(path, records[2:], SCHEMA)
    with pytest.raises(UserError, match="no first answer has attributes"):
        read_demonstrations(path, SCHEMA)


def test_letters_find_words_of_any_language_and_say_nothing_of_nothing() -> None:
    texts = ["Как испечь хлеб?", "Где живут пингвины?", "パンの作り方", ""]
    vectors = LetterEmbedder(texts)(texts)
    assert np.allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0])
    [hint] = LetterEmbedder(texts)(["хлебом"])
    assert int((vectors @ hint).argmax()) == 0
