"""The ladder through the command line on a tiny playground: interrupted, finished, extended by a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from steerlm.__main__ import main
from steerlm.config import load_recipe
from steerlm.conversation import read_conversations
from steerlm.errors import UserError
from steerlm.studies.ablate import study as stage
from steerlm.studies.ablate.rungs import RUNGS, in_folder
from tests.tiny_recipe import write_tiny_recipe

NAMES = [rung.name for rung in RUNGS]


def run(folder: Path, *arguments: str) -> int:
    return main(["ablate", str(folder / "recipe.yaml"), "--out", str(folder / "out"), *arguments])


@pytest.fixture(scope="module")
def climbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole ladder with one seed, stopped within the rung `best` and started again."""
    folder = tmp_path_factory.mktemp("ablation")
    few = {"max_steps": 12, "eval_steps": 12}
    write_tiny_recipe(folder / "recipe.yaml", folder / "run", train_attribute_model=few, train_sft=few)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "measure_model", stop_at("best", stage.measure_model))
        assert run(folder, "--seeds", "1") == 130
    done = sorted(path.parent.name for path in (folder / "out" / "seed-0").glob("*/done.json"))
    assert done == ["annotate", "human", "plain", "train_attribute_model"]
    before = weights(folder)
    assert run(folder, "--seeds", "1") == 0
    after = weights(folder)
    assert {path: after[path] for path in before} == before, "what was trained is not trained again"
    return folder


def stop_at(rung: str, work: Any) -> Any:
    def measure(config: Any, model: Path, questions: Any, schema: Any, annotator: Any, out: Path, seed: int) -> Any:
        if out.name == rung:
            raise KeyboardInterrupt
        return work(config, model, questions, schema, annotator, out, seed)

    return measure


def weights(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("model/model.safetensors")}


def results(folder: Path) -> Any:
    return orjson.loads((folder / "out" / "ablation.json").read_bytes())


def ids(path: Path) -> set[str]:
    return {record.id for record in read_conversations(path)}


def test_every_rung_has_its_figures_and_the_paper_s(climbed: Path) -> None:
    found = results(climbed)
    assert list(found["rungs"]) == NAMES
    for rung in RUNGS:
        row = found["rungs"][rung.name]
        assert row["paper"] == rung.paper
        assert row["quality"]["n"] == found["prompts"] == 20
        assert row["quality"]["low"] is not None
        assert row["steering"]["error"]["n"] == 5 * 5 * 5
        assert list(row["versus"]) == NAMES[: NAMES.index(rung.name)]
    assert found["headline"]["helpfulness"] == "measure"
    assert found["best_setting"]["helpfulness"] == 4
    assert str(climbed) not in (climbed / "out" / "ablation.json").read_text()


def test_every_rung_trains_on_what_it_should(climbed: Path) -> None:
    seed = climbed / "out" / "seed-0"
    everything = ids(seed / "annotate" / "train.jsonl")
    labelled = {r.id for r in read_conversations(climbed / "out" / "shared" / "playground" / "labelled.jsonl")}
    data = {name: ids(seed / name / "data" / "train.jsonl") for name in NAMES if name != "bootstrap"}
    assert data["plain"] == data["human"] == data["predicted"] == everything & labelled
    assert data["more"] == everything
    assert set() < data["best"] < data["human"]
    for record in read_conversations(seed / "best" / "data" / "train.jsonl"):
        assert all(record.messages[i].human_labels["helpfulness"] == 4 for i in record.assistant_turns)
    info = {
        name: orjson.loads((seed / name / "train" / "model" / "steerlm.json").read_bytes())
        for name in ("plain", "human", "predicted")
    }
    assert [info[name]["conditioning"] for name in info] == [False, True, True]
    combinations = {name: info[name]["label_statistics"]["combinations"] for name in ("human", "predicted")}
    assert combinations["human"] != combinations["predicted"], "people and the attribute model do not always agree"
    assert results(climbed)["rungs"]["bootstrap"]["training"][0]["starts_from"] == "more"


def test_the_plain_rung_hears_no_request(climbed: Path) -> None:
    steering = results(climbed)["rungs"]["plain"]["steering"]
    assert steering["slope"]["value"] == pytest.approx(0.0, abs=1e-12)
    lines = (climbed / "out" / "seed-0" / "plain" / "answers.jsonl").read_bytes().splitlines()
    for row in map(orjson.loads, lines):
        assert {answer["text"] for answer in row["sweep"]} <= {row["best"][0]["text"]}


