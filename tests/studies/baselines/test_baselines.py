"""The baselines through the command line on a tiny playground."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from steerlm.__main__ import main
from steerlm.conversation import read_conversations
from steerlm.studies.baselines import preferences
from steerlm.studies.baselines import study as stage
from tests.tiny_recipe import write_tiny_recipe

SETTINGS = "baselines={dpo_batch_size: 8, rloo_batch_size: 8, dpo_learning_rates: [1.0e-5, 1.0e-3]}"


def run(folder: Path, *arguments: str) -> int:
    where = ["--out", str(folder / "out"), "--set", "bootstrap=null"]
    return main(["baselines", str(folder / "recipe.yaml"), "--seeds", "1", *where, *arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All methods with one seed, stopped before RLOO and started again; one of the dials is measured."""
    folder = tmp_path_factory.mktemp("baselines")
    write_tiny_recipe(
        folder / "recipe.yaml",
        folder / "run",
        train_attribute_model={"max_steps": 12, "eval_steps": 12},
        train_sft={"max_steps": 12, "eval_steps": 12},
        evaluate={"num_prompts": 3},
    )
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["attributes"].append({"name": "length", "measure": "words", "best": "min"})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        # so small an attribute model sees hardly any difference
        patch.setattr(preferences, "MARGIN", 1e-6)
        patch.setattr(stage, "_VALIDATION_PROMPTS", 16)
        with pytest.MonkeyPatch.context() as interruption:
            interruption.setattr(stage, "_rloo", interrupt)
            assert run(folder, "--set", SETTINGS) == 130
        done = sorted(path.parent.name for path in (folder / "out" / "seed-0" / "baselines").glob("*/done.json"))
        assert done == ["best", "dpo", "plain", "sft", "steerlm"]
        before = weights(folder)
        assert run(folder, "--set", SETTINGS) == 0
    after = weights(folder)
    assert {path: after[path] for path in before} == before, "what was trained is not trained again"
    return folder


def interrupt(*arguments: Any) -> Any:
    raise KeyboardInterrupt


def weights(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("model/model.safetensors")}


def results(folder: Path) -> Any:
    return orjson.loads((folder / "out" / "baselines.json").read_bytes())


def test_every_method_has_its_figures(trained: Path) -> None:
    found = results(trained)
    assert list(found["methods"]) == ["steerlm", "plain", "best", "dpo", "rloo", "grpo"]
    assert found["quality_attributes"] == ["toxicity", "helpfulness", "length"]
    for name, row in found["methods"].items():
        assert row["quality"]["n"] == 12 * 4
        assert row["quality"]["value"] is not None
        assert row["by_annotator"]["n"] > 0
        assert (row["minus_steerlm"] is None) == (name == "steerlm")
        [training] = row["training"]
        assert training["seconds"] > 0
        assert training["peak_memory_mib"] > 100
    text = (trained / "out" / "baselines.md").read_text()
    assert all(f"| `{name}` |" in text for name in found["methods"])
    assert str(trained) not in text + (trained / "out" / "baselines.json").read_text()


def test_the_methods_spend_what_steerlm_spends(trained: Path) -> None:
    spent = {
        name: row["training"][0]["spent_tokens"] + row["training"][0]["sampled_tokens"]
        for name, row in results(trained)["methods"].items()
    }
    # whole optimizer steps of about a thousand tokens
    for name, tokens in spent.items():
        if name == "best":
            tokens = results(trained)["methods"]["best"]["training"][0]["trials"][1]["spent_tokens"]
        assert tokens == pytest.approx(spent["steerlm"], rel=0.15), name
    assert results(trained)["methods"]["rloo"]["training"][0]["sampled_tokens"] > 0


def test_only_models_with_dials_hear_a_request(trained: Path) -> None:
    for name, row in results(trained)["methods"].items():
        slope = row["steering"]["slope"]["value"]
        if name in ("steerlm", "grpo"):
            assert row["steerable"]
        else:
            assert slope == pytest.approx(0.0, abs=1e-12)


def test_of_several_shares_of_the_budget_the_best_records_get_the_one_that_is_liked_most(trained: Path) -> None:
    training = results(trained)["methods"]["best"]["training"][0]
    small, whole = training["trials"]
    assert (small["share"], whole["share"]) == (0.25, 1.0)
    assert small["spent_tokens"] < whole["spent_tokens"]
    assert training["validation_reward"] == max(small["validation_reward"], whole["validation_reward"])
    best = list(read_conversations(trained / "out" / "seed-0" / "baselines" / "best" / "data" / "train.jsonl"))
    everything = list(read_conversations(trained / "out" / "seed-0" / "annotate" / "train.jsonl"))
    assert 0.09 * len(everything) < len(best) < len(everything)


def test_of_several_learning_rates_the_attribute_model_s_choice_is_kept(trained: Path) -> None:
    training = results(trained)["methods"]["dpo"]["training"][0]
    rewards = {trial["learning_rate"]: trial["validation_reward"] for trial in training["trials"]}
    assert list(rewards) == [1e-5, 1e-3]
    assert training["learning_rate"] == max(rewards, key=lambda rate: rewards[rate])


def test_trials_are_kept_and_without_two_different_answers_dpo_says_what_is_missing(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preferences, "MARGIN", 99.0)
    folder = trained / "out" / "seed-0" / "baselines" / "dpo"
    done = folder / "done.json"
    done.unlink()
    assert run(trained, "--set", SETTINGS) == 0, "trials that are done are not done again"
    kept = {path: path.read_bytes() for path in (done, *folder.glob("rate-*/trial.json"))}
    assert len(kept) == 3
    for path in kept:
        path.unlink()
    try:
        assert run(trained, "--set", SETTINGS) == 2
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
    assert "two answers of different quality" in capsys.readouterr().err


def test_a_dry_run_lists_the_methods_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    assert run(tmp_path, "--dry-run", "--set", "annotate=null") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in stage.METHODS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_without_trl_the_extra_is_named(
    dry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "trl":
            raise ModuleNotFoundError(name, name=name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    write_tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    assert run(tmp_path, *dry) == 2
    assert "steerlm[baselines]" in capsys.readouterr().err


def test_a_batch_that_is_no_whole_number_of_groups_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    assert run(tmp_path, "--set", "baselines={rloo_batch_size: 10}") == 2
    assert "num_generations" in capsys.readouterr().err
