from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
import torch
import yaml
from rich.console import Console

from steerlm.__main__ import main
from steerlm.attributes import OASST
from steerlm.checkpoint.adapters import add_lora
from steerlm.config import BootstrapConfig, LoraSection, Recipe, TrainingSection, build_recipe
from steerlm.errors import UserError
from steerlm.planning.architectures import Architecture, architecture, known
from steerlm.planning.devices import DEVICES, Device, Machines, parse_gpus
from steerlm.planning.estimate import CostPlan, plan
from steerlm.planning.measuring import layer_speed
from steerlm.planning.memory import (
    PROCESS,
    Step,
    StepMemory,
    adapter_parameters,
    largest_batch,
    layer_bytes_per_token,
    sampling_memory,
    sequences_that_fit,
    training_memory,
)
from steerlm.planning.printing import print_plan
from steerlm.planning.speed import training_flops, training_seconds
from steerlm.planning.stage_costs import StageCost
from tests.test_config import MINIMAL


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
            "messages": [
                {"role": "user", "content": f"question {i}"},
                {"role": "assistant", "content": "x" * 380, "attributes": dict.fromkeys(OASST.names, i % 5)},
            ],
        }
        for i in range(50)
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    recipe: dict[str, Any] = yaml.safe_load(yaml.safe_dump(MINIMAL))
    recipe["run_dir"] = str(tmp_path / "run")
    recipe["prepare"]["sources"][0]["path"] = str(tmp_path / "a.jsonl")
    recipe["bootstrap"] = {"num_prompts": 10}
    return recipe


def planned(raw: dict[str, Any], machines: Machines | None = None) -> CostPlan:
    recipe: Recipe = build_recipe(raw)
    return plan(recipe, machines)


def test_parameters_are_those_of_the_model(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(save_config(tmp_path, num_hidden_layers=3))
    model = AutoModelForCausalLM.from_config(config)
    assert architecture(config).parameters == model.num_parameters()


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


@pytest.mark.parametrize("name", get_args(BootstrapConfig.model_fields["filter"].annotation))
def test_bootstrapping_is_planned_with_every_filter(raw: dict[str, Any], tmp_path: Path, name: str) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "model"))
    raw["bootstrap"] |= {"mode": "paper", "filter": name, "samples_per_prompt": 4, "keep_per_prompt": 1}
    costs = {cost.stage: cost for cost in planned(raw).stages}
    assert costs["bootstrap"].seconds is not None
    raw["bootstrap"]["filter"] = "none"
    everything = {cost.stage: cost for cost in planned(raw).stages}["bootstrap"]
    # only of `top` it is known beforehand how many answers it lets pass
    assert (costs["bootstrap"].tokens == everything.tokens) == (name != "top")


def test_a_dial_that_is_turned_up_costs_a_second_prompt(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "model"))

    def seconds(stage: str, **changes: Any) -> float:
        costs = planned(raw | changes, Machines(DEVICES["A100-80GB"])).stages
        found = next(cost.seconds for cost in costs if cost.stage == stage)
        assert found is not None
        return found

    plain = seconds("evaluate")
    assert seconds("evaluate", evaluate={"guidance": {"quality": 2}}) == pytest.approx(2 * plain)
    assert seconds("evaluate", tune_guidance={}) == pytest.approx(1.5 * plain), "of two models the last one is tuned"
    assert seconds("evaluate", tune_guidance={}, evaluate={"guidance": 1}) == pytest.approx(plain)
    assert seconds("bootstrap", bootstrap={"num_prompts": 10, "guidance": 1}) == pytest.approx(seconds("bootstrap"))
    assert seconds("bootstrap", bootstrap={"num_prompts": 10, "guidance": 4}) > seconds("bootstrap")


@pytest.mark.parametrize("changes", [{"filter": "top", "keep_per_prompt": 9}, {"rounds": 2, "mix_original": 100}])
def test_bootstrapping_trains_no_more_than_it_has(raw: dict[str, Any], tmp_path: Path, changes: dict[str, Any]) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "model"))
    raw["bootstrap"] |= {"mode": "paper", "samples_per_prompt": 3, "mix_original": 100}
    once = next(cost.tokens for cost in planned(raw).stages if cost.stage == "bootstrap")
    raw["bootstrap"] |= changes
    tokens = next(cost.tokens for cost in planned(raw).stages if cost.stage == "bootstrap")
    assert once is not None
    assert tokens == once * raw["bootstrap"].get("rounds", 1)


