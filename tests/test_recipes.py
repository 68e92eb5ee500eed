"""Every shipped recipe is valid, survives a round trip, and names models and formats that the code knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from steerlm.config import build_recipe, dump_recipe, load_recipe
from steerlm.planning.devices import parse_gpus
from steerlm.planning.estimate import plan
from steerlm.runs import recipe_stages

RECIPES = sorted((Path(__file__).resolve().parents[1] / "recipes").rglob("*.yaml"))
RECIPES = [path for path in RECIPES if "attributes" in yaml.safe_load(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_is_valid(path: Path) -> None:
    recipe = load_recipe(path)
    assert build_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe
    assert recipe.run_dir.parts[0] == "runs"
    learned = set() if recipe.schema_.learned is None else {"train_attribute_model"}
    assert {"prepare", *learned, "annotate", "train_sft", "evaluate"} <= set(recipe_stages(recipe))
    assert recipe.description


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_can_be_planned(path: Path) -> None:
    recipe = load_recipe(path)
    result = plan(recipe, parse_gpus("8xH100"), tokens=1_000_000)
    stages = [stage for stage in recipe_stages(recipe) if stage != "prepare"]
    assert [cost.stage for cost in result.stages] == stages


@pytest.mark.parametrize(("name", "devices", "nodes"), [("lora_80gb", "1xA100-80GB", 1), ("multi_node", "8xH200", 4)])
def test_what_goes_beyond_can_be_planned(name: str, devices: str, nodes: int) -> None:
    spread = {"devices_per_model": 8 if nodes > 1 else 1}
    more = {"refine": {"num_prompts": 10_000, **spread}, "contrast": spread, "reinforce": {}}
    recipe = load_recipe(next(path for path in RECIPES if path.stem == name), more)
    costs = {cost.stage: cost for cost in plan(recipe, parse_gpus(devices, nodes), tokens=20_000_000).stages}
    for stage in more:
        assert costs[stage].seconds is not None
        assert costs[stage].memory_gib is not None
    assert costs["contrast"].fits
    assert costs["refine"].fits


def test_the_promised_recipes_are_shipped() -> None:
    names = {path.stem for path in RECIPES}
    assert {"playground", "consumer_gpu", "lora_80gb", "multi_node", "paper", "helpsteer2"} <= names
    assert {"paper_43b", "no_ratings", "gemma_270m", "playground_two_languages"} <= names


def test_the_paper_recipe_carries_the_papers_hyper_parameters() -> None:
    recipe = load_recipe(next(path for path in RECIPES if path.stem == "paper"))
    assert recipe.schema_.names == (
        "quality", "toxicity", "humor", "creativity", "violence", "helpfulness", "not_appropriate",
    )  # fmt: skip
    assert all(attribute.maximum == 9 for attribute in recipe.schema_)
    assert recipe.train_attribute_model.kind == "generative"
    for section in (recipe.train_attribute_model, recipe.train_sft):
        assert section.base_model.endswith("Llama-2-13b-hf")
        assert (section.learning_rate, section.weight_decay) == (5e-6, 0.01)
        assert (section.epochs, section.max_length) == (5, 4096)
    assert recipe.bootstrap is not None
    assert recipe.bootstrap.top_k == 50


@pytest.mark.parametrize(
    ("name", "gpus", "nodes"),
    [("paper", "8xA100-80GB", 16), ("paper_43b", "8xA100-80GB", 16), ("multi_node", "8xH100", 4)],
)
def test_the_large_recipes_fit_what_they_are_for(name: str, gpus: str, nodes: int) -> None:
    recipe = load_recipe(next(path for path in RECIPES if path.stem == name))
    result = plan(recipe, parse_gpus(gpus, nodes), tokens=120_000_000)
    assert {cost.stage: cost.fits for cost in result.stages} == dict.fromkeys(
        (stage for stage in recipe_stages(recipe) if stage != "prepare"), True
    )
    assert not result.problems


def test_the_accelerate_configuration_shards_with_fsdp2() -> None:
    path = Path(__file__).resolve().parents[1] / "recipes" / "accelerate" / "fsdp2.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config["distributed_type"] == "FSDP"
    assert config["fsdp_config"]["fsdp_version"] == 2
