"""Loading and saving: safetensors only, whole or not at all, schema inside, adapters merged."""

from __future__ import annotations

import json
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2 import TemplateError
from safetensors import SafetensorError
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint import models
from steerlm.checkpoint.adapters import add_lora, merge_adapter
from steerlm.checkpoint.models import (
    CheckpointInfo,
    autocast_bf16,
    fingerprint,
    inference_dtype,
    load_causal_lm,
    load_info,
    load_sequence_classifier,
    load_tokenizer,
    resize_embeddings,
    sampling_precision,
    save_info,
    save_model,
)
from steerlm.config import LoraSection
from steerlm.errors import UserError
from steerlm.template.installing import install_template
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

SCHEMA = AttributeSchema.preset("helpsteer")
INFO = CheckpointInfo(
    "sft",
    SCHEMA,
    "steerlm",
    label_statistics={"combinations": [{"attributes": {"helpfulness": 4}, "count": 2}]},
    provenance={"base_model": "tiny"},
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    tokenizer = byte_tokenizer(SCHEMA)
    save_model(tmp_path / "model", random_model(tiny_llama_config(len(tokenizer))), tokenizer, INFO, "# card\n")
    return tmp_path / "model"


def test_a_checkpoint_is_an_ordinary_folder_that_carries_its_schema(checkpoint: Path) -> None:
    assert load_info(checkpoint) == INFO
    tokenizer = load_tokenizer(checkpoint)
    assert "attributes" in tokenizer.chat_template
    assert (checkpoint / "README.md").read_text() == "# card\n"
    generation = json.loads((checkpoint / "generation_config.json").read_text())
    assert generation["eos_token_id"] == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert generation["pad_token_id"] == tokenizer.pad_token_id
    assert json.loads((checkpoint / "config.json").read_text())["use_cache"]
    assert list(checkpoint.glob("*.safetensors"))
    assert not list(checkpoint.glob("*.bin"))
    assert not list(checkpoint.parent.glob(".*"))
    plain = LlamaForCausalLM.from_pretrained(checkpoint)
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(plain(ids).logits, load_causal_lm(checkpoint)(ids).logits, rtol=0, atol=0)


def test_saving_replaces_what_was_there_and_clears_a_broken_attempt(checkpoint: Path) -> None:
    tokenizer = byte_tokenizer(SCHEMA)
    (checkpoint / "stale.txt").write_text("x")
    (checkpoint.parent / ".model.partial").mkdir()
    (checkpoint.parent / ".model.partial" / "junk").write_text("x")
    before = fingerprint(checkpoint)
    save_model(checkpoint, random_model(tiny_llama_config(len(tokenizer)), seed=1), tokenizer, INFO, "")
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == ["model"]
    assert not (checkpoint / "stale.txt").exists()
    assert fingerprint(checkpoint) != before


def test_fingerprint_depends_on_weights_and_info_alone(checkpoint: Path, tmp_path: Path) -> None:
    first = fingerprint(checkpoint)
    assert len(first) == 16
    (checkpoint / "README.md").write_text("another card")
    moved = tmp_path / "elsewhere"
    checkpoint.rename(moved)
    assert fingerprint(moved) == first
    save_info(moved, CheckpointInfo("sft", SCHEMA, "steerlm", conditioning=False))
    assert fingerprint(moved) != first
    with pytest.raises(UserError, match="no such checkpoint folder"):
        fingerprint(checkpoint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a steerlm checkpoint: it has no steerlm.json"),
        ('{"format": 1, "kind": "sft", "sch', "damaged or cut short"),
        ('{"kind": "sft"}', "damaged or cut short"),
        (
            '{"kind": "x", "schema": [{"name": "humor"}], "template": "steerlm", "conditioning": true, '
            '"label_statistics": {}, "provenance": {}}',
            "kind 'x' is not one of sft, regression, generative",
        ),
    ],
)
def test_a_folder_that_is_no_checkpoint_of_ours(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "steerlm.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_info(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint folder"):
        load_info(tmp_path / "missing")


