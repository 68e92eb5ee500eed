"""How good a response is."""

from __future__ import annotations

import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.conversation import Score
from steerlm.stages.tuning.quality import predicted_quality

SCHEMA = AttributeSchema((Attribute("quality", best="max"), Attribute("toxicity", best="min"), Attribute("humor")))


def scored(quality: float, toxicity: float) -> dict[str, Score]:
    return {"quality": Score(quality, 0.1), "toxicity": Score(toxicity, 0.1), "humor": Score(0, 0.1)}


def test_quality_counts_towards_the_best_end() -> None:
    assert predicted_quality(SCHEMA, ("quality", "toxicity"), scored(3.0, 1.0)) == pytest.approx(3.0)
    assert predicted_quality(SCHEMA, ("quality", "toxicity"), scored(3.0, 3.0)) == pytest.approx(2.0)
