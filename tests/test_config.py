from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlm.config import BootstrapConfig, LoraSection, Recipe, build_recipe, dump_recipe, load_recipe, validate
from steerlm.errors import UserError

MINIMAL: dict[str, Any] = {
    "name": "tiny",
    "run_dir": "runs/tiny",
    "attributes": "oasst",
    "prepare": {"sources": [{"name": "a", "format": "messages", "path": "${run_dir}/a.jsonl"}]},
    "train_attribute_model": {"base_model": "m"},
    "train_sft": {"base_model": "m"},
}


def with_value(dotted: str, value: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load(yaml.safe_dump(MINIMAL))
    node = recipe
    *parents, last = dotted.split(".")
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return recipe


def test_a_minimal_recipe_gets_defaults_and_its_run_dir() -> None:
    recipe = build_recipe(MINIMAL)
    assert recipe.schema_.names == ("quality", "toxicity", "humor", "creativity")
    assert recipe.prepare.sources[0].path == Path("runs/tiny/a.jsonl")
    assert recipe.bootstrap is None


@pytest.mark.parametrize(
    ("dotted", "value"),
    [
        ("bootstrap.samples_per_prompt", 2),
        ("evaluate.num_prompts", None),
        ("train_attribute_model.early_stopping_patience", None),
    ],
)
def test_the_resolved_copy_loads_to_an_equal_recipe(dotted: str, value: Any) -> None:
    recipe = build_recipe(with_value(dotted, value))
    assert build_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("dotted", "value", "words"),
    [
        ("train_sft.learning_rat", 1, ["train_sft.learning_rat", "did you mean 'learning_rate'"]),
        ("prepear", {}, ["unknown key 'prepear'", "'prepare'"]),
        ("train_sft.lora", {"rnk": 3}, ["train_sft.lora.rnk", "'rank'"]),
        ("train_sft.learning_rate", -1, ["train_sft.learning_rate", "greater than 0", "-1"]),
        ("train_sft.epochs", float("inf"), ["train_sft.epochs", "finite number"]),
        ("train_sft.max_steps", 0, ["train_sft.max_steps", "0 steps train nothing"]),
        ("bootstrap.minimum_quality", float("nan"), ["bootstrap.minimum_quality", "finite number"]),
        ("train_sft.template", "chatlm", ["train_sft.template", "'chatml'", "'chatlm'"]),
        ("bootstrap.quality_attributes", ["humor"], ["'humor' has no best end"]),
        ("bootstrap.quality_attributes", ["qality"], ["did you mean 'quality'"]),
        ("bootstrap", {"guidance": 2, "engine": "vllm"}, ["bootstrap.guidance", "vllm cannot mix prompts"]),
        ("bootstrap", {"guidance": {"qality": 2}}, ["did you mean 'quality'"]),
        ("attributes", "oast", ["unknown schema preset", "did you mean 'oasst'"]),
        ("attributes", [{"name": "q", "maxmum": 3}], ["unknown key 'maxmum'", "'maximum'"]),
        ("prepare.sources", [{"name": "a", "format": "messages"}], ["exactly one of path, hub"]),
        ("name", None, ["name: must be text (got null)"]),
        ("evaluate.guidance", {"humour": 4}, ["evaluate.guidance: unknown attribute", "did you mean 'humor'"]),
        ("attributes", [{"name": "q", "default": 9}], ["default of attribute q: 9 is not an integer from 0 to 4"]),
    ],
)
def test_mistakes_name_the_place_the_value_and_the_fix(dotted: str, value: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        build_recipe(with_value(dotted, value), "recipe.yaml")
    for word in [*words, "recipe.yaml"]:
        assert word in str(error.value)


def test_a_mistake_between_sections_does_not_show_the_whole_recipe() -> None:
    with pytest.raises(UserError) as error:
        build_recipe(with_value("bootstrap.quality_attributes", ["humor"]), "recipe.yaml")
    assert str(error.value) == "recipe.yaml: bootstrap.quality_attributes: 'humor' has no best end in the schema"


def test_human_labels_cannot_condition_bootstrapped_samples() -> None:
    labels = with_value("train_sft.labels", "human")
    assert build_recipe(labels).train_sft.labels == "human"
    with pytest.raises(UserError, match="nobody labels bootstrapped samples"):
        build_recipe(labels | {"bootstrap": {"samples_per_prompt": 2}})


def test_vllm_labels_with_a_head_on_the_last_token_only() -> None:
    recipe = with_value("annotate.engine", "vllm")
    for fits in ({"readout": "last"}, {"lora": {}}, {"fsdp": True}):
        build_recipe({**recipe, "train_attribute_model": {"base_model": "b", **fits}})
    build_recipe({**recipe, "train_attribute_model": None})
    for other in ({}, {"kind": "generative", "readout": "last"}):
        with pytest.raises(UserError, match=r"annotate\.engine is vllm.*train_attribute_model\.readout"):
            build_recipe({**recipe, "train_attribute_model": {"base_model": "b", **other}})


def test_a_plain_model_cannot_bootstrap() -> None:
    plain = with_value("train_sft.conditioning", False)
    assert build_recipe(plain).train_sft.conditioning is False
    with pytest.raises(UserError, match="bootstrapping needs a model to ask for quality"):
        build_recipe(plain | {"bootstrap": {"samples_per_prompt": 2}})


def test_two_sources_of_one_name_are_refused() -> None:
    source = {"name": "a", "format": "messages", "path": "x.jsonl"}
    with pytest.raises(UserError, match="'a' stands twice"):
        build_recipe(with_value("prepare.sources", [source, source]))


@pytest.mark.parametrize(("width", "heads"), [(100, 3), (36, 4)])
def test_heads_of_the_playground_divide_its_width(width: int, heads: int) -> None:
    with pytest.raises(
        UserError, match=rf"playground: hidden_size {width} is not an even multiple of num_heads {heads}"
    ):
        build_recipe(with_value("playground", {"hidden_size": width, "num_heads": heads}))
    assert build_recipe(with_value("playground", {"hidden_size": 48, "num_heads": 4})).playground is not None


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"classifiers": [{"model": "m", "labels": {"toxic": "toxicty"}}]}, "'toxicty': did you mean 'toxicity'"),
        ({"classifiers": [{"model": "m", "labels": {}}]}, "labels"),
        ({"judge": {"folder": "j", "attributes": ["humour"]}}, "'humour': did you mean 'humor'"),
        ({"suites": ["toxicity"]}, "set evaluate.toxicity_prompts"),
        ({"suites": ["violence"]}, "evaluate.suites"),
    ],
)
def test_scorers_and_suites_are_checked_before_anything_is_trained(evaluate: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_recipe(with_value("evaluate", evaluate))
    fine = {"suites": ["humor"], "classifiers": [{"model": "m", "labels": {"toxic": "toxicity"}}]}
    assert build_recipe(with_value("evaluate", fine)).evaluate.suites == ("humor",)


def test_suites_and_classifiers_need_an_ordinal_attribute() -> None:
    raw = with_value(
        "attributes", [{"name": "quality"}, {"name": "humor", "kind": "categorical", "categories": ["a", "b"]}]
    )
    with pytest.raises(UserError, match="needs an ordinal attribute"):
        build_recipe({**raw, "evaluate": {"suites": ["humor"]}})
    with pytest.raises(UserError, match="which is categorical"):
        build_recipe({**raw, "evaluate": {"classifiers": [{"model": "m", "labels": {"x": "humor"}}]}})


def test_a_wrong_item_is_not_reported_as_a_list_too_short() -> None:
    with pytest.raises(UserError, match=r"sources\.0\.format") as error:
        build_recipe(with_value("prepare.sources", [{"name": "a", "format": "alpacca", "path": "a.jsonl"}]))
    assert "at least 1 item" not in str(error.value)


def test_overrides_open_a_section_that_the_resolved_copy_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(build_recipe(MINIMAL)))
    recipe = load_recipe(tmp_path / "recipe.yaml", {"train_sft.lora.rank": 4})
    assert recipe.train_sft.lora == LoraSection(rank=4)


