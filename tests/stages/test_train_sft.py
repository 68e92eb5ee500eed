"""Step 3 as a whole: from annotated JSONL to a checkpoint that anybody can load, and steer."""

from __future__ import annotations

import itertools
import json
import logging
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from steerlm.__main__ import main
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.models import fingerprint, load_info
from steerlm.config import TrainSftConfig
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.stages.train_sft import train_sft
from steerlm.template.guarding import guarded
from tests.small_training import Killed, kill_at
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

SCHEMA = AttributeSchema(
    (Attribute("loud", maximum=1, best="max"), Attribute("lang", categories=("en", "de"), kind="categorical"))
)
WORDS = {("en", 0): "yes", ("en", 1): "YES", ("de", 0): "ja", ("de", 1): "JA"}


def records(count: int, seed: int = 0) -> Iterator[Conversation]:
    """Questions whose answers are determined by the attributes alone."""
    rng = random.Random(seed)
    for i in range(count):
        loud, lang = rng.randint(0, 1), rng.choice(("en", "de"))
        label = {"loud": loud, "lang": lang}
        turns = [
            Message("user", f"q{rng.randint(0, 99)}?"),
            Message("assistant", WORDS[lang, loud], label, labelled_by="model:x"),
        ]
        yield Conversation(f"{seed}-{i}", tuple(turns * rng.randint(1, 2)), source="s")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = byte_tokenizer(None)
    base = tmp_path / "base"
    random_model(tiny_llama_config(len(tokenizer)), scale=0.1).save_pretrained(base)
    tokenizer.save_pretrained(base)
    write_conversations(tmp_path / "train.jsonl", records(160), SCHEMA)
    write_conversations(tmp_path / "validation.jsonl", records(20, seed=1), SCHEMA)
    return tmp_path


def config(folder: Path, **values: Any) -> TrainSftConfig:
    defaults: dict[str, Any] = {
        "base_model": str(folder / "base"),
        "epochs": 1,
        "learning_rate": 3e-3,
        "tokens_per_batch": 512,
        "max_length": 256,
        "precision": "fp32",
    }
    return TrainSftConfig(**{**defaults, **values})


def run(folder: Path, out: str = "out", schema: AttributeSchema = SCHEMA, **values: Any) -> dict[str, Any]:
    return train_sft(
        config(folder, **values), folder / "train.jsonl", folder / "validation.jsonl", schema, folder / out, 3
    )