def test_labelling_by_measures_needs_no_model_and_a_classifier_is_left_out(raw: dict[str, Any]) -> None:
    length = {"name": "length", "measure": "words", "cuts": [1, 2, 3, 4]}
    raw |= {"attributes": [length], "train_attribute_model": None}

    def annotate(attributes: list[dict[str, Any]]) -> tuple[StageCost, CostPlan]:
        result = planned(raw | {"attributes": attributes}, Machines(DEVICES["A100-80GB"]))
        return next(cost for cost in result.stages if cost.stage == "annotate"), result

    cost, result = annotate([length])
    assert (cost.parameters, cost.memory_gib, cost.fits) == (0, 0, True)
    assert not any("annotate" in note for note in result.notes)
    rude = {"name": "rude", "classifier": {"model": "some/model", "label": "toxic"}}
    cost, result = annotate([length, rude])
    assert (cost.parameters, cost.memory_gib) == (None, None)
    assert "annotate: memory and time of the classifier some/model are left out of the estimate" in result.notes


def test_a_refinement_is_planned(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "model"))
    raw["refine"] = {"num_prompts": 10, "samples_per_prompt": 4}

    def cost() -> StageCost:
        return next(cost for cost in planned(raw).stages if cost.stage == "refine")

    once = cost()
    raw["refine"] |= {"rounds": 2, "requests_per_prompt": 3}
    more = cost()
    assert once.seconds is not None
    assert once.tokens is not None
    assert more.tokens == pytest.approx(6 * once.tokens, rel=1e-4)
    raw["refine"] |= {"samples_per_prompt": 400}
    assert cost().memory_gib > more.memory_gib, "a group is never taken apart"  # type: ignore[operator]
    raw["refine"] |= {"groups": "groups.jsonl", "rounds": 1}
    assert cost().seconds is None


def test_a_contrast_is_planned(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "model"))
    raw["contrast"] = {}
    once, again = (
        next(cost for cost in planned(raw | {"contrast": {"epochs": epochs}}).stages if cost.stage == "contrast")
        for epochs in (1, 3)
    )
    assert once.seconds is not None
    assert once.tokens is not None
    assert again.tokens == pytest.approx(2 * once.tokens)


def test_the_precision_of_weights_and_the_engine_are_followed(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_sft"]["base_model"] = raw["train_attribute_model"]["base_model"] = str(save_config(tmp_path / "model"))
    gpu = DEVICES["A100-80GB"]
    cpu = dataclasses.replace(gpu, cpu=True)

    def weights(stage: str, device: Device = gpu, **changes: Any) -> float:
        cost = next(cost for cost in planned(raw | changes, Machines(device)).stages if cost.stage == stage)
        assert cost.memory is not None
        return cost.memory.weights

    for stage in ("evaluate", "annotate"):
        assert weights(stage, **{stage: {"precision": "fp32"}}) == 2 * weights(stage)
        assert weights(stage, cpu, **{stage: {"precision": "bf16"}}) == weights(stage)
    for engine, share in (("vllm", 1), ("openvino", 2)):
        assert weights("evaluate", evaluate={"engine": engine}) == share * weights("evaluate")
        assert weights("evaluate", cpu, evaluate={"engine": engine}) == 2 * weights("evaluate")
    bootstrap = {"num_prompts": 10, "engine": "vllm"}
    notes = planned(raw | {"bootstrap": bootstrap}, Machines(gpu)).notes
    [note] = [note for note in notes if "vllm" in note]
    assert note.startswith("bootstrap: cache and time are those of the engine local")


@pytest.mark.parametrize("stage", ["refine", "contrast"])
def test_likelihoods_are_read_with_weights_in_fp32(raw: dict[str, Any], stage: str) -> None:
    # in bf16, as it samples, the model would fit one device
    raw["train_sft"] |= {"base_model": "meta-llama/Llama-3.1-8B", "tokens_per_batch": 1024}
    raw["train_sft"] |= {"lora": {"quantize_4bit": True}, "gradient_checkpointing": True}

    def problems(**section: Any) -> list[str]:
        found = planned(raw | {stage: section}, Machines(DEVICES["RTX4090"], per_node=4)).problems
        return [problem for problem in found if problem.startswith((stage, "evaluate"))]

    assert problems() == [f"{stage}: the model does not fit 1 device(s); set {stage}.devices_per_model: 2"]
    assert problems(devices_per_model=2) == []


def test_rounds_that_pool_train_what_was_kept_before(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "model"))

    def tokens(**changes: Any) -> int:
        raw["bootstrap"] = {"num_prompts": 20, "keep_per_prompt": 1, "mix_original": 0, "epochs": 1, **changes}
        found = next(cost.tokens for cost in planned(raw).stages if cost.stage == "bootstrap")
        assert found is not None
        return found

    sampled = tokens(samples_per_prompt=2) - tokens(samples_per_prompt=1)
    trained = tokens(keep_per_prompt=2) - tokens()
    assert tokens(rounds=2) == pytest.approx(2 * 2 * sampled + 3 * trained, rel=0.01)
    assert tokens(mode="paper", samples_per_prompt=8, rounds=2) == 2 * tokens(mode="paper", samples_per_prompt=8)


