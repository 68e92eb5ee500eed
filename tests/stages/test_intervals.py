"""Intervals of attribute models without a head fitted in closed form, on simulated scores."""

from __future__ import annotations

import numpy as np
import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.conversation import Message
from steerlm.scorers.protocol import Score, Scores
from steerlm.stages.train_attribute_model.examples import LabelledTurn
from steerlm.stages.train_attribute_model.report import held_out_intervals

SCHEMA = AttributeSchema((Attribute("kind"), Attribute("rare")))


def simulated(count: int, claimed: float, seed: int) -> tuple[list[LabelledTurn], list[Scores]]:
    """Labels one to two levels off by their turn's own spread, of which a model claims a share."""
    draw = np.random.default_rng(seed)
    turns, scores = [], []
    for number in range(count):
        spread, mean = draw.uniform(0.2, 1.0), draw.uniform(0, 4)
        labels = {"kind": mean + draw.normal(0, spread), **({"rare": mean} if number < 9 else {})}
        turns.append(LabelledTurn((Message("assistant", "x"),), labels, f"s{number % 2}", f"g{number // 2}"))
        scores.append({name: Score(mean, claimed * spread) for name in SCHEMA.names})
    return turns, scores


@pytest.mark.parametrize("claimed", [1.0, 0.25])
def test_intervals_hold_nine_labels_of_ten_whatever_the_model_claims(claimed: float) -> None:
    multiples, covered = held_out_intervals(*simulated(2000, claimed, 0), SCHEMA, 0)
    assert multiples == {"kind": pytest.approx(1.645 / claimed, rel=0.08)}  # of a normal distribution
    assert covered["all"] == pytest.approx(0.9, abs=0.02)
    assert covered["n"] == 2000
    # as many of other turns
    turns, scores = simulated(4000, claimed, 1)
    inside = [
        abs(float(turn.labels["kind"]) - score["kind"].mean) <= multiples["kind"] * score["kind"].std
        for turn, score in zip(turns, scores, strict=True)
    ]
    assert np.mean(inside) == pytest.approx(0.9, abs=0.02)


def test_a_model_that_is_sure_of_a_level_gets_no_empty_interval() -> None:
    turns, _ = simulated(200, 1.0, 0)
    sure: list[Scores] = [
        {name: Score(float(turn.labels["kind"]) + (0.5 if i % 3 else 0.0), 0.0) for name in SCHEMA.names}
        for i, turn in enumerate(turns)
    ]
    multiples, covered = held_out_intervals(turns, sure, SCHEMA, 0)
    assert multiples["kind"] == pytest.approx(50.0)
    assert covered["all"] > 0.9  # the rest lie on the edge, by rounding


def test_few_labels_say_nothing() -> None:
    assert held_out_intervals(*simulated(30, 1.0, 0), SCHEMA, 0)[0] == {}
