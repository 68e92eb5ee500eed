"""Deciding pairs by measured attributes: weights, margins, empty answers, and what cannot be decided."""

from __future__ import annotations

import pytest

from steerlm.attributes import OASST, AttributeSchema
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.studies.compare.deciding import (
    Objective,
    check_weights,
    decide,
    default_weights,
    open_decider,
    parse_weights,
    score_answers,
)
from steerlm.studies.compare.systems import ComparedPrompt, SystemAnswer

PROMPTS = [ComparedPrompt(str(i), (Message("user", "Why?"),), "", i) for i in range(4)]


def verdicts(a: list, b: list, objective: Objective) -> list[float]:
    answers = {name: [SystemAnswer("said")] * len(a) for name in "ab"}
    rows = {"a": [{"humor": x, "toxicity": y} for x, y in a], "b": [{"humor": x, "toxicity": y} for x, y in b]}
    matches, unscored = decide(PROMPTS, answers, rows, objective)
    assert unscored == 0
    assert all((match.first, match.second) == ("a", "b") for match in matches)
    return [match.outcome for match in matches]


def test_the_weighted_sum_decides():
    a, b = [(4, 0), (4, 3), (1, 0), (2, 2)], [(2, 0), (2, 0), (2, 0), (2, 2)]
    assert verdicts(a, b, Objective({"humor": 1, "toxicity": -1})) == [1.0, 0.0, 0.0, 0.5]
    assert verdicts(a, b, Objective({"humor": 1, "toxicity": -0.5})) == [1.0, 1.0, 0.0, 0.5]
    assert verdicts(a, b, Objective({"humor": -1})) == [0.0, 0.0, 1.0, 0.5]


def test_differences_within_the_margin_are_ties():
    a, b = [(4, 0), (3, 0), (2.5, 0), (2, 0)], [(3, 0), (3, 0), (3, 0), (4, 0)]
    assert verdicts(a, b, Objective({"humor": 1}, tie_margin=0.5)) == [1.0, 0.5, 0.5, 0.0]
    assert verdicts(a, b, Objective({"humor": 1}, tie_margin=1.0)) == [0.5, 0.5, 0.5, 0.0]


def test_an_empty_answer_loses_and_a_missing_score_is_counted():
    answers = {
        "a": [SystemAnswer(""), SystemAnswer("x"), SystemAnswer(" "), SystemAnswer("x")],
        "b": [SystemAnswer("y"), SystemAnswer("")] * 2,
    }
    scores = {"a": [None, {"humor": 0}, None, {"humor": 4}], "b": [{"humor": 0}, None, None, None]}
    matches, unscored = decide(PROMPTS, answers, scores, Objective({"humor": 1}))
    assert [(match.prompt, match.outcome) for match in matches] == [("0", 0.0), ("1", 1.0), ("2", 0.0), ("3", 1.0)]
    answers["b"][3] = SystemAnswer("y")
    assert decide(PROMPTS, answers, scores, Objective({"humor": 1}))[1] == unscored + 1 == 1


def test_every_pair_of_systems_meets_once_per_prompt():
    answers = {name: [SystemAnswer("said")] * 4 for name in "abc"}
    scores = {name: [{"humor": i}] * 4 for i, name in enumerate("abc")}
    matches, _ = decide(PROMPTS, answers, scores, Objective({"humor": 1}))
    assert {(m.first, m.second) for m in matches} == {("a", "b"), ("a", "c"), ("b", "c")}
    assert len(matches) == 12


def test_weights():
    assert parse_weights("humor=1, toxicity=-0.5") == {"humor": 1.0, "toxicity": -0.5}
    assert default_weights(OASST, OASST.names) == {"quality": 1.0, "toxicity": -1.0}
    assert default_weights(OASST, ("toxicity", "words")) == {"toxicity": -1.0}
    for bad in ("humor", "humor=", "=1", "humor=much"):
        with pytest.raises(UserError, match="not of the form attribute=number"):
            parse_weights(bad)
    with pytest.raises(UserError, match="nothing says what counts as better"):
        default_weights(None, ("words", "characters"))
    with pytest.raises(UserError, match="does not measure 'humour': did you mean 'humor'"):
        check_weights({"humour": 1.0}, OASST.names)


def test_exact_measures_score_what_is_there():
    scorer, schema = open_decider("text")
    assert schema is None
    scores = score_answers(scorer, PROMPTS[:2], {"a": [SystemAnswer("One two three."), SystemAnswer("")]})
    assert scores["a"][0] is not None
    assert (scores["a"][0]["words"], scores["a"][1]) == (3.0, None)
    assert "words" in scorer.attributes
    assert set(open_decider("playground")[0].attributes) >= {"toxicity", "humor", "helpfulness"}


def test_unknown_scorers_are_refused(tmp_path):
    with pytest.raises(UserError, match="is none of playground, text and no folder"):
        open_decider("texts")
    from steerlm.checkpoint.info import CheckpointInfo, save_info

    save_info(tmp_path, CheckpointInfo("sft", AttributeSchema.preset("oasst"), "steerlm"))
    with pytest.raises(UserError, match="that is a steerable model; give the attribute model"):
        open_decider(str(tmp_path))