def test_the_tuning_of_strengths_is_planned(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "model"))
    [few, many] = [
        next(
            cost
            for cost in planned(raw | {"tune_guidance": section}, Machines(DEVICES["A100-80GB"])).stages
            if cost.stage == "tune_guidance"
        )
        for section in ({"strengths": [1, 2], "num_prompts": 4}, {"strengths": [1, 2, 3], "num_prompts": 4})
    ]
    assert few.tokens is not None
    assert many.tokens is not None
    assert many.tokens == pytest.approx(few.tokens * 3 / 2, rel=0.01)
    # a strength other than 1 reads two prompts per token
    assert many.seconds == pytest.approx(few.seconds * 5 / 3, rel=0.01)  # type: ignore[operator]


def test_a_reinforcement_is_planned(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "model"))
    once, again = (
        next(cost for cost in planned(raw | {"reinforce": {"steps": steps}}).stages if cost.stage == "reinforce")
        for steps in (10, 30)
    )
    assert once.seconds is not None
    assert once.tokens is not None
    assert again.tokens == pytest.approx(3 * once.tokens, rel=1e-4)


@pytest.mark.parametrize("shape", [None, "narrow", "wide"])
def test_the_speed_of_a_layer_is_measured_for_any_shape(shape: str | None, tmp_path: Path) -> None:
    from transformers import AutoConfig

    changes = {
        "narrow": {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 2},
        "wide": {"hidden_size": 4096, "intermediate_size": 64, "num_attention_heads": 32, "num_key_value_heads": 1},
    }
    model = None
    if shape is not None:
        model = architecture(AutoConfig.from_pretrained(save_config(tmp_path, **changes[shape])))
    assert 1e6 < layer_speed(model) < 1e15


