"""Which turns are worth a rating, by the scores that stand in them."""

from __future__ import annotations

from steerlm.conversation import Message, Score
from steerlm.scorers.choosing import Candidate, candidate_of, choose


def scored(mean: float) -> Candidate:
    levels = {"0": 1 - mean / 2, "2": mean / 2}
    tone = Score(0.0, 0.0, {"dry": 1.0, "warm": 0.0})
    turn = Message("assistant", "The same words.", scores={"humor": Score(mean, 0.0, levels), "tone": tone})
    return candidate_of(turn, "a")


def test_a_score_of_zero_tells_turns_apart_as_any_other() -> None:
    rare = (7, 23, 31)
    turns = [scored(0.0 if i in rare else 2.0) for i in range(40)]
    assert set(choose(turns, 2)) & set(rare), "three in forty are scored otherwise"
