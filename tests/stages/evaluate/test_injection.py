"""How far words of a label in the text move the answer: measured on models whose answer to them is known."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import steerlm.generation.opening
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import EvaluateConfig
from steerlm.conversation import Message
from steerlm.generation.requests import Request, Sample, Sampling
from steerlm.scorers.opening import open_scorer
from steerlm.stages.evaluate.injection import WordEffects, label_words
from steerlm.stages.evaluate.panel import Panelist
from steerlm.stages.evaluate.sweeping import Prompt
from steerlm.training.decoys import decoys_to_measure

SCHEMA = AttributeSchema(
    (
        Attribute("rude", maximum=4, best="min"),
        Attribute("funny", maximum=4),
        Attribute("lang", categories=("a", "b"), kind="categorical"),
    )
)
PROMPTS = [Prompt(f"p{i}", (Message("user", f"Question {i}?"),), i, i) for i in range(14)]


class Model:
    """Answers with its setting; obeys the words of a label in the text with this strength, or in this turn only."""

    schema = SCHEMA

    def __init__(self, strength: float, role: str | None = None) -> None:
        self.strength, self.role = strength, role
        self.asked: list[Request] = []

    def room(self, request: Request) -> int:
        return 100

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        self.asked += requests
        return [[Sample(json.dumps(self._levels(request)), 4, True)] for request in requests]

    def _levels(self, request: Request) -> dict[str, float]:
        levels: dict[str, Any] = dict(request.attributes or {})
        text = " ".join(m.content for m in request.messages if self.role in (None, m.role))
        for name in ("rude", "funny"):
            if said := re.search(rf"{name}\W+[^0-9]*?(\d)", text, re.IGNORECASE):
                levels[name] += self.strength * (int(said[1]) - levels[name])
        return levels


def read_back(messages: Sequence[Message]) -> dict[str, float]:
    try:
        said = json.loads(messages[-1].content)
    except json.JSONDecodeError:  # what a scorer is tried with
        said = {"rude": 0, "funny": 0}
    return {name: float(said[name]) for name in ("rude", "funny")}


def measured(model: Model, out: Path, monkeypatch: pytest.MonkeyPatch) -> WordEffects:
    monkeypatch.setattr(steerlm.generation.opening, "open_engine", lambda *_: model)
    panel = [Panelist("measure", open_scorer(("text", read_back), SCHEMA, "auto"), SCHEMA, True)]
    return label_words(EvaluateConfig(), {"m": (Path("m"), "key")}, PROMPTS, SCHEMA, panel, out)["m"]


@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_the_effect_is_what_the_words_do(strength: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(Model(strength), tmp_path, monkeypatch)
    assert list(found.every) == list(found.unseen) == ["rude", "funny"]
    for name, effect in found.every.items():
        assert effect.n == len(decoys_to_measure()) >= 60
        assert effect.clusters == 12
        assert effect.value == pytest.approx(4 * strength, abs=0.15 * strength)
        assert effect.low <= effect.value <= effect.high
        assert 15 <= found.unseen[name].n < effect.n


def test_every_place_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("system", "user", "assistant"):
        found = measured(Model(1.0, role), tmp_path / role, monkeypatch).every["rude"]
        assert 0.3 < found.value < 3.5, role


def test_the_dial_is_fixed_at_the_end_that_the_text_does_not_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model(0.0)
    measured(model, tmp_path, monkeypatch)
    for request in model.asked:
        levels = request.attributes
        assert levels is not None
        assert set(levels) == set(SCHEMA.names)
        text = " ".join(m.content for m in request.messages)
        for name in ("rude", "funny"):
            if said := re.search(rf"{name}\W+[^0-9]*?(\d)", text, re.IGNORECASE):
                assert levels[name] == 4 - int(said[1])
    fixed = [request.attributes["rude"] for request in model.asked if request.attributes]
    assert {0, 4} <= set(fixed)


def test_called_again_nothing_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(Model(0.5), tmp_path, monkeypatch)
    again = Model(0.0)
    assert measured(again, tmp_path, monkeypatch) == first
    assert not again.asked


def test_a_judge_is_not_asked(tmp_path: Path) -> None:
    panel = [Panelist("judge", open_scorer(("text", read_back), SCHEMA, "auto"), SCHEMA, True)]
    assert label_words(EvaluateConfig(), {"m": (Path("m"), "key")}, PROMPTS, SCHEMA, panel, tmp_path) == {}