def test_the_steerable_rungs_are_asked_every_level(climbed: Path) -> None:
    lines = (climbed / "out" / "seed-0" / "more" / "answers.jsonl").read_bytes().splitlines()
    swept = [row for row in map(orjson.loads, lines) if row["sweep"]]
    assert len(swept) == 5
    asked = {(answer["dial"], answer["level"]) for answer in swept[0]["sweep"]}
    assert len(asked) == len(swept[0]["sweep"]) == 25
    assert any(len({answer["text"] for answer in row["sweep"]}) > 1 for row in swept)


def test_table_and_plot_are_written(climbed: Path) -> None:
    text = (climbed / "out" / "ablation.md").read_text()
    assert all(f"| `{name}` |" in text for name in NAMES)
    assert "104.2" in text
    assert "exact measures" in text
    assert (climbed / "out" / "ablation.svg").read_text().count("<svg") == 1


def test_a_further_seed_leaves_the_first_one_alone(climbed: Path) -> None:
    before = weights(climbed)
    assert run(climbed, "--seeds", "2", "--rungs", "plain", "predicted") == 0
    after = weights(climbed)
    assert {path: after[path] for path in before} == before
    found = results(climbed)
    assert list(found["rungs"]) == ["plain", "predicted"]
    assert list(found["rungs"]["plain"]["quality"]["seeds"]) == ["0", "1"]
    texts = [(climbed / "out" / f"seed-{n}" / "plain" / "answers.jsonl").read_bytes() for n in (0, 1)]
    assert texts[0] != texts[1]


def test_answers_of_another_model_are_not_taken_for_this_one_s(climbed: Path) -> None:
    from steerlm.studies.ablate.measuring import measure_model, read_answers, read_questions

    recipe, out = in_folder(climbed / "recipe.yaml", {}, climbed / "out")
    folder, schema = climbed / "measured", recipe.schema_
    assert recipe.evaluate.prompts is not None
    questions = read_questions(recipe.evaluate, recipe.evaluate.prompts, schema, ("helpfulness",), 0)
    found = []
    for name in ("human", "human", "more"):
        model = out / "seed-0" / name / "train" / "model"
        measure_model(recipe.evaluate, model, questions, schema, None, folder, seed=0)
        found.append((read_answers(folder), (folder / "answers.jsonl").stat().st_mtime_ns))
    assert found[0] == found[1]
    assert found[1][0] != found[2][0]


def test_another_recipe_is_refused_in_the_same_folder(climbed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(climbed, "--seeds", "1", "--set", "train_sft.learning_rate=0.1") == 2
    assert "train_sft.learning_rate" in capsys.readouterr().err


def test_a_dry_run_lists_the_rungs_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    assert run(tmp_path, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("arguments", "said"), [(["--seeds", "0"], "at least 1"), (["--rungs", "plane"], "plain")])
def test_a_wrong_argument_is_a_user_error(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    assert run(tmp_path, *arguments) == 2
    assert said in capsys.readouterr().err


def test_without_human_labels_there_is_nothing_to_ablate(climbed: Path, tmp_path: Path) -> None:
    world = climbed / "out" / "shared" / "playground" / "unlabelled.jsonl"
    write_tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    overrides = {"playground": None, "prepare.sources": [{"name": "u", "format": "messages", "path": str(world)}]}
    overrides["prepare.evaluation_prompts"] = []
    recipe, out = in_folder(tmp_path / "recipe.yaml", overrides, tmp_path / "out")
    with pytest.raises(UserError, match="no human label"):
        stage.ablate(recipe, 1, ["plain"], out, lambda name, record: None)


def test_where_people_labelled_everything_no_rung_adds_data(climbed: Path, tmp_path: Path) -> None:
    world = climbed / "out" / "shared" / "playground" / "labelled.jsonl"
    recipe = load_recipe(write_tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run"))
    rungs, notes = stage.possible_rungs(RUNGS, prepared_from(world, tmp_path), recipe)
    assert [rung.name for rung in rungs] == ["plain", "human", "best", "predicted", "bootstrap"]
    assert "more" in notes[0]


def prepared_from(source: Path, folder: Path) -> Path:
    (folder / "train.jsonl").write_bytes(source.read_bytes())
    return folder


def test_a_measured_dial_climbs_the_ladder(tmp_path: Path) -> None:
    few = {"max_steps": 2, "eval_steps": 2}
    path = write_tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run", train_attribute_model=few, train_sft=few)
    recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    recipe["attributes"].append({"name": "length", "measure": "words"})
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    assert run(tmp_path, "--seeds", "1", "--rungs", "human") == 0
    found = results(tmp_path)
    assert found["headline"]["length"] == "dials"
    [length] = [attribute for attribute in found["attributes"] if attribute["name"] == "length"]
    assert len(length["cuts"]) == 4, "where its levels are cut the data say"
    [conversation, *_] = read_conversations(tmp_path / "out" / "seed-0" / "human" / "data" / "train.jsonl")
    assert conversation.messages[-1].human_labels.keys() > {"length"}