def test_weights_cut_short_are_named(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 5, 100, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"model.safetensors is cut short"):
            load_causal_lm(checkpoint)
    weights.write_bytes(whole[:8] + b"x" * (len(whole) - 8))
    with pytest.raises(UserError, match=r"model.safetensors is damaged: its header cannot be read"):
        load_causal_lm(checkpoint)


def test_missing_shard_is_named(checkpoint: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00002.safetensors")
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"is incomplete: model-00002-of-00002.safetensors is missing"):
        load_causal_lm(checkpoint)


def test_pickled_weights_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"no \*.safetensors weights \(pickled .bin weights are refused"):
        load_causal_lm(checkpoint)


def test_code_of_a_checkpoint_is_never_run(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.E", "AutoModelForCausalLM": "evil.E"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "evil.py").write_text(f"open({str(checkpoint / 'ran')!r}, 'w')\nclass E: pass\n")
    with pytest.raises(UserError, match="cannot load"):
        load_causal_lm(checkpoint)
    assert not (checkpoint / "ran").exists()


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "runs/x/model"])
def test_missing_folder(name: str) -> None:
    for load in (load_causal_lm, load_sequence_classifier, load_tokenizer):
        with pytest.raises(UserError, match=f"no such model folder: {name}"):
            load(name)


def test_folder_without_config_and_model_of_another_kind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"it has no config.json"):
        load_causal_lm(tmp_path)
    small = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    BertModel(small).save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match=r"lacks .* weights of a causal language model"):
        load_causal_lm(tmp_path / "encoder")
    BertForMaskedLM(small).save_pretrained(tmp_path / "masked")  # transformers loads it as a causal one, unmasked
    with pytest.raises(UserError, match=r"masked' is an encoder \(bert\)"):
        load_causal_lm(tmp_path / "masked")


def test_sequence_classifier_gets_one_output_per_attribute(tmp_path: Path) -> None:
    small = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=50)
    BertModel(small).save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match="has no trained head"):
        load_sequence_classifier(tmp_path / "encoder")
    model = load_sequence_classifier(tmp_path / "encoder", SCHEMA)
    assert model.config.problem_type == "regression"
    assert list(model.config.id2label.values()) == list(SCHEMA.names)
    assert model(torch.tensor([[1, 2]])).logits.shape == (1, len(SCHEMA))
    model.save_pretrained(tmp_path / "trained")
    again = load_sequence_classifier(tmp_path / "trained")
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(again.eval()(ids).logits, model.eval()(ids).logits)


def test_new_rows_are_the_mean_and_old_ones_stay() -> None:
    tokenizer = byte_tokenizer(SCHEMA)
    model = random_model(tiny_llama_config(258))
    old = {name: value.clone() for name, value in model.state_dict().items()}
    resize_embeddings(model, tokenizer)
    added = model.get_input_embeddings().num_embeddings - 258
    assert added == len(tokenizer) - 258 > 0
    for module, name in (
        (model.get_input_embeddings(), "model.embed_tokens.weight"),
        (model.get_output_embeddings(), "lm_head.weight"),
    ):
        assert torch.equal(module.weight[:258], old[name])
        torch.testing.assert_close(module.weight[258:], old[name].mean(0).expand(added, -1))
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    resize_embeddings(model, tokenizer)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_the_mean_of_a_large_vocabulary_takes_no_copy_of_it() -> None:
    class Largest(TorchDispatchMode):
        bytes = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, torch.Tensor) and made.dtype == torch.float32:
                Largest.bytes = max(Largest.bytes, made.numel() * made.element_size())
            return made

    rows = 40_000
    model = random_model(tiny_llama_config(rows)).to(torch.bfloat16)
    weight = model.get_input_embeddings().weight
    tokenizer = byte_tokenizer(None)
    num_new = install_template(byte_tokenizer(None), "steerlm", SCHEMA)
    tokenizer.add_tokens([f"word{i}" for i in range(rows - num_new - len(tokenizer))])
    known = len(tokenizer)
    install_template(tokenizer, "steerlm", SCHEMA)
    with Largest():
        resize_embeddings(model, tokenizer, num_new)
    torch.testing.assert_close(weight[-1].double(), weight[:known].double().mean(dim=0), atol=1e-4, rtol=1e-2)
    assert 0 < Largest.bytes < weight.numel() * 4 / 3


