"""An LLM judge as an independent scorer of an evaluation, against the fake endpoint."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from steerlm.config import EvaluateConfig, JudgeScorerConfig
from steerlm.errors import UserError
from tests.stages.evaluate.test_evaluate import World, dials, exact
from tests.studies.judge.fake_endpoint import FakeEndpoint


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    pytest.importorskip("openai", reason="the judge extra is not installed")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "STEERLM_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    return World(tmp_path, monkeypatch)


def reads_humor(body: dict[str, Any]) -> str:
    """Rates what the answer says of itself; at level 3 it talks past the question."""
    found = re.search(r'"humor": (\d)', body["messages"][1]["content"])
    assert found is not None
    return "Hm." if found[1] == "3" else f"[[{found[1]}]]"


def use_judge(world: World, endpoint: FakeEndpoint, *attributes: str) -> None:
    judge = JudgeScorerConfig(
        folder=world.folder / "judge", model="m", base_url=endpoint.base_url, attributes=attributes
    )
    world.write_prompts(6)
    world.config = EvaluateConfig(measure="none", settings=("defaults",), judge=judge)


def test_a_judge_scores_what_it_can_read_and_the_rest_is_counted(world: World) -> None:
    with FakeEndpoint(reads_humor) as endpoint:
        use_judge(world, endpoint, "humor")
        results = world.evaluate(sft=world.model("sft", exact), annotator=world.folder / "annotator")
        asked = endpoint.num_requests
        again = world.evaluate("again", sft=world.model("sft", exact), annotator=world.folder / "annotator")
        assert endpoint.num_requests == asked, "a stored reply was paid for again"
    judge, annotator = results["scorers"]
    assert (judge["id"], judge["independent"], judge["attributes"]) == ("judge", True, ["humor"])
    assert (judge["label"], annotator["independent"]) == ("LLM judge m", False)
    assert results["headline_scorer"]["humor"] == "judge"
    curve = dials(results, "sft", "judge")["humor"]["curve"]
    assert [(row["requested"], row["value"]) for row in curve] == [(0, 0), (1, 1), (2, 2), (4, 4)]
    # six prompts, each once at humor 3
    assert results["models"]["sft"]["scorers"]["judge"]["unscored"] == {"answers": 84, "none": 6, "partly": 0}
    assert "sft: LLM judge m gave 6 of 84 answers no (whole) score." in results["cautions"]
    assert again["models"] == results["models"]
    judgements = [
        json.loads(line)
        for path in (world.folder / "judge" / "judgements").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert sum(row["problem"] == "no [[rating]]" for row in judgements) == 6


def test_mistakes_are_named(world: World) -> None:
    with FakeEndpoint(reads_humor) as endpoint:
        use_judge(world, endpoint, "humour")
        with pytest.raises(UserError, match=r"unknown attribute 'humour': did you mean 'humor'"):
            world.evaluate(sft=world.model("sft", exact))
    world.config = EvaluateConfig(judge=JudgeScorerConfig(folder=world.folder))
    with pytest.raises(UserError, match="no judge is named"):
        world.evaluate(sft=world.model("sft", exact))
