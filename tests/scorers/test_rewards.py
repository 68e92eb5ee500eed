"""Attribute rewards: how near an answer comes to what it was asked for, in TRL's signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

import steerlm
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.conversation import Message, Score
from steerlm.errors import UserError
from steerlm.scorers.rewards import attribute_rewards

SCHEMA = AttributeSchema((Attribute("length"), Attribute("lang", "categorical", categories=("en", "de"))))


class Counter:
    """Says how many words an answer has, and that it is English; counts its calls."""

    who = label = "counter"
    attributes = SCHEMA.names
    calls = 0

    def independent_of(self, training: Any) -> bool:
        return True

    def score(self, turns: Sequence[Sequence[Message]]) -> list[Any]:
        self.calls += 1
        return [
            {"length": Score(float(len(turn[-1].content.split())), 0.0), "lang": Score(0, 0, {"en": 0.75, "de": 0.25})}
            if turn[-1].content
            else None
            for turn in turns
        ]


def test_rewards_are_minus_the_distance_to_the_request() -> None:
    scorer = Counter()
    rewards = steerlm.attribute_rewards(scorer, SCHEMA)
    assert [reward.__name__ for reward in rewards] == ["length", "lang"]
    given: dict[str, Any] = {
        "prompts": ["Hi"] * 4,
        "completions": ["one two three", "one two three", "", "one two three four five six seven eight nine"],
        # `datasets` fills what a row does not name with None
        "attributes": [
            {"length": 3, "lang": None}, {"length": 1, "lang": "de"}, {"length": 0, "lang": "en"}, {"length": 0},
        ],
        "completion_ids": [[1]] * 4,
        "trainer_state": None,
    }  # fmt: skip
    assert rewards[0](**given) == [0.0, -0.5, -1.0, -1.0]
    assert rewards[1](**given) == [None, -0.75, -1.0, None]
    assert scorer.calls == 1, "answers are scored once for all rewards"


def test_conversations_are_scored_as_conversations() -> None:
    seen: list[Any] = []

    class Spy(Counter):
        def score(self, turns: Sequence[Sequence[Message]]) -> list[Any]:
            seen.extend(turns)
            return super().score(turns)

    [length, _] = attribute_rewards(Spy(), SCHEMA)
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert length([prompt], [[{"role": "assistant", "content": "one"}]], attributes=[{"length": 1}]) == [0.0]
    assert seen == [[Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "one")]]


def test_measures_of_the_schema_need_no_attribute_model() -> None:
    schema = AttributeSchema((Attribute("length", measure="words", cuts=(2.0, 4.0, 8.0, 16.0)),))
    [length] = attribute_rewards(None, schema)
    assert length(["Hi"], ["one two three"], attributes=[{"length": 1}]) == [pytest.approx(0.0, abs=0.2)]
    far = length(["Hi"], ["one two three"], attributes=[{"length": 4}])[0]
    assert far is not None
    assert far < -0.5


def test_mistakes_are_named() -> None:
    [length, _] = attribute_rewards(Counter(), SCHEMA)
    with pytest.raises(UserError, match="no column `attributes`"):
        length(["Hi"], ["one"])
    with pytest.raises(UserError, match="9 is not an integer from 0 to 4"):
        length(["Hi"], ["one"], attributes=[{"length": 9}])
    more = AttributeSchema((*SCHEMA, Attribute("wit")))
    with pytest.raises(UserError, match="counter says nothing of wit"):
        attribute_rewards(Counter(), more)