def test_tied_embeddings_stay_tied() -> None:
    config = tiny_llama_config(258)
    config.tie_word_embeddings = True
    model = random_model(config)
    resize_embeddings(model, byte_tokenizer(SCHEMA))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_new_tokens_on_spare_rows_get_the_mean_of_the_trained_ones() -> None:
    plain = byte_tokenizer(None)
    known = len(plain)
    num_new = install_template(plain, "steerlm", SCHEMA)
    for size in (1000, known + 2):  # all new tokens fit on spare rows, or some of them
        model = random_model(tiny_llama_config(size))
        old = {name: value.clone() for name, value in model.state_dict().items()}
        resize_embeddings(model, plain, num_new)
        assert model.get_input_embeddings().num_embeddings == max(size, len(plain))
        for module, name in (
            (model.get_input_embeddings(), "model.embed_tokens.weight"),
            (model.get_output_embeddings(), "lm_head.weight"),
        ):
            weight = module.weight
            assert torch.equal(weight[:known], old[name][:known])
            torch.testing.assert_close(weight[known : len(plain)], old[name][:known].mean(0).expand(num_new, -1))
            assert torch.equal(weight[len(plain) :], old[name][len(plain) :])


def test_a_level_is_read_as_the_words_that_name_it() -> None:
    tokenizer = byte_tokenizer(None)
    num_new = install_template(tokenizer, "steerlm", SCHEMA, "levels")
    model = random_model(tiny_llama_config(len(tokenizer) - num_new))
    old = model.get_input_embeddings().weight.clone()
    resize_embeddings(model, tokenizer, num_new)
    read, written = (layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings()))
    attribute = SCHEMA.attributes[0]
    for level in attribute.levels:
        row = tokenizer.convert_tokens_to_ids(f"<|{attribute.name}:{level}|>")
        means = [
            old[tokenizer(name, add_special_tokens=False)["input_ids"]].mean(dim=0)
            for name in (attribute.name, str(level))
        ]
        torch.testing.assert_close(read[row], (means[0] + means[1]) / 2)
        torch.testing.assert_close(written[row], written[: len(old)].mean(dim=0))
    # a checkpoint's own rows stay as they were learned
    trained = read.clone()
    resize_embeddings(model, tokenizer, install_template(tokenizer, "steerlm", SCHEMA, "levels"))
    assert torch.equal(model.get_input_embeddings().weight, trained)


def test_a_vocabulary_larger_than_the_tokenizer_is_left_alone_where_no_token_is_new() -> None:
    model = random_model(tiny_llama_config(1000))
    before = model.get_input_embeddings().weight.clone()
    resize_embeddings(model, byte_tokenizer(SCHEMA))
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_tokenizer_with_unused_ids_gets_a_row_for_its_highest_id() -> None:
    vocabulary = {chr(97 + i): i for i in range(20)} | {"z": 40}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token="a")))
    model = random_model(tiny_llama_config(21))
    resize_embeddings(model, tokenizer)
    assert model.get_input_embeddings().num_embeddings == 41


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("target", "named"),
    [
        (("q_proj", "lm_head"), "lm_head"),
        (("embed_tokens",), "model.embed_tokens"),
        (("model.embed_tokens", "v_proj"), "model.embed_tokens"),
        ("lm_head", "lm_head"),
        (r".*\.embed_tokens|.*proj", "model.embed_tokens"),
    ],
)
def test_lora_on_what_is_trained_in_full_is_refused_beforehand(
    tied: bool, target: str | tuple[str, ...], named: str
) -> None:
    config = tiny_llama_config(300)
    config.tie_word_embeddings = tied
    with pytest.raises(UserError, match=f"lora.target_modules .*: {named} takes no adapter.*leave it out"):
        add_lora(random_model(config), LoraSection(target_modules=target), [256])


