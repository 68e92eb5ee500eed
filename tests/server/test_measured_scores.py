"""Scores of answers by the measures that the served model's schema names, on the same levels as its training data."""

from __future__ import annotations

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Message
from steerlm.scorers.labelling import SchemaLabels
from steerlm.server.service import _score, answer_scorer

ROWS = [
    {"name": "length", "measure": "words", "cuts": [3, 5]},
    {"name": "quality"},
    {"name": "own", "measure": "os:system", "cuts": [1, 2]},
    {"name": "unfitted", "measure": "words"},
]


def test_measures_score_without_an_attribute_model() -> None:
    scorer = answer_scorer(AttributeSchema.from_dict(ROWS), None)
    assert isinstance(scorer, SchemaLabels)
    assert scorer.schema.names == ("length",), "nobody's own function is called"
    asked = Message("user", "Hm?")
    answers = ["one", "one two three", "one two three four five six", " "]
    scored = _score(scorer, [(asked, Message("assistant", text)) for text in answers])
    assert [None if row is None else scorer.values(row) for row in scored.scores] == [
        {"length": 0}, {"length": 1}, {"length": 2}, None,
    ]  # fmt: skip
    assert scored.num_tokens == 0


def test_a_model_without_measures_needs_an_attribute_model() -> None:
    assert answer_scorer(AttributeSchema.from_dict([{"name": "quality"}]), None) is None
