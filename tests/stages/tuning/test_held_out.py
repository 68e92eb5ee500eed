"""What a training changed, told from two models' answers."""

from __future__ import annotations

from typing import Any

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.stages.tuning.held_out import compare

SCHEMA = AttributeSchema((Attribute("quality", best="max"), Attribute("humor")))


def test_comparison_of_answers() -> None:
    def row(cluster: int, asked: str, quality: float | None, requested: int = 4) -> dict[str, Any]:
        scores = None if quality is None else {"quality": quality, "humor": 1.0}
        return {
            "cluster": cluster, "asked": asked, "requested": {"quality": requested}, "scores": scores,
            "text": "", "finished": quality != 0.0,
        }  # fmt: skip

    before = [row(i, asked, 2.0 + (asked == "any"), 2) for i in range(8) for asked in ("best", "any")]
    after = [row(i, asked, 3.0 - (asked == "any"), 2) for i in range(8) for asked in ("best", "any")]
    after[1] = row(0, "any", None, 2)
    out = compare(before, after, SCHEMA, ("quality",))
    assert (out["requests"], out["unanswered"]) == (16, 1)
    assert out["quality"]["difference"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 8, "clusters": 8}
    assert out["error"]["quality"]["before"]["value"] == 1.0
    assert out["error"]["quality"]["after"]["value"] == 0.0
    assert out["error"]["quality"]["difference"]["n"] == 7
    assert "humor" not in out["error"], "never requested"
