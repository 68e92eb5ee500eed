"""A run without raters: a measure, a classifier and a judge say the values, from recipe to evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlm.__main__ import main
from steerlm.checkpoint.models import load_info
from steerlm.config import load_recipe
from steerlm.conversation import Conversation, Message, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.results.evaluation import read_evaluation
from steerlm.runs import RunFolder
from tests.scorers.test_classifiers import WORDS, save
from tests.studies.judge.fake_endpoint import FakeEndpoint
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config


def reply(body: dict[str, Any]) -> str:
    answer = re.search(r"Response to Rate\]\n(.*?)\n\[The End", body["messages"][-1]["content"], re.DOTALL)
    assert answer is not None
    return f"warmth: [[{4 if 'kind' in answer[1] else 0}]]"


@pytest.fixture
def recipe(tmp_path: Path) -> dict[str, Any]:
    records = [
        Conversation(
            f"r{i}",
            (Message("user", f"Q{i}?"), Message("assistant", " ".join(WORDS[(i + j) % 10] for j in range(i % 7 + 1)))),
        )
        for i in range(60)
    ]
    write_conversations(tmp_path / "chats.jsonl", records)
    tokenizer = byte_tokenizer(None)
    random_model(tiny_llama_config(len(tokenizer))).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    toxic = {"model": str(save(tmp_path / "c", ["fine", "toxic"])), "label": "toxic"}
    return {
        "name": "dials",
        "run_dir": str(tmp_path / "run"),
        "attributes": [
            {"name": "length", "measure": "words", "maximum": 2},
            {"name": "toxicity", "maximum": 1, "classifier": toxic},
        ],
        "prepare": {
            "sources": [{"name": "chats", "format": "messages", "path": str(tmp_path / "chats.jsonl")}],
            "validation_fraction": 0.2,
        },
        "train_sft": {
            "base_model": str(tmp_path / "base"),
            "max_steps": 2,
            "max_length": 256,
            "tokens_per_batch": 1024,
            "warmup_steps": 0,
        },
        "evaluate": {"num_prompts": 2, "max_new_tokens": 8, "settings": ["defaults"]},
    }


@pytest.mark.parametrize("max_length", [256, 4096])  # the model reads 512 tokens
def test_levels_are_cut_where_the_training_reads(
    recipe: dict[str, Any], max_length: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe["train_sft"]["max_length"] = max_length
    long = " ".join(["word"] * 100)
    records = []
    for i in range(9):
        end = Message("user", f"And {i}?"), Message("assistant", " ".join("abcde"[: i % 3 + 3]))
        one, system = (Message("user", f"Q{i}?"), Message("assistant", "one two")), Message("system", "Be.")
        unread = Message("user", f"{i} {long}"), Message("assistant", long)
        records += [
            Conversation(f"whole {i}", (*one, *end)),
            Conversation(f"too long {i}", unread),
            # its last exchange is trained on
            Conversation(f"shortened {i}", (system, *unread, *end)),
        ]
    write_conversations(tmp_path / "chats.jsonl", records)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["prepare", str(path)]) == 0
    assert re.search(
        r"levels are those of the turns that are trained on: \d+ looked at are too long", capsys.readouterr().out
    )
    low, high = RunFolder(load_recipe(path)).schema["length"].cuts
    assert 2 < low < high <= 5

    shorter = [str(path), "--set", "train_sft.max_length=200"]
    assert main(["annotate", *shorter]) == 0
    main(["train-sft", *shorter])
    assert re.search(
        rf"cut on turns of up to {max_length}\s+tokens, and\s+train_sft.max_length\s+is\s+200", capsys.readouterr().err
    )


def test_no_people_and_no_attribute_model(recipe: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["run", str(path), "--force"]) in (0, 1)
    run = RunFolder(load_recipe(path))
    assert run.paths.finished() == ["prepare", "annotate", "train_sft", "evaluate"]
    (low, high) = run.schema["length"].cuts
    info = load_info(run.paths.model("train_sft"))
    assert info.schema == run.schema, "the checkpoint carries the cuts"
    for record in read_conversations(run.labelled[0], run.schema):
        message = record.messages[-1]
        count = len(message.content.split())
        assert message.attributes is not None
        assert message.attributes["length"] == (count >= low) + (count >= high)
    results = read_evaluation(run.path)
    assert results is not None
    by_label = {scorer.label: scorer for scorer in results.scorers}
    assert by_label["the dial's own measure (exact)"].independent
    assert not by_label["classifier c"].independent, "it labelled the training data"
    assert results.headline_scorer["length"] == "dials"


def test_refinement_weighs_by_what_is_measured(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["refine"] = {
        "num_prompts": 24, "samples_per_prompt": 4, "max_new_tokens": 12, "kernel": 0.5, "temperature": 1.0,
        "top_p": 1.0,
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["run", str(path), "--force"]) in (0, 1)
    run = RunFolder(load_recipe(path))
    assert load_info(run.paths.model("refine")).schema == run.schema
    scored = [json.loads(line) for line in (run.stage("refine") / "round-1" / "scored.jsonl").read_text().splitlines()]
    said = [sample for row in scored for sample in row["samples"] if sample["dropped"] is None]
    assert said
    assert all({"length", "toxicity"} <= set(sample["scores"]) for sample in said)

    recipe["attributes"].append({"name": "warmth"})
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match="nothing says warmth"):
        load_recipe(path)


def test_a_judge_teaches_the_attribute_model(recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["attributes"] = [recipe["attributes"][0], {"name": "warmth", "judge": {"ratings": 40}}]
    training = {key: recipe["train_sft"][key] for key in ("base_model", "max_steps", "max_length", "tokens_per_batch")}
    recipe["train_attribute_model"] = training
    path = tmp_path / "recipe.yaml"
    with FakeEndpoint(reply) as endpoint:
        judge = {"model": "m", "base_url": endpoint.base_url}
        recipe["label"] = judge
        recipe["evaluate"]["judge"] = {**judge, "folder": str(tmp_path / "evaluation")}
        path.write_text(yaml.safe_dump(recipe))
        assert main(["run", str(path), "--force"]) in (0, 1)
    run = RunFolder(load_recipe(path))
    assert run.paths.finished() == ["prepare", "label", "train_attribute_model", "annotate", "train_sft", "evaluate"]
    model = load_info(run.paths.attribute_model)
    assert model.schema.names == ("warmth",)
    assert model.provenance["taught_by"] == ["judge:m"]
    tellers = {who for r in read_conversations(run.labelled[0], run.schema) for who in r.messages[-1].tellers}
    assert {who.split(":")[0] for who in tellers} == {"measure", "model"}
    results = read_evaluation(run.path)
    assert results is not None
    assert not next(scorer for scorer in results.scorers if scorer.id == "judge").independent
    assert json.loads((run.path / "label" / "summary.json").read_text())["asked"] == {"warmth": 40}


@pytest.mark.slow
def test_a_dial_of_languages_is_learned_from_texts_alone(recipe: dict[str, Any], tmp_path: Path) -> None:
    said = {"en": "The weather is very nice today.", "de": "Das Wetter ist heute sehr schön."}
    records = [
        Conversation(f"r{i}", (Message("user", f"Q{i // 2}"), Message("assistant", said["en" if i % 2 else "de"])))
        for i in range(80)
    ]
    write_conversations(tmp_path / "chats.jsonl", records)
    recipe["attributes"] = [{"name": "language", "measure": "language", "categories": ["en", "de"]}]
    recipe["train_sft"] |= {"max_steps": 120, "learning_rate": 0.01, "header_decoys": 0.0}
    recipe["evaluate"] = {"num_prompts": 6, "max_new_tokens": 34, "by": "language", "temperature": 0}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["run", str(path)]) == 0
    run = RunFolder(load_recipe(path))
    for record in read_conversations(run.labelled[0], run.schema):
        (reply,) = (message for message in record.messages if message.role == "assistant")
        assert said[str((reply.attributes or {})["language"])] == reply.content
        assert reply.labelled_by == "measure:language"
    results = read_evaluation(run.path)
    assert results is not None
    dial = results.final_model.scorers["dials"].categorical["language"]
    assert results.headline_scorer == {"language": "dials"}
    assert dial.accuracy.value > 0.9
    groups = results.final_model.groups
    assert groups is not None
    assert list(groups) == ["en", "de"]
    assert all(group.categorical["language"].value > 0.9 for group in groups.values())
    report = (run.path / "report.md").read_text(encoding="utf-8")
    assert "In the category asked for" in report
    assert "### By language" in report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attributes": [{"name": "smiles", "measure": "emoji"}]}, "emoji is 0 on all"),
        ({"attributes": [{"name": "quality"}]}, "no record of .* rates 'quality', and nobody else says it"),
        (
            {"attributes": [{"name": "x", "measure": "language", "categories": ["en", "ja"]}]},
            "is 'ja'|defines language",
        ),
    ],
)
def test_what_cannot_be_learned_ends_after_prepare(
    recipe: dict[str, Any], tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    assert main(["run", str(path)]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "run" / "train_sft").exists()
