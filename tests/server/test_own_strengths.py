"""A model's own strengths hold for the dials that a request turns, unless it says something else."""

from __future__ import annotations

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.server.feasibility import TrainedCombinations
from steerlm.server.policy import PolicyFile, build_policy
from steerlm.server.steering import Dials, Wishes, resolve

SCHEMA = AttributeSchema(
    (Attribute("quality", best="max"), Attribute("humor"), Attribute("length", measure="words", user_settable=False))
)


PRESETS = {
    "loud": {"attributes": {"humor": 4, "quality": 0}, "guidance": {"quality": 2.0, "humor": 6.0, "length": 5.0}}
}


def guidance_of(attributes: dict[str, object], guidance: object = None, preset: str | None = None) -> dict[str, float]:
    policy = build_policy(PolicyFile.model_validate({"presets": PRESETS}), SCHEMA, [], "policy")
    dials = Dials(SCHEMA, policy.locks(None), policy, {"quality": 4.0, "humor": 3.0, "length": 2.0})
    wishes = Wishes([("attributes", attributes)], preset=preset, guidance=guidance)
    return resolve(wishes, dials, TrainedCombinations({}, SCHEMA)).guidance


def test_only_what_is_turned_away_from_its_default_counts_more() -> None:
    assert guidance_of({}) == {}
    assert guidance_of({"humor": 3}) == {"humor": 3.0}
    assert guidance_of({"humor": 3, "quality": 4}) == {"humor": 3.0}  # clients that say everything say defaults too
    # several count as one, at the least of their strengths; a locked dial has none
    assert guidance_of({"humor": 3, "quality": 0}) == {"quality": 3.0, "humor": 3.0}


def test_the_request_wins() -> None:
    assert guidance_of({"humor": 3}, 1) == {}
    assert guidance_of({"humor": 3}, 2) == {"quality": 2.0, "humor": 2.0}
    assert guidance_of({"humor": 3}, {"humor": 1}) == {}
    assert guidance_of({"humor": 3, "quality": 0}, {"humor": 5}) == {"quality": 4.0, "humor": 5.0}


def test_a_preset_s_strengths_yield_dial_by_dial() -> None:
    assert guidance_of({}, None, "loud") == {"quality": 2.0, "humor": 6.0}
    assert guidance_of({}, {"humor": 5}, "loud") == {"quality": 2.0, "humor": 5.0}
    assert guidance_of({}, {"humor": 1}, "loud") == {"quality": 2.0}  # not the model's own 3 either
    assert guidance_of({}, {}, "loud") == {"quality": 2.0, "humor": 6.0}
    assert guidance_of({}, 3, "loud") == {"quality": 3.0, "humor": 3.0}