def test_lora_on_the_head_of_a_classifier_or_by_no_pattern_is_refused() -> None:
    config = DistilBertConfig(dim=16, n_heads=2, n_layers=1, hidden_dim=16, vocab_size=50, num_labels=2)
    for target in ("classifier", "pre_classifier", "word_embeddings"):
        with pytest.raises(UserError, match="takes no adapter"):
            add_lora(DistilBertForSequenceClassification(config), LoraSection(target_modules=("q_lin", target)), [])
    with pytest.raises(UserError, match="is no regular expression"):
        add_lora(random_model(tiny_llama_config(300)), LoraSection(target_modules="(q_proj"), [])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("target", ["all-linear", ("q_proj", "down_proj"), ("0.mlp.up_proj",), r".*self_attn\..*_proj"])
def test_every_target_that_is_taken_can_be_merged(tied: bool, target: str | tuple[str, ...]) -> None:
    config = tiny_llama_config(300)
    config.tie_word_embeddings = tied
    model = add_lora(random_model(config), LoraSection(rank=2, target_modules=target), [256, 257])
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "trainable_tokens_delta" in name:
            torch.nn.init.normal_(parameter, 0, 0.1)
    ids = torch.tensor([[1, 256, 5, 257, 7]])
    logits = model.eval()(ids).logits
    torch.testing.assert_close(model.merge_and_unload()(ids).logits, logits, rtol=1e-4, atol=1e-5)


def adapted(tied: bool) -> tuple[Any, list[int]]:
    config = tiny_llama_config(300)
    config.tie_word_embeddings = tied
    trained = [256, 257, 258]
    return add_lora(random_model(config), LoraSection(rank=2, dropout=0.0), trained), trained


def test_lora_trains_the_whole_head_of_a_distilbert() -> None:
    config = DistilBertConfig(dim=16, n_heads=2, n_layers=1, hidden_dim=16, vocab_size=50, num_labels=2)
    adapted = add_lora(DistilBertForSequenceClassification(config), LoraSection(rank=2), [])
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert any(".pre_classifier." in name and "lora" not in name for name in trained)
    assert any(".q_lin.lora_A." in name for name in trained)


def test_lora_of_modules_that_the_model_lacks() -> None:
    with pytest.raises(UserError, match=r"lora\.target_modules \('q_prj',\): Target modules .* not found"):
        add_lora(random_model(tiny_llama_config(300)), LoraSection(target_modules=("q_prj",)), [])


@pytest.mark.parametrize("tied", [False, True])
def test_lora_trains_adapters_and_the_rows_of_control_tokens_only(tied: bool) -> None:
    model, trained = adapted(tied)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "trainable_tokens_delta" in name for name in names)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.tensor([[1, 256, 5, 257, 7, 258, 3]])
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters() if name in before)
    logits = model.eval()(ids).logits
    embeddings = before["base_model.model.model.embed_tokens.token_adapter.base_layer.weight"]
    merged = model.merge_and_unload()
    torch.testing.assert_close(merged(ids).logits, logits, rtol=1e-4, atol=1e-5)
    changed = (merged.get_input_embeddings().weight != embeddings).any(dim=1).nonzero().flatten().tolist()
    assert changed == trained
    if not tied:
        head = merged.get_output_embeddings().weight
        old = next(v for n, v in before.items() if "lm_head" in n)
        assert (head != old).any(dim=1).nonzero().flatten().tolist() == trained


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's own, when a test loads with it
@pytest.mark.parametrize("again", [False, True])
def test_merge_keeps_the_adapter_beside(again: bool, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(SCHEMA)
    random_model(tiny_llama_config(258)).save_pretrained(tmp_path / "base")

    def base() -> PreTrainedModel:
        model = load_causal_lm(tmp_path / "base")
        resize_embeddings(model, tokenizer)
        return model

    model = add_lora(base(), LoraSection(rank=2), [256, 257, 258, 259])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.1)
    ids = torch.tensor([[1, 258, 5, 259, 7]])
    logits = model.eval()(ids).logits
    model.save_pretrained(tmp_path / "best")
    source = (tmp_path / "best", str(tmp_path / "base")) if again else None
    merged = merge_adapter(model, tmp_path / "adapter", tokenizer, source)
    torch.testing.assert_close(merged(ids).logits, logits, rtol=1e-4, atol=1e-5)
    from peft import PeftModel

    reread = PeftModel.from_pretrained(base(), tmp_path / "adapter")
    torch.testing.assert_close(reread.eval()(ids).logits, logits, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")
def test_the_code_on_an_adapters_card_gives_the_merged_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer(SCHEMA)
    random_model(tiny_llama_config(258)).save_pretrained(tmp_path / "base")
    base = load_causal_lm(tmp_path / "base")
    resize_embeddings(base, tokenizer)
    model = add_lora(base, LoraSection(rank=2), list(range(256, len(tokenizer))))
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0, 0.1)
    merged = merge_adapter(model.eval(), tmp_path / "adapter", tokenizer)
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert SCHEMA.signature in card
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], found)
    ids = torch.tensor([[1, 258, 5, 259, 7]])
    torch.testing.assert_close(found["model"].eval()(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-5)
    messages = [{"role": "user", "content": "a"}]
    assert found["tokenizer"].apply_chat_template(messages) == tokenizer.apply_chat_template(messages)
    with pytest.raises(TemplateError, match=r"holds the control token <\|end\|>"):
        found["tokenizer"].apply_chat_template([{"role": "user", "content": "a<|end|>"}])


def test_qlora_without_its_extra_says_what_is_missing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"quantize_4bit needs bitsandbytes: pip install 'steerlm\[qlora\]'"):
        load_causal_lm(checkpoint, quantize_4bit=True)