@pytest.mark.parametrize("lora", [None, LoraSection(rank=4, target_modules=("gate_proj",))])
def test_the_layer_that_is_measured_is_of_the_models_own_kind(
    lora: LoraSection | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.tuners.lora import LoraLayer
    from transformers import Gemma3TextConfig
    from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 1}
    config = Gemma3TextConfig(**sizes, head_dim=16, num_hidden_layers=7, vocab_size=3000)
    ran: list[torch.nn.Module] = []
    forward = Gemma3DecoderLayer.forward

    def recorded(layer: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        ran.append(layer)
        return forward(layer, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Gemma3DecoderLayer, "forward", recorded)
    assert layer_speed(architecture(config), lora) > 1e6
    assert len({id(layer) for layer in ran}) == 1 < len(ran)
    adapted = [module for module in ran[0].modules() if isinstance(module, LoraLayer)]
    assert len(adapted) == (7 if lora else 0), "all of its matrices, whatever the adapters' targets are called"
    assert config.num_hidden_layers == len(config.layer_types) == 7, "left as it is"


def test_a_head_in_closed_form_is_one_reading_of_the_data(raw: dict[str, Any], tmp_path: Path) -> None:
    from transformers import BertConfig

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    BertConfig(**sizes, vocab_size=300).save_pretrained(tmp_path / "bert")
    raw["train_attribute_model"] |= {"base_model": str(tmp_path / "bert"), "epochs": 4}
    # a device of known speed: what is measured here says nothing about two plans in a row
    machines = Machines(dataclasses.replace(DEVICES["A100-80GB"], cpu=True))
    costs = {cost.stage: cost for cost in planned(raw, machines).stages}
    fitted, labels = costs["train_attribute_model"], costs["annotate"]
    raw["train_attribute_model"]["head_only"] = False
    costs = {cost.stage: cost for cost in planned(raw, machines).stages}
    tuned, labels_of_both = costs["train_attribute_model"], costs["annotate"]
    assert fitted.tokens is not None
    assert tuned.tokens == pytest.approx(4 * fitted.tokens, rel=0.01)
    assert fitted.memory is not None
    assert tuned.memory is not None
    assert fitted.memory.gradients == 0 < tuned.memory.gradients
    assert fitted.largest_batch is None
    assert labels.seconds is not None
    assert labels_of_both.seconds is not None
    assert labels_of_both.seconds > 1.5 * labels.seconds, "read beside the model that it started from"


def test_a_process_on_a_cpu_takes_memory_of_its_own(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "model"))
    recipe = build_recipe(raw)

    def least(machines: Machines) -> float:
        return min(cost.memory_gib for cost in plan(recipe, machines).stages if cost.memory_gib is not None)

    assert least(Machines(dataclasses.replace(DEVICES["A100-80GB"], cpu=True))) > PROCESS / 2**30
    assert least(Machines(DEVICES["A100-80GB"])) < PROCESS / 2**30 / 2


