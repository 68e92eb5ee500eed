"""Growth end to end on tiny models: requests, rounds, people who are asked, the end, and going on after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlm.checkpoint.info import save_strengths
from steerlm.checkpoint.models import fingerprint, load_info
from steerlm.config import GrowConfig, build_recipe, dump_recipe
from steerlm.conversation import Conversation, Message, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.runs import RunFolder
from steerlm.stages.bootstrap import data
from steerlm.stages.bootstrap.data import Bootstrap
from steerlm.stages.bootstrap.selection import Combinations
from steerlm.stages.train_attribute_model import stage as attribute_models
from steerlm.storage.claims import digest_of_file
from steerlm.storage.files import read_json, write_json
from steerlm.storage.resumable import read_rows
from steerlm.studies.grow import study
from steerlm.studies.grow.asking import ask_people
from steerlm.studies.grow.study import GrownRun, grow
from steerlm.studies.rate.store import invite, open_study, record
from tests.stages.bootstrap.test_bootstrap import SCHEMA, results, world

__all__ = ["world"]  # a fixture


@pytest.fixture(scope="module")
def run(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run, put together from the world's parts."""
    path = tmp_path_factory.mktemp("run")
    recipe = build_recipe(
        {
            "name": "tiny",
            "run_dir": str(path),
            "seed": 3,
            "attributes": SCHEMA.to_dict(),
            "prepare": {"sources": [{"name": "toy", "format": "messages", "path": str(world["data"])}]},
            "train_attribute_model": {
                "base_model": str(world["attribute_model"].parent / "base"), "epochs": 1, "head_only": False,
                "max_length": 128, "precision": "fp32", "tokens_per_batch": 1024,
            },
            "train_sft": {**world["sft"].model_dump(mode="json"), "epochs": 1},
            "bootstrap": {
                "num_prompts": 5, "samples_per_prompt": 3, "max_new_tokens": 40, "batch_size": 8, "temperature": 1.4,
                "tolerance": 2.5, "mix_original": 0,
            },
        }
    )  # fmt: skip
    folder = RunFolder(recipe)
    for stage in ("prepare", "annotate"):
        (path / stage).mkdir()
        for split, source in zip(folder.paths.splits(stage), ("data", "validation"), strict=True):
            shutil.copy(world[source], split)
    shutil.copytree(world["attribute_model"], folder.paths.attribute_model)
    return folder


def grown(run: RunFolder, world: Any, out: Path, go_on: bool = False, **config: Any) -> GrownRun:
    return grow(run, world["sft_model"], GrowConfig(**config), out, go_on)


@pytest.fixture(scope="module")
def finished(run: RunFolder, world: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GrownRun]:
    """Two rounds, the second of which is said to gain nothing."""
    out = tmp_path_factory.mktemp("grow")
    with pytest.MonkeyPatch.context() as patch:
        verdicts = iter([True, False])
        patch.setattr(study, "_gains", lambda compared: next(verdicts))
        return out, grown(run, world, out, rounds=3)


def test_rounds_ask_where_the_data_are_thin_and_end_where_nothing_gains(finished: tuple[Path, GrownRun]) -> None:
    out, growth = finished
    assert [row["gains"] for row in growth.rounds] == [True, False]
    assert growth.waiting is None
    first, second = (read_json(out / f"round-{n}" / "settings.json") for n in (1, 2))
    known = {tuple(s.items()) for s in first["seen"]}
    assert all(tuple(s.items()) not in known for s in first["thin"]), "the tiny data hold five settings only"
    assert len(second["seen"]) + len(second["thin"]) == 1024
    for number in (1, 2):
        stored = read_json(out / f"round-{number}" / "settings.json")
        asked = [
            sample["requested"]
            for row in read_rows(out / f"round-{number}" / "samples.jsonl")
            for sample in row["samples"]
        ]
        assert all(setting in [*stored["thin"], *stored["seen"]] for setting in asked)
        record = growth.rounds[number - 1]
        assert record["samples"] == len(asked)
        kept = list(read_conversations(out / f"round-{number}" / "bootstrapped.jsonl", SCHEMA))
        assert record["kept"] == len(kept)
    assert growth.rounds[1]["trained"] == growth.rounds[0]["kept"] + growth.rounds[1]["kept"]
    assert fingerprint(out / "model") == fingerprint(out / "round-1" / "train" / "model"), "the second one is left"