def test_missing_file_and_malformed_yaml(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such recipe: .*nowhere.yaml"):
        load_recipe(tmp_path / "nowhere.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: x\nprepare: [1, 2\n")
    with pytest.raises(UserError, match=r"bad\.yaml:3:1: malformed YAML"):
        load_recipe(bad)
    bad.write_text("- just a list\n")
    with pytest.raises(UserError, match=r"holds \['just a list'\]: a recipe is keys and values"):
        load_recipe(bad)


def test_overrides_reach_nested_values(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    recipe = load_recipe(path, {"train_sft.epochs": 3, "run_dir": "runs/other"})
    assert recipe.train_sft.epochs == 3
    assert recipe.prepare.sources[0].path == Path("runs/other/a.jsonl")
    with pytest.raises(UserError, match="'name' is not a section"):
        load_recipe(path, {"name.x": 1})


def test_every_field_is_described() -> None:
    def sections(model: Any) -> list[Any]:
        return [model, *(s for m in model.__subclasses__() for s in sections(m))]

    from steerlm.config import Section

    undescribed = [
        f"{section.__name__}.{name}"
        for section in sections(Section)
        if section not in (Section, Recipe)
        for name, field in section.model_fields.items()
        if not field.description
    ]
    assert undescribed == []


@pytest.mark.parametrize(
    ("dotted", "value", "message"),
    [
        ("train_sft", None, "train_sft: must be a section of keys and values (got null)"),
        ("train_sft.lora", True, "train_sft.lora: must be a section of keys and values (got true)"),
        ("prepare.sources", {"a": 1}, "prepare.sources: must be a list (got {'a': 1})"),
        ("tune_guidance.strengths", [], "tune_guidance.strengths: needs 2 or more entries, has 0"),
        ("tune_guidance.strengths", [2], "tune_guidance.strengths: needs 2 or more entries, has 1"),
        ("tune_guidance.strengths", ["a"], "tune_guidance.strengths.0: must be a number (got 'a')"),
        ("evaluate.guidance", "strong", "evaluate.guidance: must be a number or keys and values (got 'strong')"),
        ("evaluate.guidance", -1, "evaluate.guidance: must be greater than or equal to 0 (got -1)"),
        ("evaluate.guidance", {"humor": "x"}, "evaluate.guidance.humor: must be a number (got 'x')"),
        ("attributes", [3], "attributes.0: must be keys and values (got 3)"),
        ("label.price_per_million", [1], "'label.price_per_million.1' is missing"),
    ],
)
def test_mistakes_are_said_in_a_recipes_words(dotted: str, value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        build_recipe(with_value(dotted, value), "recipe.yaml")
    assert str(error.value) == f"recipe.yaml: {message}"


def test_an_empty_recipe_is_said_to_be_empty(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# nothing yet\n")
    with pytest.raises(UserError, match=r"recipe\.yaml is empty: a recipe is keys and values"):
        load_recipe(path)


def test_a_character_that_yaml_does_not_allow(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("run_dir: a\x01b\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"malformed YAML: unacceptable character #x0001"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ([{"name": "length"}], ()),
        ([{"name": "length"}, {"name": "wit", "best": "max"}, {"name": "harm", "best": "min"}], ("wit", "harm")),
        ([{"name": "quality", "best": "max"}, {"name": "wit", "best": "max"}], ("quality",)),
        ([{"name": "quality"}, {"name": "wit", "best": "max"}], ("wit",)),
    ],
)
def test_what_counts_as_quality_follows_from_the_attributes(attributes: list[Any], names: tuple[str, ...]) -> None:
    raw = {**MINIMAL, "attributes": attributes, "bootstrap": {"guidance": 4}}
    recipe = build_recipe(raw)
    assert recipe.bootstrap is not None
    assert recipe.bootstrap.quality_attributes == names
    assert build_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("section", ["bootstrap", "refine", "contrast", "reinforce"])
def test_what_trains_on_scores_needs_somebody_who_gives_them(section: str) -> None:
    raw = {**MINIMAL, "attributes": [{"name": "length", "measure": "words"}, {"name": "wit"}]}
    raw = {key: value for key, value in raw.items() if key not in ("train_attribute_model", "bootstrap")}
    build_recipe(raw)
    with pytest.raises(UserError, match=f"{section} compares answers .* nothing says wit: add a section train_attribu"):
        build_recipe({**raw, section: {}})
    build_recipe({**raw, section: {}, "attributes": raw["attributes"][:1]})


@pytest.mark.parametrize("section", [{"mode": "paper"}, {"filter": "top"}])
def test_the_papers_bootstrapping_needs_a_best_end(section: dict[str, Any]) -> None:
    raw = {**MINIMAL, "attributes": [{"name": "length"}], "bootstrap": section}
    with pytest.raises(UserError, match=r"no attribute has a best end: say `best: max`.*`mode: nearest`"):
        build_recipe(raw)
    with pytest.raises(UserError, match=r"bootstrap\.quality_attributes: unknown attribute 'quality': valid: length"):
        build_recipe({**raw, "bootstrap": {**section, "quality_attributes": ["quality"]}})


def test_the_mode_of_bootstrapping_sets_what_is_left_open() -> None:
    nearest, paper = BootstrapConfig(), BootstrapConfig(mode="paper")
    assert (nearest.keep_per_prompt, nearest.temperature, nearest.learning_rate_share, nearest.epochs) == (
        2,
        None,
        0.25,
        3,
    )
    assert (paper.keep_per_prompt, paper.temperature, paper.learning_rate_share, paper.epochs) == (1, 1.0, 1, None)
    assert nearest.learning_rate_after(0.004) == pytest.approx(0.001)
    assert paper.learning_rate_after(0.004) == 0.004
    assert BootstrapConfig(learning_rate=0.5).learning_rate_after(0.004) == 0.5
    # recipes older than the modes name a filter, and mean the paper's way
    assert BootstrapConfig(filter="top") == BootstrapConfig(mode="paper", filter="top")
    assert BootstrapConfig(start_from="base").mix_original == 1
    assert BootstrapConfig.model_validate(paper.model_dump()) == paper


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"mode": "nearest", "filter": "top"}, "filter top belongs to mode: paper"),
        ({"mode": "paper", "temperature": None}, "a temperature is chosen in mode: nearest only"),
        ({"start_from": "base", "mix_original": 0}, "start_from: base needs original records"),
    ],
)
def test_what_does_not_go_together_in_bootstrapping(values: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        validate(BootstrapConfig, values, "bootstrap")