def test_nothing_is_written(raw: dict[str, Any], tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    planned(raw)
    assert set(tmp_path.rglob("*")) == before


def test_a_length_above_the_context_is_a_note_for_the_run_takes_the_context(
    raw: dict[str, Any], tmp_path: Path
) -> None:
    raw["train_sft"]["base_model"] = str(save_config(tmp_path / "short", max_position_embeddings=128))
    result = planned(raw)
    assert not any("max_length" in problem for problem in result.problems)
    assert any(
        "train_sft.max_length 4096 is above the model's context of 128: the run takes 128" in n for n in result.notes
    )


def test_what_bounds_a_length_besides_the_positions_is_said(raw: dict[str, Any], tmp_path: Path) -> None:
    from tests.tiny import byte_tokenizer

    base = save_config(tmp_path / "base")
    tokenizer = byte_tokenizer(None)
    tokenizer.model_max_length = 256
    tokenizer.save_pretrained(base)
    for stage in ("train_attribute_model", "train_sft"):
        raw[stage]["base_model"] = str(base)
    raw["bootstrap"]["max_new_tokens"] = 255
    raw["reinforce"] = {"max_new_tokens": 255}
    result = planned(raw)
    assert result.problems == []
    for stage in ("train_attribute_model", "train_sft"):
        assert f"{stage}.max_length 4096 is above the model's context of 256: the run takes 256" in result.notes
    assert any(
        note.startswith("evaluate.max_new_tokens 512 is all of the model's context of 256") for note in result.notes
    )
    assert not any("bootstrap.max_new_tokens" in note for note in result.notes)
    [long] = [finding for finding in result.findings if finding.kind == "length"]
    assert "50 of 50 records (100.0 %) are longer than 256 tokens" in long.text
    unread = "the attribute model reads 256 tokens: 50 of the first 50 records are longer"
    assert any(note.startswith(unread) for note in result.notes)
    raw["reinforce"] = {"max_new_tokens": 256}
    [problem] = planned(raw).problems
    assert "reinforce.max_new_tokens 256 leaves no room for a prompt within 256 tokens" in problem


def test_problems_name_what_to_mend(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["train_attribute_model"]["base_model"] = str(tmp_path / "nowhere")
    raw["evaluate"] = {"prompts": str(tmp_path / "no-prompts.jsonl")}
    data = tmp_path / "a.jsonl"
    data.write_bytes(data.read_bytes() + b"\n{oops")
    problems = "\n".join(planned(raw).problems)
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


def test_what_the_evaluation_lacks_is_a_problem_before_the_training(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["attributes"] = [{"name": "toxicity", "best": "min"}, {"name": "quality", "best": "max"}]
    raw["evaluate"] = {
        "classifiers": [{"model": str(tmp_path / "no-classifier"), "labels": {"toxic": "toxicity"}}],
        "attribute_models": [str(tmp_path / "no-scorer"), str(tmp_path / "run" / "train_attribute_model" / "model")],
        "suites": ["toxicity"],
        "toxicity_prompts": str(tmp_path / "red-team.jsonl.gz"),
    }
    problems = planned(raw).problems
    models, classifiers, suites = [p for p in problems if p.startswith("evaluate.")]
    assert models == f"evaluate.attribute_models: no such checkpoint folder: {tmp_path / 'no-scorer'}"
    assert classifiers == f"evaluate.classifiers: no such model folder: {tmp_path / 'no-classifier'}"
    assert suites == f"evaluate.suites: no such file: {tmp_path / 'red-team.jsonl.gz'}"


def test_files_that_late_stages_read_are_looked_for(raw: dict[str, Any], tmp_path: Path) -> None:
    raw["bootstrap"]["judge"] = str(tmp_path / "no-judge")
    raw["refine"] = {"groups": str(tmp_path / "no-groups.jsonl"), "response_model": str(tmp_path / "a.jsonl")}
    raw["prepare"]["evaluation_prompts"] = [str(tmp_path / "no-prompts.jsonl")]
    raw["train_sft"]["deepspeed"] = str(tmp_path / "run" / "made-by-the-run.json")
    assert [p for p in planned(raw).problems if "no such file or folder" in p] == [
        f"prepare.evaluation_prompts: no such file or folder: {tmp_path / 'no-prompts.jsonl'}",
        f"bootstrap.judge: no such file or folder: {tmp_path / 'no-judge'}",
        f"refine.groups: no such file or folder: {tmp_path / 'no-groups.jsonl'}",
    ]


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


STAGES = ("train_attribute_model", "train_sft")


def shape_of(name: str) -> Architecture:
    config = known(name)
    assert config is not None
    return architecture(config)


def step(shards: int = 1, **values: Any) -> Step:
    section = TrainingSection(base_model="none", **values)
    return Step(section, True, shards, False, True, 300.0, 1 / 3)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("meta-llama/Llama-2-13b-hf", 13_015_864_320),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
        ("meta-llama/Llama-3.1-70B", 70_553_706_496),
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
    ],
)
def test_known_models_have_their_published_size(name: str, published: int) -> None:
    assert shape_of(name).parameters == published


def test_the_papers_model_has_43_billion_parameters() -> None:
    assert shape_of("steerlm-43b").parameters == pytest.approx(43e9, rel=0.01)


def test_full_fine_tuning_takes_sixteen_bytes_per_parameter_and_sharding_divides_them() -> None:
    shape = shape_of("meta-llama/Llama-3.1-8B")
    one, eight = (training_memory(shape, step(shards), 4096) for shards in (1, 8))
    assert one.weights + one.gradients + one.optimizer == 16 * shape.parameters
    assert eight.weights + eight.gradients + eight.optimizer == 2 * shape.parameters
    assert eight.total < one.total


def test_adapters_train_a_fraction_and_four_bits_shrink_the_rest() -> None:
    from transformers import AutoModelForCausalLM

    config = known("Qwen/Qwen2.5-0.5B")
    with torch.device("meta"):
        adapted = add_lora(AutoModelForCausalLM.from_config(config), LoraSection(rank=8), ())
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    shape = shape_of("Qwen/Qwen2.5-0.5B")
    lora = LoraSection(rank=8)
    assert adapter_parameters(shape, lora) == trained
    half = training_memory(shape, step(lora=lora), 4096)
    quarter = training_memory(shape, step(lora=LoraSection(rank=8, quantize_4bit=True)), 4096)
    assert half.optimizer == 8 * adapter_parameters(shape, lora)
    assert half.weights == pytest.approx(2 * shape.parameters, rel=0.05)
    # embeddings stay in fp32; the 358 M parameters of the layers shrink to a good half byte each
    assert quarter.weights == pytest.approx(0.516 * shape.body + 4 * shape.embedding, rel=0.05)


def test_what_a_layer_keeps_is_what_autograd_keeps() -> None:
    from transformers import AutoModel, LlamaConfig

    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "vocab_size": 100}
    kept: list[int] = []
    for layers in (2, 4):
        torch.manual_seed(0)
        model = AutoModel.from_config(LlamaConfig(num_hidden_layers=layers, **sizes))
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        storages: dict[int, int] = {}

        def pack(
            tensor: torch.Tensor, storages: dict[int, int] = storages, weights: set[int] = weights
        ) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in weights:
                storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = model(torch.zeros(2, 64, dtype=torch.long), use_cache=False).last_hidden_state
        kept.append(sum(storages.values()))
        del out
    shape = architecture(LlamaConfig(num_hidden_layers=2, **sizes))
    per_layer = (kept[1] - kept[0]) / 2 / (2 * 64)
    assert layer_bytes_per_token(shape, "fp32") == pytest.approx(per_layer, rel=0.1)