def test_the_table_has_a_line_per_round(finished: tuple[Path, GrownRun]) -> None:
    out, growth = finished
    lines = (out / "grow.md").read_text(encoding="utf-8").splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("| ")] == ["round", "1", "2"]
    assert "taken" in lines[-2]
    assert "no gain: left" in lines[-1]
    assert f"| {growth.rounds[0]['samples']} | {growth.rounds[0]['kept']} |" in lines[-2]
    assert read_json(out / "grow.json")["rounds"] == list(growth.rounds)


def test_finished_rounds_are_left_alone(finished: tuple[Path, GrownRun], run: RunFolder, world: Any) -> None:
    out, growth = finished
    before = results(out)
    assert grown(run, world, out, rounds=3).rounds == growth.rounds
    assert results(out) == before


@pytest.mark.parametrize("target", ["fine_tune", "publish"])
def test_an_interrupted_growth_ends_the_same(
    finished: tuple[Path, GrownRun], run: RunFolder, world: Any, tmp_path: Path, monkeypatch: Any, target: str
) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "_gains", lambda compared: True)
    with monkeypatch.context() as patch:
        patch.setattr(study, target, stop)
        with pytest.raises(KeyboardInterrupt):
            grown(run, world, tmp_path, rounds=1)
    grown(run, world, tmp_path, rounds=1)
    ours, theirs = results(tmp_path / "round-1"), results(finished[0] / "round-1")
    assert {k: v for k, v in ours.items() if k != "done.json"} == {k: v for k, v in theirs.items() if k != "done.json"}