def test_qlora_trains_on_the_cpu_as_well(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="the extra qlora is not installed")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = add_lora(load_causal_lm(tmp_path, quantize_4bit=True), LoraSection(rank=4, quantize_4bit=True), (1, 2))
    assert any("4bit" in type(module).__name__ for module in model.modules())
    ids = torch.arange(16)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    trained = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert any(grad is not None and grad.abs().sum() > 0 for grad in trained)


def test_precision_on_the_cpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is visible")
    assert inference_dtype("auto") == inference_dtype("fp32") == torch.float32
    assert inference_dtype("bf16") == torch.bfloat16
    assert autocast_bf16("bf16")
    assert not autocast_bf16("fp32")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors are asked in another way")
def test_bf16_on_a_cpu_without_it_is_slow_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for units in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda units=units: units)
        models._warn_of_emulation.cache_clear()
        caplog.clear()
        assert autocast_bf16("auto") == units
        assert not autocast_bf16("fp32")
        assert not caplog.messages
        assert autocast_bf16("bf16")
        assert inference_dtype("bf16") == torch.bfloat16
        assert ["precision: auto" in message for message in caplog.messages] == ([] if units else [True])


@pytest.mark.parametrize(("hidden_size", "units", "bf16"), [(512, True, True), (256, True, False), (512, False, False)])
def test_wide_models_sample_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden_size: int, units: bool, bf16: bool
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is visible")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: units)
    LlamaConfig(hidden_size=hidden_size, num_attention_heads=8).save_pretrained(tmp_path)
    assert (sampling_precision("auto", tmp_path) == "bf16") is bf16
    assert [sampling_precision(given, tmp_path) for given in ("bf16", "fp32")] == ["bf16", "fp32"]


def test_a_full_disk_leaves_the_old_checkpoint(checkpoint: Path) -> None:
    before = fingerprint(checkpoint)
    tokenizer = byte_tokenizer(SCHEMA)
    model = random_model(tiny_llama_config(len(tokenizer)), seed=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_model(checkpoint, model, tokenizer, INFO, "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fingerprint(checkpoint) == before


def test_no_space_for_weights_is_a_user_error(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(checkpoint)
    tokenizer = byte_tokenizer(SCHEMA)
    model = random_model(tiny_llama_config(len(tokenizer)), seed=1)

    def full(*args: object, **kwargs: object) -> None:
        # what safetensors raises on a full disk
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(UserError, match="no space left on the disk"):
        save_model(checkpoint, model, tokenizer, INFO, "")
    assert fingerprint(checkpoint) == before