def test_recomputing_saves_memory_and_costs_a_third_more() -> None:
    shape = shape_of("meta-llama/Llama-3.1-8B")
    plain, again = step(), step(gradient_checkpointing=True)
    assert training_memory(shape, again, 16384).total < 0.8 * training_memory(shape, plain, 16384).total
    assert training_flops(shape, again) / training_flops(shape, plain) == pytest.approx(4 / 3, rel=0.03)
    # six operations per parameter and token, and the logits of a third of the tokens only
    assert training_flops(shape, plain) == pytest.approx(6 * (shape.body + shape.embedding / 3), rel=0.05)


def test_on_a_cpu_what_activations_leave_is_not_there_for_gradients_and_the_tokenizer_counts() -> None:
    shape = shape_of("Qwen/Qwen2.5-0.5B")
    gpu = training_memory(shape, step(), 4096)
    cpu = training_memory(shape, dataclasses.replace(step(), cpu=True), 4096)
    moving = gpu.activations + gpu.logits
    assert gpu.total == pytest.approx(gpu.weights + gpu.optimizer + gpu.copies + max(moving, gpu.gradients))
    assert cpu.total == pytest.approx(cpu.weights + cpu.optimizer + cpu.copies + moving + cpu.gradients + cpu.process)
    smaller = dataclasses.replace(shape, vocab=shape.vocab - 100_000)
    process = training_memory(smaller, dataclasses.replace(step(), cpu=True), 4096).process
    assert cpu.process - process == pytest.approx(0.14e9, rel=0.01)


def test_the_largest_batch_is_the_largest_that_fits() -> None:
    shape = shape_of("Qwen/Qwen2.5-0.5B")
    room = DEVICES["RTX4090"].memory_gib
    largest = largest_batch(shape, step(), room, 1024)
    assert largest is not None
    assert largest % 1024 == 0
    assert (
        training_memory(shape, step(), largest).gib <= 0.9 * room < training_memory(shape, step(), largest + 1024).gib
    )
    assert largest_batch(shape_of("meta-llama/Llama-3.1-70B"), step(), room, 1024) is None


def test_communication_counts_only_between_devices_and_slow_links_show() -> None:
    shape = shape_of("meta-llama/Llama-3.1-8B")
    seconds = {
        nodes: training_seconds(shape, step(8 * nodes), parse_gpus("8xH100", nodes), 1e8, 1024) for nodes in (1, 2)
    }
    # tiny batches on two nodes wait for the network: twice the devices are slower than one node
    assert seconds[2] > seconds[1]
    large = {
        nodes: training_seconds(shape, step(8 * nodes), parse_gpus("8xH100", nodes), 1e9, 65536) for nodes in (1, 2)
    }
    assert large[1] / large[2] == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize(
    ("text", "nodes", "fragment"),
    [
        ("H100", 1, "not of the form"),
        ("8xH10", 1, "unknown device 'H10'"),
        ("128xA100", 1, "--nodes N"),
        ("8xH100", 0, "--nodes must be at least 1"),
    ],
)
def test_devices_that_make_no_sense_are_errors(text: str, nodes: int, fragment: str) -> None:
    with pytest.raises(UserError, match=re.escape(fragment)):
        parse_gpus(text, nodes)


