"""The exported folder: its card, its weights, what it replaces, and what is refused with which words."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from steerlm.__main__ import main
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.adapters import add_lora, merge_adapter
from steerlm.checkpoint.models import (
    CheckpointInfo,
    load_causal_lm,
    load_info,
    load_tokenizer,
    resize_embeddings,
    save_info,
    save_model,
)
from steerlm.commands.named_models import base_model
from steerlm.config import LoraSection
from steerlm.errors import UserError
from steerlm.exporting import export as exporting
from steerlm.exporting.export import export
from tests.exporting.models import RESULTS, SCHEMA, finished_run, scorer, steerable
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def published(run: Path) -> Path:
    """The run's export through the command line."""
    out = run.parent / "published"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(["export", str(run), "--out", str(out), "--name", "some-org/some-model"]) == 0
    assert f"hf upload some-org/some-model {out}\n" in said.getvalue()
    return out


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return steerable(tmp_path / "model")


def test_the_folder_is_complete_and_ordinary(run: Path, published: Path) -> None:
    files = {path.name for path in published.iterdir()}
    assert files == {
        "README.md", "chat_template.jinja", "config.json", "export.json", "generation_config.json",
        "model.safetensors", "steering.png", "steerlm.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert load_info(published).schema == SCHEMA
    config = GenerationConfig.from_pretrained(published)
    tokenizer = load_tokenizer(published)
    ends = ["<|end|>", "<|attributes|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end_attributes|>"]
    assert config.eos_token_id == tokenizer.convert_tokens_to_ids(ends)
    model = AutoModelForCausalLM.from_pretrained(published)
    assert model.dtype == torch.bfloat16
    final = load_file(run / "bootstrap" / "model" / "model.safetensors")
    assert all(torch.equal(final[name].bfloat16(), value) for name, value in model.state_dict().items())
    everything = "".join(p.read_text(encoding="utf-8") for p in published.iterdir() if p.suffix in (".md", ".json"))
    assert str(run) not in everything, "a folder of this machine"


def test_the_card_is_the_hubs(published: Path) -> None:
    card = ModelCard.load(published / "README.md")
    head = card.data.to_dict()
    assert head["base_model"] == "org/base-1B", "followed through the checkpoint that bootstrapping began from"
    assert head["base_model_relation"] == "finetune"
    assert head["datasets"] == ["org/chats"]
    assert head["library_name"] == "transformers"
    assert "license" not in head
    assert head["model-index"][0]["name"] == "some-model"
    results = {result.metric_name: result for result in card.data.eval_results or []}
    truth = json.loads((RESULTS / "evaluate.json").read_text(encoding="utf-8"))
    for name in SCHEMA.names:
        dial = truth["models"]["bootstrap"]["scorers"]["measure"]["dials"][name]
        found = results[f"{name}: Spearman, asked for and obtained"]
        assert found.metric_value == pytest.approx(dial["spearman"]["value"], abs=1e-4)
        assert found.metric_type == "spearmanr"
        [row] = re.findall(rf"^\| {name} \| 0: .*$", card.text, flags=re.MULTILINE)
        spearman = dial["spearman"]
        assert f"| {spearman['value']:.2f} [{spearman['low']:.2f}, {spearman['high']:.2f}] |" in row
        assert f"| {dial['n']} |" in row
        attribute = SCHEMA[name]
        assert f"| {name} | 0..4 | {attribute.default_value} | {attribute.description} |" in card.text
    for words in (
        "![",
        "(steering.png)",
        "vllm serve some-org/some-model",
        "steerlm serve",
        "arxiv.org/abs/2310.05344",
    ):
        assert words in card.text
    figure = (published / "steering.png").read_bytes()
    assert figure.startswith(b"\x89PNG")
    assert len(figure) > 20_000
    for body in re.findall(r"-d '(.*)'$", card.text, flags=re.MULTILINE):
        assert json.loads(body)["chat_template_kwargs"]["attributes"] == SCHEMA.defaults


def test_equal_exports_are_equal(run: Path, published: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "again", name="some-org/some-model")
    for file in published.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_runs_attribute_model(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "scorer", attribute_model=True)
    config = json.loads((tmp_path / "scorer" / "config.json").read_text(encoding="utf-8"))
    assert config["problem_type"] == "regression", "else vLLM puts a softmax over the outputs"
    assert config["dtype"] == "float32"
    assert list(config["id2label"].values()) == list(SCHEMA.names)
    assert [row["index"] for row in config["attribute_outputs"]] == list(range(5))
    card = ModelCard.load(tmp_path / "scorer" / "README.md")
    assert card.data.pipeline_tag == "text-classification"
    assert "--runner pooling --dtype float32" in card.text
    truth = json.loads((RESULTS / "attribute_model.json").read_text(encoding="utf-8"))["attributes"]["humor"]
    assert f"| humor | {truth['n']} | {truth['mae']['value']:.2f} [" in card.text


def test_an_attribute_model_is_served_in_the_precision_of_its_export(run: Path, tmp_path: Path) -> None:
    export(run, tmp_path / "scorer", attribute_model=True, dtype="bfloat16")
    card = (tmp_path / "scorer" / "README.md").read_text(encoding="utf-8")
    assert "--runner pooling --dtype bfloat16" in card
    assert "float32" not in card


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(SCHEMA)
    random_model(tiny_llama_config(258)).save_pretrained(tmp_path / "base")
    model = load_causal_lm(tmp_path / "base")
    resize_embeddings(model, tokenizer)
    adapted = add_lora(model, LoraSection(rank=2), [258, 259])
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    merged = merge_adapter(adapted, tmp_path / "stage" / "adapter", tokenizer)
    with pytest.raises(UserError, match=r"adapter without steerlm\.json"):
        export(tmp_path / "stage" / "adapter", tmp_path / "out")
    info = CheckpointInfo("sft", SCHEMA, "steerlm", provenance={"base_model": str(tmp_path / "base")})
    save_model(tmp_path / "stage" / "model", merged, tokenizer, info, "")
    ours = load_file(tmp_path / "stage" / "model" / "model.safetensors")
    with pytest.raises(UserError, match="is an adapter; give the folder `model` of its training"):
        load_info(tmp_path / "stage" / "adapter")
    with pytest.raises(UserError, match=f"holds no model: it has no config.json; give {tmp_path / 'stage' / 'model'}"):
        base_model(str(tmp_path / "stage" / "adapter"))
    # once more apart from its training, with the file that was missing
    shutil.copytree(tmp_path / "stage" / "adapter", tmp_path / "apart")
    shutil.copy(tmp_path / "stage" / "model" / "steerlm.json", tmp_path / "apart")
    for adapter in (tmp_path / "apart", tmp_path / "stage" / "adapter"):
        export(adapter, tmp_path / "out", dtype="float32")
        theirs = load_file(tmp_path / "out" / "model.safetensors")
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-6)
    assert "base_model" not in ModelCard.load(tmp_path / "out" / "README.md").data.to_dict(), "no hub id"
    config = tmp_path / "stage" / "adapter" / "adapter_config.json"
    for key, value, reason in (
        ("num_hidden_layers", 1, "is for another base model than"),
        ("intermediate_size", 40, "size mismatch|onto its base model"),
    ):
        other = tiny_llama_config(258)
        setattr(other, key, value)
        random_model(other).save_pretrained(tmp_path / f"{key}-{value}")
        config.write_text(
            json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": str(tmp_path / f"{key}-{value}")})
        )
        with pytest.raises(UserError, match=reason):
            export(tmp_path / "stage" / "adapter", tmp_path / "another")


