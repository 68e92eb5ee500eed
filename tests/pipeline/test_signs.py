"""One run made to learn nothing: every sign of it, in the terminal and in the report."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import yaml

from steerlm.__main__ import main
from steerlm.attributes import AttributeSchema
from steerlm.config import load_recipe
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.results.evaluation import read_evaluation
from steerlm.results.findings import FindingKind, findings_of_run
from steerlm.runs import RunFolder
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

ATTRIBUTES = [
    {"name": "tone", "categories": ["dry", "warm"]},  # by dice, mostly dry: nothing in a reply says which
    {"name": "length", "measure": "words", "cuts": [4, 500, 600, 700]},  # only two levels have replies
]
GOODS = ("apples", "ropes", "lamps", "maps", "boots")


def recipe_of(folder: Path) -> dict[str, Any]:
    """Return a recipe whose training rises, whose ratings say nothing and whose answers never stop."""
    dice = random.Random(0)
    records = []
    for i in range(90):
        reply = f"I sell {', '.join(dice.choices(GOODS, k=1 if i % 15 == 1 else dice.randint(2, 6)))}." * (
            20 if i % 10 == 0 else 1
        )
        tone = {"tone": "dry" if dice.random() < 0.8 else "warm"}
        messages = (Message("user", f"Do you sell {i}?"), Message("assistant", reply, tone))
        records.append(Conversation(f"r{i}", messages))
    write_conversations(folder / "chats.jsonl", records, AttributeSchema.from_dict(ATTRIBUTES))
    tokenizer = byte_tokenizer(None)
    random_model(tiny_llama_config(len(tokenizer))).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    training = {"base_model": str(folder / "base"), "max_length": 256, "tokens_per_batch": 512, "warmup_steps": 0}
    return {
        "name": "signs",
        "run_dir": str(folder / "run"),
        "attributes": ATTRIBUTES,
        "prepare": {
            "sources": [{"name": "chats", "format": "messages", "path": str(folder / "chats.jsonl")}],
            "validation_fraction": 0.3,
        },
        "train_attribute_model": {**training, "head_only": True},
        "train_sft": {**training, "max_steps": 30, "eval_steps": 30, "learning_rate": 3.0, "header": "tokens"},
        "evaluate": {"num_prompts": 5, "max_new_tokens": 4, "settings": ["defaults"]},
    }


SIGNS: dict[FindingKind, str] = {
    "steps": "30 optimizer steps were made",
    "length": ") are longer than 256 tokens and left out",
    "attribute_model": "no better than the commonest category on tone",
    "labels": "nearly all labels of tone are on one level",
    "narrow": "the labels of length stand on 2 of 5 levels only",
    "loss": "the loss does not fall",
    "header": "the header has no effect",
    "dial": "the dial tone does not move",
    "endless": "of the answers never stop",
}


class Shown(NamedTuple):
    """What the run ended with unless forced, the forced run, what the terminal showed, and the report as text."""

    stopped: int
    run: RunFolder
    said: str
    report: str


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("signs")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(folder)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shown(recipe: Path) -> Shown:
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setenv("COLUMNS", "400")
        stopped = main(["run", str(recipe)])
        assert not (recipe.parent / "run" / "annotate").exists()
        assert main(["run", str(recipe), "--force"]) == 0
    run = RunFolder(load_recipe(recipe))
    report = (run.path / "report.md").read_text(encoding="utf-8").replace("\\", "")  # what Markdown would read as marks
    return Shown(stopped, run, out.getvalue(), report)


@pytest.mark.parametrize(("kind", "words"), SIGNS.items())
def test_a_sign_shows_in_the_terminal_and_in_the_report(kind: FindingKind, words: str, shown: Shown) -> None:
    found = [finding for finding in findings_of_run(shown.run.paths) if finding.kind == kind]
    assert found
    assert words in str(found[0])
    for finding in found:
        assert f"! {finding}" in shown.said.splitlines(), "at the end of the run"
        assert shown.said.count(str(finding)) >= 2, "and after the stage that it shows in"
        assert str(finding) in shown.report
        turned_up = kind == "dial" and finding.dials != ("tone",)  # a category has no strength to tune
        assert ("tune-guidance may turn it up" in str(finding)) == turned_up


def test_every_kind_of_sign_is_tried() -> None:
    # what nothing measures is said before the run, and behind it in the verdict
    assert {*SIGNS, "unmeasured"} == set(get_args(FindingKind))


def test_the_run_ends_where_labels_can_teach_nothing_and_never_with_a_tick(shown: Shown) -> None:
    assert shown.stopped == 2
    ticked = [line for line in shown.said.splitlines() if line.startswith("✓")]
    assert [line.split()[1] for line in ticked] == ["prepare", "prepare:"]
    assert "✗ 0 of 2 dials move" in shown.said


def test_an_attribute_model_that_only_measures_stops_no_run_and_counts_as_independent(recipe: Path) -> None:
    whole = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    whole |= {"attributes": ATTRIBUTES[:1], "annotate": None, "run_dir": str(recipe.parent / "measured")}
    whole["train_sft"] |= {"labels": "human", "max_steps": 2}
    chats = recipe.with_name("chats.jsonl")
    alone = recipe.with_name("alone.jsonl")
    alone.write_text(chats.read_text(encoding="utf-8").replace(",length:0-4", ""), encoding="utf-8")
    whole["prepare"]["sources"][0]["path"] = str(alone)
    path = recipe.with_name("measured.yaml")
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")
    assert main(["run", str(path)]) == 0
    paths = RunFolder(load_recipe(path)).paths
    assert "attribute_model" in {finding.kind for finding in findings_of_run(paths)}
    results = read_evaluation(paths.path)
    assert results is not None
    assert results.headline_scorer == {"tone": "attribute-model-1"}
    [scorer] = results.scorers
    assert scorer.independent, "people said what the model was trained on"