def test_devices_are_read() -> None:
    machines = parse_gpus("8 x a100", 16)
    assert (machines.device.name, machines.count, str(machines)) == ("A100-80GB", 128, "16 nodes of 8 x A100-80GB")
    assert machines.slowest_link == DEVICES["A100-80GB"].network
    assert parse_gpus("8xA100").slowest_link == DEVICES["A100-80GB"].link


def test_the_command_says_what_fits_and_what_it_costs(
    raw: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    raw["train_sft"]["base_model"] = raw["train_attribute_model"]["base_model"] = "meta-llama/Llama-3.1-8B"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(raw), encoding="utf-8")
    assert main(["plan", str(recipe), "--gpus", "1xL40S", "--tokens", "10M"]) == 1
    text = " ".join(capsys.readouterr().out.split())
    assert "train_sft: not even the smallest batch fits" in text
    keys = [f"{stage}.{key}=true" for stage in STAGES for key in ("fsdp", "gradient_checkpointing")]
    fitting = [word for key in keys for word in ("--set", key)]
    assert (
        main(["plan", str(recipe), "--gpus", "8xH100", "--tokens", "10M", "--price-per-gpu-hour", "2", *fitting]) == 0
    )
    text = capsys.readouterr().out
    assert "8 x H100" in text
    words = " ".join(text.split())
    assert "~ estimated from the data sheet of H100" in words
    assert "operations / (0.4 x 989 TFLOP/s)" in words
    assert re.search(r"train_sft.*~[\d.]+ GiB.*~\d", text)
    assert "cost" in text
    assert "8.0 B" in text


def test_a_model_that_fits_no_device_is_spread(raw: dict[str, Any]) -> None:
    raw["train_sft"]["base_model"] = raw["train_attribute_model"]["base_model"] = "meta-llama/Llama-3.1-70B"
    machines = parse_gpus("8xH100")

    def problems() -> dict[str, str]:
        return dict(text.split(": ", 1) for text in planned(raw, machines).problems)

    # a tuned attribute model is read beside the one that it started from
    assert problems()["annotate"] == "the model does not fit 1 device(s); set annotate.devices_per_model: 4"
    raw["train_attribute_model"]["readout"] = "last"
    assert problems()["annotate"] == "the model does not fit 1 device(s); set annotate.devices_per_model: 2"
    assert problems()["evaluate"] == "the model does not fit 1 device(s); set evaluate.devices_per_model: 4"
    raw["annotate"] = {"devices_per_model": 2}
    raw["evaluate"] = {"devices_per_model": 4}
    raw["bootstrap"] |= {"devices_per_model": 6}
    assert not {"annotate", "evaluate"} & set(problems())
    assert problems()["bootstrap"] == "devices_per_model: 6 does not divide the model's heads; 4 does"


def test_samples_are_drawn_by_as_many_as_the_memory_has_room_for() -> None:
    shape = shape_of("meta-llama/Llama-2-13b-hf")

    def memory_of(sequences: int) -> StepMemory:
        return sampling_memory(shape, sequences, 1200, 2.0, False)

    fitting = sequences_that_fit(64, 72, memory_of)
    assert memory_of(fitting).gib <= 72 < memory_of(fitting + 1).gib
    assert sequences_that_fit(4, 72, memory_of) == 4
    assert sequences_that_fit(64, 10, memory_of) == 1
    # half the weights and half the cache on each of two devices
    halves = sampling_memory(shape, 8, 1200, 2.0, False, 2)
    assert halves.weights == memory_of(8).weights / 2
    assert halves.activations == memory_of(8).activations / 2