def test_types_and_shards(checkpoint: Path, tmp_path: Path) -> None:
    export(checkpoint, tmp_path / "out", dtype="float16", max_shard_size="20KB")
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    shards = sorted(set(index["weight_map"].values()))
    assert len(shards) > 2
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float16
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.norm.weight"][0] = 1e6
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight .* does not fit into float16; export with --dtype"):
        export(checkpoint, tmp_path / "large", dtype="float16")
    assert not (tmp_path / "large").exists()


def test_without_results_the_card_says_so(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "out")]) == 0
    assert "no evaluation of this model was found" in capsys.readouterr().out
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "Not measured yet" in text
    assert "model-index" not in text
    assert not (tmp_path / "out" / "steering.png").exists()


def test_results_of_this_model_only(run: Path, checkpoint: Path, tmp_path: Path) -> None:
    found = export(run / "bootstrap" / "model", tmp_path / "a").found
    assert found.results is not None, "the run's evaluation is of this very checkpoint"
    assert export(run / "train_sft" / "model", tmp_path / "b").found.results is None
    with pytest.raises(UserError, match=r"evaluation of other models \(train_sft, bootstrap\)"):
        export(checkpoint, tmp_path / "c", results=run)
    with pytest.raises(UserError, match="no such file"):
        export(checkpoint, tmp_path / "c", results=tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds no evaluation"):
        export(checkpoint, tmp_path / "c", results=tmp_path / "other.json")


def test_a_known_license_is_named(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# Base\n")
    model = steerable(tmp_path / "model", base_model=str(tmp_path / "base"))
    export(model, tmp_path / "out")
    assert ModelCard.load(tmp_path / "out" / "README.md").data.license == "apache-2.0"


def test_an_export_is_replaced_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(checkpoint, out, dtype="float32")
    export(checkpoint, out, dtype="bfloat16")
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    export(out, tmp_path / "second", dtype="bfloat16")
    template = (out / "chat_template.jinja").read_text(encoding="utf-8")
    assert (tmp_path / "second" / "chat_template.jinja").read_text(encoding="utf-8") == template, "guarded once"
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds files that no export wrote \(notes.txt\)"):
        export(checkpoint, out)
    assert (out / "notes.txt").read_text() == "mine"


def test_the_source_is_never_written_over(run: Path, checkpoint: Path) -> None:
    for model, out in ((checkpoint, checkpoint), (run, run), (run, run / "bootstrap" / "model")):
        with pytest.raises(UserError, match="holds the model that is exported"):
            export(model, out)
    (checkpoint.parent / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        export(checkpoint, checkpoint.parent / "file")


def test_a_failure_leaves_the_old_export(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    export(checkpoint, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def fails(*_: Any) -> str:
        raise UserError("no card today")

    monkeypatch.setattr(exporting, "model_card", fails)
    with pytest.raises(UserError, match="no card today"):
        export(checkpoint, out, dtype="float32")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_cannot_be_exported_is_refused_with_the_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(model: Path, *flags: str) -> str:
        assert main(["export", str(model), "--out", str(tmp_path / "out"), *flags]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "no such folder" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "is not a steerlm checkpoint" in refused(tmp_path / "empty")
    model = steerable(tmp_path / "stage" / "model")
    assert f"give {model}" in refused(tmp_path / "stage")
    assert "--attribute-model" in refused(model, "--attribute-model")
    schema = AttributeSchema((Attribute("quality"),))
    rater = scorer(tmp_path / "rater", schema)
    assert "llama.cpp cannot score" in refused(rater, "--gguf")
    assert "is an attribute model; leave it out" in refused(rater, "--results", str(tmp_path))
    for kind, conditioning, words in (("generative", True, "kind: regression"), ("sft", False, "plain SFT baseline")):
        save_info(rater, CheckpointInfo(kind, schema, "steerlm", conditioning))
        assert words in refused(rater)


def test_an_unfinished_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "prepare").mkdir(parents=True)
    (run / "prepare" / "done.json").write_text("{}")
    recipe = {"name": "x", "train_attribute_model": {}, "bootstrap": {"rounds": 1}}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match=r"not finished: bootstrap is not done \(done: prepare\)"):
        export(run, tmp_path / "out")
    with pytest.raises(UserError, match="train_attribute_model is not done"):
        export(run, tmp_path / "out", attribute_model=True)


def test_a_run_of_measures_only_offers_no_attribute_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = finished_run(tmp_path / "run")
    assert main(["export", str(run), "--out", str(tmp_path / "a")]) == 0
    assert f"next     steerlm export {run} --attribute-model" in capsys.readouterr().out
    shutil.rmtree(run / "train_attribute_model")
    assert main(["export", str(run), "--out", str(tmp_path / "b")]) == 0
    assert "--attribute-model" not in capsys.readouterr().out
    measured = [{"name": "length", "measure": "words"}]
    for recipe in (
        {"name": "x", "train_attribute_model": None},
        {"name": "x", "train_attribute_model": {}, "attributes": measured},
    ):
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        assert main(["export", str(run), "--attribute-model", "--out", str(tmp_path / "c")]) == 2
        assert "has no attribute model: its recipe trains none" in capsys.readouterr().err
