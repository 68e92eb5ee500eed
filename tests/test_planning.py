from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from rich.console import Console

from steerlm.config import Recipe, build_recipe
from steerlm.planning.architectures import count_parameters
from steerlm.planning.estimate import Plan, plan
from steerlm.planning.printing import print_plan

from .test_config import MINIMAL


def save_config(folder: Path, **changes: int) -> Path:
    from transformers import LlamaConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaConfig(**{**sizes, "vocab_size": 300, "max_position_embeddings": 4096, **changes}).save_pretrained(folder)
    return folder


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, Any]:
    rows = [
        {
            "id": str(i),
            "messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "x" * 380}],
        }
        for i in range(50)
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    recipe: dict[str, Any] = yaml.safe_load(yaml.safe_dump(MINIMAL))
    recipe["run_dir"] = str(tmp_path / "run")
    recipe["prepare"]["sources"][0]["path"] = str(tmp_path / "a.jsonl")
    recipe["bootstrap"] = {"num_prompts": 10}
    return recipe


def planned(raw: dict[str, Any]) -> Plan:
    recipe: Recipe = build_recipe(raw)
    return plan(recipe)


def test_parameters_are_those_of_the_model(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(save_config(tmp_path, num_hidden_layers=3))
    model = AutoModelForCausalLM.from_config(config)
    assert count_parameters(config) == model.num_parameters()


def test_an_estimate_scales_with_the_work(raw: dict[str, Any]) -> None:
    raw["playground"] = {"num_prompts": 500, "hidden_size": 64, "num_layers": 2}
    base = f"{raw['run_dir']}/playground/base_model"
    raw["train_sft"]["base_model"] = raw["train_attribute_model"]["base_model"] = base
    one = {cost.stage: cost for cost in planned(raw).stages}
    raw["train_sft"]["epochs"] = 4
    four = {cost.stage: cost for cost in planned(raw).stages}
    assert one["train_sft"].tokens is not None
    assert four["train_sft"].tokens == 4 * one["train_sft"].tokens
    assert four["annotate"].tokens == one["annotate"].tokens
    assert set(one) == {"playground", "train_attribute_model", "annotate", "train_sft", "bootstrap", "evaluate"}


def test_nothing_is_written(raw: dict[str, Any], tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    planned(raw)
    assert set(tmp_path.rglob("*")) == before


def test_problems_name_what_to_mend(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "short", max_position_embeddings=128))
    raw["train_attribute_model"]["base_model"] = str(tmp_path / "nowhere")
    raw["evaluate"] = {"prompts": str(tmp_path / "no-prompts.jsonl")}
    data = tmp_path / "a.jsonl"
    data.write_bytes(data.read_bytes() + b"\n{oops")
    problems = "\n".join(planned(raw).problems)
    assert "train_sft.max_length 4096 is above the model's context of 128" in problems
    assert "nowhere" in problems
    assert "no-prompts.jsonl" in problems
    assert "a.jsonl:51:" in problems


def test_bad_records_are_a_note_where_the_recipe_skips_them(raw: dict[str, Any], tmp_path: Path) -> None:
    data = tmp_path / "a.jsonl"
    data.write_bytes(data.read_bytes() + b"\n{oops")
    raw["prepare"]["skip_bad_records"] = True
    result = planned(raw)
    assert any("1 bad record(s) would be skipped" in note for note in result.notes)
    assert not any("a.jsonl" in problem for problem in result.problems)


def test_data_without_assistant_turns_is_a_problem(raw: dict[str, Any], tmp_path: Path) -> None:
    row = {"id": "1", "messages": [{"role": "user", "content": "only a question"}]}
    (tmp_path / "a.jsonl").write_bytes(orjson.dumps(row))
    assert any("assistant turn" in problem for problem in planned(raw).problems)


def test_the_plan_is_printed_with_its_problems(raw: dict[str, Any]) -> None:
    console = Console(record=True, width=120)
    result = planned(raw)
    result.problems.append("something [bold]odd[/bold]")
    print_plan(result, console)
    text = console.export_text()
    assert "train_sft" in text
    assert "something [bold]odd[/bold]" in text