def test_a_model_that_is_not_here_is_a_note_that_says_how_to_get_it(raw: dict[str, Any]) -> None:
    raw["train_sft"]["base_model"] = "some-org/some-model"
    notes = "\n".join(planned(raw).notes)
    assert "hf download some-org/some-model config.json" in notes
    assert "--set train_sft.base_model=FOLDER" in notes


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--tokens", "many"], "--tokens 'many'"),
        (["--nodes", "2"], "needs --gpus"),
        (["--price-per-gpu-hour", "-1"], "must be 0 or more"),
    ],
)
def test_arguments_of_the_plan_that_make_no_sense_are_errors(
    arguments: list[str], fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "recipes/playground.yaml", *arguments]) == 2
    assert fragment in capsys.readouterr().err


ACCELERATE = sorted((Path(__file__).resolve().parents[2] / "recipes" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda path: path.stem)
def test_accelerate_reads_the_shipped_configurations(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(path))  # an unknown key is an error
    assert config.num_processes == 8 * config.num_machines
    assert config.num_machines == (4 if "multi_node" in path.stem else 1)
    known_options = {action.dest for action in launch_command_parser()._actions}
    options = {**(config.fsdp_config or {}), **(config.deepspeed_config or {})}
    assert set(options) <= known_options
    if "fsdp2" in path.stem:
        assert options["fsdp_version"] == 2


def test_the_deepspeed_configuration_leaves_the_recipes_settings_to_the_recipe() -> None:
    path = ACCELERATE[0].parent / "deepspeed_zero3.json"
    settings = orjson.loads(path.read_bytes())
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    for key in ("gradient_accumulation_steps", "gradient_clipping", "train_micro_batch_size_per_gpu"):
        assert settings[key] == "auto"
    for config in ACCELERATE:
        if "deepspeed" in config.stem:
            named = yaml.safe_load(config.read_text(encoding="utf-8"))["deepspeed_config"]["deepspeed_config_file"]
            assert (ACCELERATE[0].parents[2] / named) == path


def test_what_will_learn_nothing_is_said_before(raw: dict[str, Any], tmp_path: Path) -> None:
    from tests.tiny import byte_tokenizer

    base = save_config(tmp_path / "base")
    byte_tokenizer(None).save_pretrained(base)
    lines = (tmp_path / "a.jsonl").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    for row in rows:
        row["messages"][1]["attributes"] = {"quality": 4}
    rows[0]["messages"][1]["content"] = "x" * 900
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(orjson.dumps(row) for row in rows))
    raw["train_attribute_model"]["base_model"] = str(base)
    raw["train_sft"] |= {"base_model": str(base), "max_length": 512, "epochs": 1, "tokens_per_batch": 4096}
    steps, labels, long = planned(raw).findings
    assert "about 5 optimizer steps are planned" in steps.text
    assert "nearly all labels of quality are on one level (50 of 50 turns at 4)" in labels.text
    assert "1 of 50 records (2.0 %) are longer than 512 tokens" in long.text
    raw["train_sft"] |= {"max_length": 2048, "epochs": 20, "tokens_per_batch": 2048}
    assert [finding.kind for finding in planned(raw).findings] == ["labels"]
    console = Console(record=True, width=200)
    print_plan(planned(raw), console)
    assert "warning: prepare: nearly all labels of quality" in console.export_text()


def test_dials_that_nothing_will_measure_are_said_before(raw: dict[str, Any]) -> None:
    raw |= {"train_attribute_model": None, "annotate": None, "bootstrap": None}
    raw["train_sft"]["labels"] = "human"
    names = ", ".join(OASST.names)

    def said(**evaluate: Any) -> list[str]:
        found = planned({**raw, "evaluate": evaluate}).findings
        return [finding.text for finding in found if finding.kind == "unmeasured"]

    assert said() == [f"nothing will measure {names}"]
    assert said(classifiers=[{"model": "some/model", "labels": {"toxic": "toxicity"}}]) == [
        f"nothing will measure {', '.join(name for name in OASST.names if name != 'toxicity')}"
    ]
    assert said(measure="playground") == []
    assert said(judge={"model": "m", "folder": "judged"}) == []
    raw["train_attribute_model"] = {"base_model": "m"}
    assert said() == []
