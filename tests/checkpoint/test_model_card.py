"""The model card: machine-readable head, runnable example, the recipe as it was."""

from __future__ import annotations

import ast
import re

import pytest
import yaml

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.checkpoint.model_card import model_card

SCHEMA = AttributeSchema.preset("steerlm")
RECIPE = {"learning_rate": 5e-6, "lora": None, "report_to": []}


def card(kind: str = "sft", base: str = "org/base-1B", conditioning: bool = True) -> str:
    info = CheckpointInfo(kind, SCHEMA, "steerlm", conditioning, provenance={"base_model": base, "recipe": RECIPE})
    return model_card(info, {"records": 1234567}, {"validation_loss": 1.23456789, "early_stopped": False})


@pytest.mark.parametrize(("base", "listed"), [("org/base-1B", "org/base-1B"), ("runs/x/model", None), ("./m", None)])
def test_head_is_yaml_and_names_a_base_model_of_the_hub_only(base: str, listed: str | None) -> None:
    head = yaml.safe_load(card(base=base).split("---")[1])
    assert head["library_name"] == "transformers"
    assert head.get("base_model") == listed


def test_numbers_attributes_and_recipe() -> None:
    text = card()
    assert "| records | 1,234,567 |" in text
    assert "| validation loss | 1.235 |" in text
    assert "| early stopped | no |" in text
    assert all(f"| {attribute.name} | 0..4 | {attribute.default_value} |" in text for attribute in SCHEMA)
    block = re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert block is not None
    assert yaml.safe_load(block[1]) == RECIPE


def test_the_example_is_python_with_the_defaults() -> None:
    block = re.search(r"```python\n(.*?)```", card(), flags=re.DOTALL)
    assert block is not None
    calls = [node for node in ast.walk(ast.parse(block[1])) if isinstance(node, ast.Call)]
    keywords = {keyword.arg: keyword.value for call in calls for keyword in call.keywords}
    assert ast.literal_eval(keywords["attributes"]) == SCHEMA.defaults


@pytest.mark.parametrize(
    ("kind", "conditioning", "words", "steerable"),
    [
        ("sft", True, "steerable by attributes", True),
        ("sft", False, "plain SFT", False),
        ("regression", True, "attribute model (regression)", False),
        ("generative", True, "attribute model (generative)", False),
    ],
)
def test_every_kind_says_what_it_is(kind: str, conditioning: bool, words: str, steerable: bool) -> None:
    text = card(kind, conditioning=conditioning)
    assert words in text
    assert ("steerlm chat" in text) == steerable