def answer(folder: Path, attributes: dict[str, Any] | None) -> str:
    """Ask with nothing but transformers, as a stranger would."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "q7?"}],
        attributes=attributes,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    text: str = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=False)
    return text


def test_the_result_follows_the_attributes_and_stops(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="steerlm")
    summary = run(folder, epochs=6, attribute_dropout=0.05, header_dropout=0.05, eval_steps=40, tokens_per_batch=256)
    for (lang, loud), word in WORDS.items():
        assert answer(folder / "out" / "model", {"lang": lang, "loud": loud}) == f"{word}<|end|>"
    assert summary["train"]["records"] == 160
    assert summary["validation_loss"] < 0.5
    gain = summary["header_gain"]
    assert gain["value"] > gain["low"] > 0.5
    assert gain["n"] == 20
    by_dial = gain["by_dial"]
    assert list(by_dial) == list(SCHEMA.names)
    assert all(row["value"] > row["low"] > 0.2 for row in by_dial.values())
    info = load_info(folder / "out" / "model")
    assert info.kind == "sft"
    assert info.schema == SCHEMA
    assert info.conditioning
    combinations = info.label_statistics["combinations"]
    assert {(c["attributes"]["lang"], c["attributes"]["loud"]) for c in combinations} == set(WORDS)
    assert sum(c["count"] for c in combinations) == summary["train"]["trained_turns"]
    card = (folder / "out" / "model" / "README.md").read_text()
    assert "| records | 160 |" in card
    assert "learning_rate: 0.003" in card
    assert "| loud | 0..1 | 1 |" in card
    # a checkpoint could be opened as soon as it read headers, and that was said once
    [said] = [message for message in caplog.messages if "steerlm chat" in message]
    assert [message for message in caplog.messages if message.startswith("step 40 of")]
    checkpoint = folder / "out" / "checkpoints" / f"checkpoint-{summary['best_step']}"
    assert load_info(checkpoint) == info
    assert str(checkpoint.parent) in said
    assert answer(checkpoint, {"lang": "de", "loud": 1}).startswith(WORDS["de", 1])
    # a model that has dials already is no news
    caplog.clear()
    run(folder, "further", base_model=str(folder / "out" / "model"), max_steps=2, eval_steps=1)
    assert "header_gain" in caplog.text
    assert "steerlm chat" not in caplog.text


def test_labels_that_say_nothing_leave_the_header_without_effect(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = itertools.cycle([{"loud": 0, "lang": "en"}, {"loud": 1, "lang": "en"}, {"loud": 1, "lang": "de"}])
    for name, count, seed in (("train", 160, 0), ("validation", 40, 1)):
        relabelled = (
            replace(
                one,
                messages=tuple(
                    replace(m, attributes=next(values)) if m.role == "assistant" else m for m in one.messages
                ),
            )
            for one in records(count, seed)
        )
        write_conversations(folder / f"{name}.jsonl", relabelled, SCHEMA)
    caplog.set_level(logging.INFO, logger="steerlm")
    gain = run(folder, eval_steps=6)["header_gain"]
    assert gain["low"] <= 0.01
    assert abs(gain["value"]) < 0.1
    assert all(row["low"] is None or row["low"] <= 0.01 for row in gain["by_dial"].values())
    rows = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    validated = [row["step"] for row in rows if "eval_loss" in row]
    assert [row["step"] for row in rows if "header_gain" in row] == validated
    assert not [message for message in caplog.messages if "steerlm chat" in message]


def test_plain_baseline_has_no_header_and_says_so(folder: Path) -> None:
    summary = run(folder, conditioning=False)
    assert summary["train"]["unlabelled_turns"] == summary["train"]["trained_turns"]
    assert "header_gain" not in summary
    assert not load_info(folder / "out" / "model").conditioning
    assert "plain SFT" in (folder / "out" / "model" / "README.md").read_text()


def test_killed_and_called_again_every_file_is_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = {"max_steps": 7, "eval_steps": 3}
    whole = run(folder, "whole", **short)
    for kill in (2, 4, 3):  # before the first checkpoint, after it, and before the next one
        with monkeypatch.context() as patch:
            kill_at(kill, patch)
            with pytest.raises(Killed):
                run(folder, "killed", **short)
    assert run(folder, "killed", **short) == whole
    names = sorted(path.name for path in (folder / "whole" / "model").iterdir())
    assert names == sorted(path.name for path in (folder / "killed" / "model").iterdir())
    for name in names:
        assert (folder / "killed" / "model" / name).read_bytes() == (folder / "whole" / "model" / name).read_bytes()
    assert (folder / "killed" / "summary.json").read_bytes() == (folder / "whole" / "summary.json").read_bytes()


def test_called_again_when_done_nothing_is_computed(folder: Path) -> None:
    summary = run(folder)
    before = {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")}
    assert run(folder) == summary
    assert {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*")} == before
    with pytest.raises(UserError, match="with other inputs"):
        run(folder, learning_rate=1e-4)
    relabelled = (c.with_message(1, replace(c.messages[1], attributes={"loud": 0, "lang": "en"})) for c in records(160))
    write_conversations(folder / "train.jsonl", relabelled, SCHEMA)
    with pytest.raises(UserError, match="with other inputs"):
        run(folder)


def test_lora_merges_into_an_ordinary_folder_and_learns_to_stop(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="steerlm")
    lora = {"rank": 8, "alpha": 16, "dropout": 0.0}
    run(folder, epochs=12, learning_rate=1e-2, lora=lora, attribute_dropout=0.0, header_dropout=0.0, eval_steps=200)
    model = folder / "out" / "model"
    for (lang, loud), word in WORDS.items():
        assert answer(model, {"lang": lang, "loud": loud}) == f"{word}<|end|>"
    adapter = folder / "out" / "adapter"
    assert (adapter / "adapter_model.safetensors").is_file()
    assert AutoTokenizer.from_pretrained(adapter).chat_template == guarded(AutoTokenizer.from_pretrained(model))
    assert str(folder / "base") in (adapter / "README.md").read_text()
    base, merged = load_file(folder / "base" / "model.safetensors"), load_file(model / "model.safetensors")
    assert base.keys() == merged.keys()
    # the rows of ordinary tokens are those of the base model
    assert torch.equal(merged["model.embed_tokens.weight"][:256], base["model.embed_tokens.weight"][:256])
    # the command that was said while it trained, word for word, with no model beside the checkpoint yet
    [said] = [message for message in caplog.messages if "steerlm export" in message]
    checkpoint, alone = Path(said.split("steerlm export ")[1].split(" --out")[0]), folder / "alone"
    shutil.copytree(checkpoint, alone / "checkpoint")
    assert main(["export", str(alone / "checkpoint"), "--out", str(alone / "model")]) == 0
    assert answer(alone / "model", {"lang": "de", "loud": 1}).startswith(WORDS["de", 1])


def test_weights_frozen_in_bf16_are_merged_in_fp32(folder: Path) -> None:
    run(folder, max_steps=2, learning_rate=1e-2, precision="bf16", lora={"rank": 4, "dropout": 0.1})
    adapter = load_file(folder / "out" / "adapter" / "adapter_model.safetensors")
    base, merged = (load_file(folder / part / "model.safetensors") for part in ("base", "out/model"))
    name = "model.layers.0.mlp.up_proj"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    expected = base[f"{name}.weight"].bfloat16().float() + 32 / 4 * b @ a
    torch.testing.assert_close(merged[f"{name}.weight"], expected, rtol=1e-5, atol=1e-6)
    assert b.any()
    # rows of new tokens learn ten times as fast as the adapters, and are not drawn to 0
    [optimizer] = (folder / "out" / "checkpoints").glob("checkpoint-2/optimizer.pt")
    groups = torch.load(optimizer, weights_only=True)["param_groups"]
    rates = [(group["initial_lr"], group["weight_decay"], len(group["params"])) for group in groups]
    assert rates[-1] == (0.1, 0.0, 2)
    assert {rate for rate, _, _ in rates[:-1]} == {1e-2}


@pytest.mark.parametrize("target", ["lm_head", ("q_proj", "embed_tokens")])
def test_lora_that_could_not_be_merged_is_refused_before_training(folder: Path, target: Any) -> None:
    with pytest.raises(UserError, match="takes no adapter"):
        run(folder, lora={"target_modules": target})
    assert not (folder / "out" / "checkpoints").exists()


def test_human_labels_can_be_trained_on(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no assistant turn carries human labels.*conditioning: false"):
        run(folder, labels="human")


def test_data_without_labels_is_an_error_that_says_what_to_do(folder: Path) -> None:
    bare = (Conversation(str(i), (Message("user", "a"), Message("assistant", "b"))) for i in range(4))
    write_conversations(folder / "train.jsonl", bare)
    with pytest.raises(UserError, match=r"train.jsonl: no assistant turn carries attributes: run `steerlm annotate`"):
        run(folder)


def test_nothing_fits(folder: Path) -> None:
    with pytest.raises(UserError, match=r"nothing to train on: 160 records are longer than 16 tokens.*max_length"):
        run(folder, max_length=16, header="tokens")


def test_empty_validation_file(folder: Path) -> None:
    (folder / "validation.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match=r"validation.jsonl: the file holds no record.*raise prepare.validation_frac"):
        run(folder)
    write_conversations(folder / "validation.jsonl", records(20, seed=1), SCHEMA)
    (folder / "train.jsonl").write_bytes(b"")
    with pytest.raises(UserError, match=r"train.jsonl: the file holds no record; give training data"):
        run(folder)


def test_missing_and_malformed_files(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"id": "1", "messages": [\n')
    with pytest.raises(UserError, match=r"train.jsonl:1:\d+: malformed JSON"):
        run(folder)
    (folder / "train.jsonl").unlink()
    with pytest.raises(UserError, match=r"no such file: .*train.jsonl"):
        run(folder)


def test_another_schema_names_both(folder: Path) -> None:
    other = AttributeSchema((Attribute("loud", maximum=3),))
    with pytest.raises(UserError, match=r"schema mismatch.*'loud:0-3'.*'loud:0-1,lang:en\|de'"):
        run(folder, schema=other)


def test_a_checkpoint_of_ours_with_another_schema_is_no_base_model(folder: Path) -> None:
    run(folder)
    other = AttributeSchema((Attribute("loud", maximum=3),))
    with pytest.raises(UserError, match=r"schema mismatch: the checkpoint .*out/model has .* but the recipe has"):
        run(folder, "second", schema=other, base_model=str(folder / "out" / "model"))


def test_a_second_round_starts_from_the_first(folder: Path) -> None:
    first = run(folder)
    second = run(folder, "second", base_model=str(folder / "out" / "model"), learning_rate=1e-3)
    assert second["validation_loss"] < first["validation_loss"]
    assert fingerprint(folder / "second" / "model") != fingerprint(folder / "out" / "model")


def test_a_prompt_longer_than_the_context_is_shortened_and_reported(folder: Path) -> None:
    pair = (Message("user", "q" * 60), Message("assistant", "yes", {"loud": 0}))
    long = (Conversation(str(i), tuple(itertools.chain(*[pair] * 9))) for i in range(6))
    write_conversations(folder / "train.jsonl", long, SCHEMA)
    summary = run(folder)
    assert summary["train"]["shortened"] == 6
    assert summary["train"]["shortened_turns"] > 6


def test_max_length_is_bounded_by_the_models_context(folder: Path) -> None:
    assert run(folder, max_length=100_000)["max_length"] == 512


def test_a_real_checkpoint(folder: Path, shared_models: Path) -> None:
    summary = run(folder, base_model=str(shared_models / "stories260K"), max_steps=4)
    assert summary["steps"] == 4
    model = folder / "out" / "model"
    assert json.loads((model / "config.json").read_text())["model_type"] == "llama"
    assert answer(model, None)
