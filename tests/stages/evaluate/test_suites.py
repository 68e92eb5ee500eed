"""The paper's toxicity and humor experiments: prompts, levels, scores and what was published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from steerlm.__main__ import main
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import EvaluateConfig
from steerlm.errors import UserError
from steerlm.stages.evaluate.stage import SuiteRun, evaluate, evaluate_suite
from steerlm.stages.evaluate.suites import PUBLISHED, joke_requests, make_suite, suite_levels
from steerlm.storage.files import write_json
from tests.stages.evaluate.test_evaluate import SCHEMA, World, exact, noisy


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


@pytest.fixture
def red_team(tmp_path: Path) -> Path:
    path = tmp_path / "harmless.jsonl"
    rows = []
    for i in range(12):
        start = f"\n\nHuman: Bad question {i % 10}?\n\nAssistant: No.\n\nHuman: Why?\n\nAssistant:"
        rows.append({"chosen": start + " Because.", "rejected": start + " Dunno."})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(world: World, name: Any, prompts: Path | None, **models: Path) -> dict[str, Any]:
    config = world.config.model_copy(update={"suite_prompts": 8})
    out = world.folder / "suite"
    evaluate_suite(SuiteRun(config, name, models, None if prompts is None else str(prompts), SCHEMA, 0), out)
    results: dict[str, Any] = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return results


@pytest.mark.parametrize(
    ("attribute", "levels"),
    [
        (Attribute("toxicity", maximum=9), (0, 3, 6, 9)),
        (Attribute("toxicity"), (0, 1, 3, 4)),
        (Attribute("toxicity", minimum=1, maximum=4), (1, 2, 3, 4)),
        (Attribute("toxicity", maximum=1), (0, 1)),
    ],
)
def test_levels_stand_where_the_paper_s_do(attribute: Attribute, levels: tuple[int, ...]) -> None:
    assert suite_levels(attribute) == levels


def test_toxicity_asks_first_turns_once(red_team: Path) -> None:
    suite = make_suite("toxicity", SCHEMA, str(red_team), 100, 0)
    texts = [prompt.messages[-1].content for prompt in suite.prompts]
    assert sorted(texts) == [f"Bad question {i}?" for i in range(10)]
    assert all(len(prompt.messages) == 1 for prompt in suite.prompts)
    assert suite.source == "10 different first turns of harmless.jsonl (hh_rlhf)"
    few = make_suite("toxicity", SCHEMA, f"hh_rlhf:{red_team}", 4, 0)
    assert len(few.prompts) == 4
    assert few == make_suite("toxicity", SCHEMA, str(red_team), 4, 0)


def test_humor_asks_the_shipped_requests(world: World) -> None:
    suite = make_suite("humor", SCHEMA, None, 100, 0)
    assert {prompt.messages[-1].content for prompt in suite.prompts} == set(joke_requests())
    assert len(suite.prompts) == 100
    own = make_suite("humor", SCHEMA, str(world.prompts), 100, 0)
    assert {prompt.messages[-1].content for prompt in own.prompts} == {f"Question {i}?" for i in range(8)}


def test_an_obedient_model_scores_what_is_asked_on_a_scale_of_0_to_1(world: World, red_team: Path) -> None:
    results = run(world, "toxicity", red_team, sft=world.model("sft", exact))
    scores = results["models"]["sft"]["scorers"]["measure"]["suite"]
    assert [row["level"] for row in scores["levels"]] == [0, 1, 3, 4]
    assert [row["paper_levels"] for row in scores["levels"]] == [[0], [3], [6], [9]]
    assert [row["score"]["value"] for row in scores["levels"]] == [0, 0.25, 0.75, 1]
    assert scores["rise"]["value"] == 1
    assert scores["rise"]["clusters"] == 8
    assert results["asks"] == 8 * 4
    assert list(results["models"]["sft"]["scorers"]["measure"]["dials"]) == ["toxicity"]
    assert results["suite"]["published"]["scores"] == [0.063, 0.086, 0.096, 0.104]
    [first, _] = results["examples"]["sweeps"]
    assert [reply["requested"] for reply in first["replies"]] == [0, 1, 3, 4]
    assert {reply["attributes"]["quality"] for reply in first["replies"]} == {4}


def test_scores_are_clustered_by_prompt(world: World, red_team: Path) -> None:
    results = run(world, "toxicity", red_team, sft=world.model("sft", noisy))
    scores = results["models"]["sft"]["scorers"]["measure"]["suite"]
    rows = [json.loads(line) for line in (world.folder / "suite/sft/samples.jsonl").read_text().splitlines()]
    said = {level: [] for level in (0, 4)}  # type: dict[int, list[float]]
    for row in rows:
        if row["attributes"]["toxicity"] in said:
            said[row["attributes"]["toxicity"]].append(json.loads(row["samples"][0]["text"])["toxicity"] / 4)
    assert scores["rise"]["value"] == pytest.approx(np.mean(said[4]) - np.mean(said[0]), abs=1e-5)
    assert scores["rise"]["low"] < scores["rise"]["value"] < scores["rise"]["high"]
    assert scores["levels"][0]["score"]["value"] == pytest.approx(np.mean(said[0]), abs=1e-5)


def test_the_stage_runs_the_suites_of_its_section(world: World, red_team: Path) -> None:
    world.config = EvaluateConfig(
        measure="playground", suites=("humor", "toxicity"), toxicity_prompts=str(red_team), suite_prompts=6
    )
    evaluate(world.config, {"sft": world.model("sft", exact)}, world.prompts, SCHEMA, world.folder / "out", seed=0)
    for name in ("humor", "toxicity"):
        results = json.loads((world.folder / "out" / "suites" / name / "results.json").read_text())
        assert results["suite"]["name"] == name
        assert results["prompts"]["used"] == 6
    assert PUBLISHED["humor"].scores is None  # two anecdotes are no figure


def test_the_command_runs_a_suite_on_a_finished_run(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    run_dir = tmp_path / "run"
    raw = {
        "name": "tiny", "run_dir": str(run_dir), "attributes": SCHEMA.to_dict(),
        "prepare": {"sources": [{"name": "a", "format": "messages", "path": "a.jsonl"}]},
        "train_attribute_model": {"base_model": "m"}, "train_sft": {"base_model": "m"},
        "evaluate": {"measure": "playground", "suite_prompts": 6},
    }  # fmt: skip
    recipe.write_text(yaml.safe_dump(raw))
    world.model("model", exact)  # every checkpoint of a run lies in a folder of this name
    assert main(["evaluate", str(recipe), "--suite", "humor"]) == 2
    assert "stage 'train_sft' of" in capsys.readouterr().err
    write_json(run_dir / "train_sft" / "done.json", {"stage": "train_sft", "summary": {}})
    assert main(["evaluate", str(recipe), "--suite", "humor"]) == 0
    said = capsys.readouterr().out
    assert "humor: mean score, 0 to 1" in said
    assert "0.750" in said
    assert "joke requests shipped with steerlm" in (run_dir / "report.html").read_text()
    assert (run_dir / "evaluate" / "suites" / "humor" / "results.json").is_file()
    # without a recipe: the folder of --out is the suite's own
    model, out = world.folder / "model", tmp_path / "own"
    options = ["--set", "measure=playground", "--set", "suite_prompts=5", "--out", str(out)]
    assert main(["evaluate", "--suite", "humor", "--model", f"sft={model}", *options]) == 0
    assert json.loads((out / "results.json").read_text())["prompts"]["used"] == 5
    assert "joke requests" in (out / "report.md").read_text()


def test_mistakes_are_named(world: World, red_team: Path) -> None:
    model = world.model("sft", exact)
    with pytest.raises(UserError, match=r"red-team questions.*--prompts"):
        run(world, "toxicity", None, sft=model)
    with pytest.raises(UserError, match="needs an ordinal attribute 'humor'; the model's are toxicity:0-4"):
        make_suite("humor", AttributeSchema((Attribute("toxicity"),)), None, 10, 0)
    world.config = EvaluateConfig(measure="none")
    with pytest.raises(UserError, match="nothing measures 'humor'"):
        run(world, "humor", None, sft=model)


def test_real_red_team_questions(shared_data: Path) -> None:
    suite = make_suite("toxicity", SCHEMA, str(shared_data / "hh_rlhf" / "harmless-base-test.jsonl.gz"), 100, 0)
    assert len(suite.prompts) == 100
    assert all("Human:" not in p.messages[0].content and p.messages[0].role == "user" for p in suite.prompts)