def test_people_are_asked_and_the_attribute_model_learns_from_them(
    run: RunFolder, world: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(study, "_gains", lambda compared: True)
    waiting = grown(run, world, tmp_path, rounds=1, ratings=2)
    assert (waiting.rounds, waiting.waiting) == ([], tmp_path / "round-1" / "rate")
    assert not (tmp_path / "model").exists()
    asked = open_study(tmp_path / "round-1" / "rate")
    assert asked.num_items == 2
    [anna] = invite(asked, ["Anna"])
    for item in range(2):
        record(asked, anna, item, {"quality": "1", "humor": "4"}, swapped=False)
    growth = grown(run, world, tmp_path, rounds=1, ratings=2)
    assert growth.rounds[0]["ratings"] == 4
    labelled = list(read_conversations(tmp_path / "round-1" / "labelled.jsonl", SCHEMA))
    assert len(labelled) == 16 + 2
    first, again = (list(read_rows(tmp_path / "round-1" / name)) for name in ("scored_first.jsonl", "scored.jsonl"))
    assert first != again, "the model that learned says other things"
    new = fingerprint(tmp_path / "round-1" / "train_attribute_model" / "model")
    kept = list(read_conversations(tmp_path / "round-1" / "bootstrapped.jsonl", SCHEMA))
    assert {r.messages[-1].labelled_by for r in kept} == {f"model:{new}"}
    # the figures are by the run's own model, as in every round
    assert growth.rounds[0]["held_out"]["requests"] == 4


def test_what_is_held_out_of_the_samples_picks_the_weights(
    run: RunFolder, world: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(data, "_HELD_OUT", 2)
    monkeypatch.setattr(data, "_FEWEST_HELD_OUT", 1)
    growth = grown(run, world, tmp_path, rounds=1)
    place = tmp_path / "round-1"
    held_out = list(read_conversations(place / data.VALIDATION_FILE, SCHEMA))
    assert held_out
    assert growth.rounds[0]["trained"] == growth.rounds[0]["kept"] - len(held_out)
    used = load_info(place / "train" / "model").provenance["data"]["validation"]
    assert digest_of_file(place / data.VALIDATION_FILE).startswith(used)


def test_too_few_to_pick_the_weights_are_trained_in_every_round(
    run: RunFolder, world: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(data, "_HELD_OUT", 2)
    monkeypatch.setattr(data, "_FEWEST_HELD_OUT", 1000)
    monkeypatch.setattr(study, "_gains", lambda compared: True)
    growth = grown(run, world, tmp_path, rounds=2)
    assert growth.rounds[1]["trained"] == growth.rounds[0]["kept"] + growth.rounds[1]["kept"]


def test_the_attribute_model_learns_from_people_beside_measured_dials(
    run: RunFolder, world: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    length = {"name": "length", "maximum": 1, "measure": "words", "cuts": [2]}
    attributes = [*SCHEMA.to_dict(), length]
    stored = {**yaml.safe_load(dump_recipe(run.recipe)), "attributes": attributes, "run_dir": str(tmp_path / "run")}
    folder = RunFolder(build_recipe(stored))
    for split, source in zip(folder.paths.splits("prepare"), ("data", "validation"), strict=True):
        write_conversations(split, read_conversations(world[source]), folder.recipe.schema_)
    write_json(folder.paths.schema, folder.recipe.schema_.to_dict())
    place = tmp_path / "round-1"
    turns = (Message("user", "Tell me of tea"), Message("assistant", "No tea."))
    write_conversations(place / "to_rate.jsonl", [Conversation("a/grow-0", turns)], folder.schema)
    assert ask_people(place, SCHEMA, 0, go_on=False) is None
    asked = open_study(place / "rate")
    [anna] = invite(asked, ["Anna"])
    record(asked, anna, 0, {"quality": "1", "humor": "4"}, swapped=False)
    ratings = ask_people(place, SCHEMA, 0, go_on=False)
    assert ratings is not None
    taught: list[list[Conversation]] = []

    def train(config: Any, data: Path, *rest: Any) -> None:
        taught.append(list(read_conversations(data, folder.schema)))

    monkeypatch.setattr(attribute_models, "train_attribute_model", train)
    shared = Bootstrap(
        folder.recipe.bootstrap, folder.recipe.train_sft, None, world["data"], world["validation"], folder.schema,
        Combinations((), (), False), tmp_path, 0, (),
    )  # fmt: skip
    study._learn(folder, shared, [ratings], place)
    [records] = taught
    assert len(records) == 16 + 1
    assert records[-1].messages[-1].ratings == {"quality": (1.0,), "humor": (4.0,)}


def test_mistakes_are_named(run: RunFolder, world: Any, tmp_path: Path, finished: tuple[Path, GrownRun]) -> None:
    def fails(match: str, out: Path = tmp_path / "out", change: dict[str, Any] | None = None, **config: Any) -> None:
        folder = RunFolder(run.recipe.model_copy(update=change or {}))
        with pytest.raises(UserError, match=match):
            grown(folder, world, out, **config)

    fails("needs a recipe with a section playground", ratings=1, raters="playground")
    fails("add one", change={"bootstrap": None})
    paper = run.recipe.bootstrap.model_copy(update={"mode": "paper"})  # type: ignore[union-attr]
    fails("mode: nearest", change={"bootstrap": paper})
    fails(r"other inputs \(different: grow\)", out=finished[0], thin_share=0.1)
    turned_up = {**world, "sft_model": shutil.copytree(world["sft_model"], tmp_path / "turned-up")}
    save_strengths(turned_up["sft_model"], {"quality": 3.0})
    with pytest.raises(UserError, match=r"other inputs \(different: strengths\)"):
        grown(run, turned_up, finished[0])
