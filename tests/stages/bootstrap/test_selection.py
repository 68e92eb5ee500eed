"""Which combinations are asked for, and which samples are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.models import CheckpointInfo
from steerlm.config import BootstrapConfig
from steerlm.conversation import Conversation, Message, Score
from steerlm.errors import UserError
from steerlm.stages.bootstrap.selection import (
    ScoredSample,
    bootstrapped_record,
    disagreement,
    keep,
    quality_combinations,
)

SCHEMA = AttributeSchema(
    (
        Attribute("quality", best="max"),
        Attribute("toxicity", best="min"),
        Attribute("humor"),
        Attribute("lang", "categorical", categories=("en", "de")),
    )
)


def info(*rows: dict[str, Any]) -> CheckpointInfo:
    combinations = [{"attributes": row, "count": 1} for row in rows]
    return CheckpointInfo("sft", SCHEMA, "steerlm", True, {"combinations": combinations})


def test_the_best_of_the_combinations_seen() -> None:
    rows = [
        {"quality": 4, "toxicity": 0, "humor": 1},
        {"quality": 3, "toxicity": 0, "humor": 2},
        {"quality": 4, "toxicity": 1, "humor": 3, "lang": "de"},
        {"humor": 4},
        {"toxicity": 0, "humor": 4},
    ]
    found = quality_combinations(info(*rows), ("quality",), "model")
    assert found.all == tuple(rows[:3])
    assert found.best == (rows[0], rows[2])
    assert found.is_maximum
    assert "note" not in found.summary()
    both = quality_combinations(info(*rows), ("quality", "toxicity"), "model")
    assert both.best == (rows[0],), "the best end of toxicity is its lowest"


def test_where_nothing_counts_as_quality_every_combination_is_asked_for_and_none_is_best() -> None:
    found = quality_combinations(info({"humor": 4}, {}, {"quality": 1}), (), "model")
    assert found.all == ({"humor": 4}, {"quality": 1})
    assert found.summary() == {"seen": 2, "best": 0}


def test_predictions_that_never_reach_the_maximum() -> None:
    found = quality_combinations(
        info({"quality": 2}, {"quality": 3, "humor": 0}, {"quality": 3}), ("quality",), "model"
    )
    assert found.best == ({"quality": 3, "humor": 0}, {"quality": 3})
    assert not found.is_maximum
    assert "best that does occur" in found.summary()["note"]


def test_quality_that_was_never_labelled() -> None:
    with pytest.raises(UserError, match=r"no training label of runs/x sets quality, toxicity"):
        quality_combinations(info({"quality": 4}, {"toxicity": 0}), ("quality", "toxicity"), "runs/x")
    with pytest.raises(UserError, match="'humor' has no best end"):
        quality_combinations(info({"humor": 4}), ("humor",), "model")
    with pytest.raises(UserError, match="unknown attribute 'qualty'"):
        quality_combinations(info({"quality": 4}), ("qualty",), "model")


def scored(quality: float, toxicity: float = 0.0) -> dict[str, Score]:
    return {"quality": Score(quality, 0.1), "toxicity": Score(toxicity, 0.1), "humor": Score(0, 0.1)}


def test_filters() -> None:
    samples = [None if q is None else ScoredSample({}, {}, scored(q)) for q in (2.5, None, 3.5, 3.0, 3.5)]

    def kept(**options: Any) -> list[int]:
        return keep(BootstrapConfig(mode="paper", quality_attributes=("quality",), **options), SCHEMA, samples)

    assert kept() == [0, 2, 3, 4]
    assert kept(filter="top") == [2], "the first of equals"
    assert kept(filter="top", keep_per_prompt=3) == [2, 3, 4]
    assert kept(filter="top", keep_per_prompt=9) == [0, 2, 3, 4]
    assert kept(filter="minimum", minimum_quality=3.0) == [2, 3, 4]
    assert keep(BootstrapConfig(filter="top"), SCHEMA, [None, None]) == []


def test_agreement_keeps_what_the_attribute_model_confirms() -> None:
    asked = {"quality": 4, "humor": 1}
    seen = [
        {"quality": 4, "toxicity": 0, "humor": 1},
        {"quality": 3, "toxicity": 0, "humor": 1},
        {"quality": 4, "toxicity": 4, "humor": 0},
        {"quality": 2, "toxicity": 0, "humor": 1},
    ]
    samples = [None, *(ScoredSample(asked, values, scored(3.0)) for values in seen)]

    def kept(tolerance: int) -> list[int]:
        return keep(BootstrapConfig(filter="agreement", tolerance=tolerance), SCHEMA, samples)

    assert kept(0) == [1], "toxicity was not asked for"
    assert kept(1) == [1, 2, 3]
    assert kept(2) == [1, 2, 3, 4]


def test_nearest_keeps_what_came_out_as_asked() -> None:
    asked = {"quality": 4, "humor": 1}

    def sample(quality: float, humor: float) -> ScoredSample:
        return ScoredSample(asked, {}, {}, {"quality": quality, "toxicity": 4.0, "humor": humor})

    samples = [None, sample(3.7, 1.6), sample(3.9, 1.1), sample(3.2, 1.0), sample(3.6, 1.3), sample(3.3, 1.0)]

    def kept(**options: Any) -> list[int]:
        return keep(BootstrapConfig(**options), SCHEMA, samples)

    assert kept(keep_per_prompt=1) == [2]
    assert kept(keep_per_prompt=3) == [2, 4, 5]
    assert kept(keep_per_prompt=9) == [1, 2, 4, 5], "3.2 is more than 0.75 away"
    assert kept(keep_per_prompt=9, tolerance=0.45) == [2, 4]
    assert kept(tolerance=0.05) == [], "a prompt without success is dropped"


def test_another_category_is_never_near() -> None:
    near = ScoredSample({"lang": "en"}, {"lang": "en"}, {})
    far = ScoredSample({"lang": "en"}, {"lang": "de"}, {})
    assert keep(BootstrapConfig(tolerance=9), SCHEMA, [far, near]) == [1]


def test_another_category_never_agrees() -> None:
    assert disagreement({"lang": "en"}, {"lang": "en"}) == 0
    assert disagreement({"lang": "en", "humor": 1}, {"lang": "de", "humor": 1}) == float("inf")


def test_a_record_is_conditioned_on_what_is_predicted() -> None:
    history = (
        Message("user", "Hi"),
        Message("assistant", "Hello", {"quality": 1}),
        Message("user", "Why?"),
    )
    prompt = Conversation("r1", history, "oasst", "tree 1")
    sample = ScoredSample({"quality": 4, "humor": 0}, {"quality": 3, "humor": 1}, scored(3.2))
    record = bootstrapped_record(prompt, 2, 1, "Because.", sample, "model:abc")
    assert record.messages[:3] == (history[0], replace(history[1], weight=0), history[2])
    assert record.messages[3].weight == 1
    assert record.messages[3].attributes == {"quality": 3, "humor": 1}
    assert record.messages[3].labelled_by == "model:abc"
    assert record.messages[3].human_labels == {}
    wished = bootstrapped_record(prompt, 2, 1, "Because.", sample, "model:abc", as_requested=True)
    assert wished.messages[3].attributes == {"quality": 4, "humor": 0}
    assert (record.group, record.source) == ("tree 1", "bootstrap")
    assert record.to_dict(SCHEMA)["bootstrap"] == {
        "round": 1,
        "prompt": "r1",
        "requested": {"quality": 4, "humor": 0},
    }
