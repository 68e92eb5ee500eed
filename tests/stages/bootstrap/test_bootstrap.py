"""Bootstrapping end to end on tiny models: what is sampled, kept, mixed and reported, and resumed after a kill."""

from __future__ import annotations

import hashlib
import pkgutil
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.info import save_strengths
from steerlm.checkpoint.models import CheckpointInfo, load_info, load_sequence_classifier, save_info, save_model
from steerlm.config import BootstrapConfig, TrainSftConfig
from steerlm.conversation import Conversation, Message, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.generation.engine import Request, Sampling, load_engine
from steerlm.scorers.attribute_models import load_attribute_model
from steerlm.stages.bootstrap import stage
from steerlm.stages.bootstrap.data import Bootstrap, mix
from steerlm.stages.bootstrap.selection import DROPPED, Combinations
from steerlm.stages.bootstrap.stage import bootstrap
from steerlm.stages.evaluate.sweeping import read_prompts
from steerlm.stages.train_sft import train_sft
from steerlm.storage.resumable import read_rows
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

SCHEMA = AttributeSchema((Attribute("quality", best="max"), Attribute("humor")))
TOPICS = ["tea", "rain", "dogs", "bees", "snow", "moss", "jazz", "salt", "moon", "corn"]


def conversations(topics: list[str]) -> list[Conversation]:
    """Two answers per question, a good and a bad one, some after an earlier exchange."""
    records = []
    for number, topic in enumerate(topics):
        history: tuple[Message, ...] = ()
        if number % 3 == 0:
            history = (Message("user", "Hi"), Message("assistant", "Hello", {"quality": 2, "humor": 0}))
        for quality, answer in ((4, f"All about {topic}."), (1, "No.")):
            labels = {"quality": quality, "humor": number % 2}
            messages = (*history, Message("user", f"Tell me of {topic}"), Message("assistant", answer, labels))
            records.append(Conversation(f"{topic}-{quality}", messages, "toy", topic))
    return records


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Data, a base model, a steerable model trained on the data, and an attribute model with a random head."""
    folder = tmp_path_factory.mktemp("world")
    write_conversations(folder / "train.jsonl", conversations(TOPICS[:8]), SCHEMA)
    write_conversations(folder / "validation.jsonl", conversations(TOPICS[8:]), SCHEMA)
    plain = byte_tokenizer(None)
    base = random_model(tiny_llama_config(len(plain), context=128), scale=0.05)
    base.save_pretrained(folder / "base")
    plain.save_pretrained(folder / "base")
    sft = TrainSftConfig(
        base_model=str(folder / "base"), epochs=70, learning_rate=0.01, tokens_per_batch=1024, precision="fp32",
        max_length=128, warmup_steps=5, eval_steps=500, attribute_dropout=0, header_dropout=0, header_decoys=0,
        header="tokens",
    )  # fmt: skip
    train_sft(sft, folder / "train.jsonl", folder / "validation.jsonl", SCHEMA, folder / "sft", 0)
    scorer = load_sequence_classifier(folder / "base", SCHEMA)
    tokenizer = byte_tokenizer(SCHEMA)
    scorer.resize_token_embeddings(len(tokenizer))
    scorer.config.pad_token_id = tokenizer.pad_token_id
    info = CheckpointInfo("regression", SCHEMA, "steerlm", provenance={"max_length": 128})
    save_model(folder / "scorer", scorer, tokenizer, info, "card")
    return {
        "sft": sft.model_copy(update={"epochs": 1}),
        "sft_model": folder / "sft" / "model",
        "attribute_model": folder / "scorer",
        "data": folder / "train.jsonl",
        "validation": folder / "validation.jsonl",
        "schema": SCHEMA,
        "seed": 3,
    }


CONFIG = BootstrapConfig(mode="paper", samples_per_prompt=3, max_new_tokens=40, batch_size=4, temperature=1.4, epochs=2)


@pytest.fixture(scope="module")
def finished(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A whole run of two rounds."""
    out = tmp_path_factory.mktemp("finished") / "bootstrap"
    return out, bootstrap(CONFIG.model_copy(update={"rounds": 2}), out=out, **world)


def results(folder: Path) -> dict[str, str]:
    """Return a hash of every file that a bootstrap is for."""
    names = [p for p in sorted(folder.rglob("*")) if p.is_file() and "checkpoints" not in p.parts]
    names = [p for p in names if p.name != "metrics.jsonl"]  # has times
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


def test_prompts_are_distinct_and_end_with_the_last_user_turn(finished: tuple[Path, Any], world: Any) -> None:
    prompts = list(read_conversations(finished[0] / "round-1" / "prompts.jsonl", SCHEMA))
    records = {record.id: record for record in read_conversations(world["data"], SCHEMA)}
    assert [prompt.id for prompt in prompts] == [f"{topic}-4" for topic in TOPICS[:8]]
    for prompt in prompts:
        assert prompt.messages == records[prompt.id].messages[:-1]


def test_samples_ask_for_the_best_quality_seen(finished: tuple[Path, Any], world: Any) -> None:
    rows = list(read_rows(finished[0] / "round-1" / "samples.jsonl"))
    requested = [sample["requested"] for row in rows for sample in row["samples"]]
    assert len(requested) == 8 * 3
    assert {row["quality"] for row in requested} == {4}
    assert {row["humor"] for row in requested} == {0, 1}, "drawn from all combinations with the best quality"
    # the samples are the steerable model's own answers to exactly these requests
    engine = load_engine(world["sft_model"])
    prompts = list(read_conversations(finished[0] / "round-1" / "prompts.jsonl", SCHEMA))
    [[greedy]] = engine.generate([Request(prompts[0].messages, {"quality": 4, "humor": 0})], Sampling(40, 0))
    assert greedy.text.startswith("All about"), "the steerable model has not learnt its data: the test shows nothing"
    assert sum(sample["text"].startswith("All") for row in rows for sample in row["samples"]) > 8


def test_scores_and_selection(finished: tuple[Path, Any], world: Any) -> None:
    folder, report = finished[0] / "round-1", finished[1]["rounds"][0]
    sampled = {row["id"]: row["samples"] for row in read_rows(folder / "samples.jsonl")}
    scored = {row["id"]: row["samples"] for row in read_rows(folder / "scored.jsonl")}
    counts = Counter(row["dropped"] for rows in scored.values() for row in rows)
    assert counts["duplicate"] > 0
    assert report["samples"] == 24 == sum(counts.values())
    assert report["dropped"] == {reason: counts[reason] for reason in DROPPED}
    assert report["kept"] == counts[None] > 5
    assert report["filtered_out"] == 0
    records = list(read_conversations(folder / "bootstrapped.jsonl", SCHEMA))
    assert len(records) == report["kept"]
    differs = 0
    for record in records:
        prompt, _, number = record.id.rpartition("/bootstrap-1-")
        row = scored[prompt][int(number)]
        answer = record.messages[-1]
        assert answer.content == sampled[prompt][int(number)]["text"]
        assert answer.attributes == row["values"]
        assert answer.attributes == {name: SCHEMA[name].round(row["scores"][name]["mean"]) for name in SCHEMA.names}
        assert answer.labelled_by == "model:" + finished[1]["scorer"]["attribute_model"]
        differs += answer.attributes != record.meta["bootstrap"]["requested"]
    assert differs > 0, "the attribute model agrees with every request: the test shows nothing"


def test_training_data_is_mixed(finished: tuple[Path, Any], world: Any) -> None:
    report = finished[1]["rounds"][0]
    records = list(read_conversations(finished[0] / "round-1" / "training.jsonl", SCHEMA))
    originals = [record for record in records if record.source == "toy"]
    assert len(originals) == min(16, report["kept"])
    assert len(records) - len(originals) == report["kept"]
    assert report["training"]["train"]["records"] == len(records)


def test_rounds_go_on_from_each_other(finished: tuple[Path, Any], world: Any) -> None:
    out, report = finished
    assert [row["round"] for row in report["rounds"]] == [1, 2]
    first = load_info(out / "round-1" / "train" / "model").provenance["recipe"]
    second = load_info(out / "round-2" / "train" / "model").provenance["recipe"]
    assert first["base_model"] == str(world["sft_model"])
    assert second["base_model"] == str(out / "round-1" / "train" / "model")
    assert first["epochs"] == 2
    assert results(out / "model") == results(out / "round-2" / "train" / "model")
    assert load_engine(out / "model").schema == SCHEMA
    one, two = (list(read_rows(out / f"round-{k}" / "samples.jsonl")) for k in (1, 2))
    assert one != two


def test_report_says_what_changed(finished: tuple[Path, Any]) -> None:
    report = finished[1]
    assert report["combinations"] == {"seen": 5, "best": 2, "commonest_best": {"quality": 4, "humor": 0}}
    assert report["scorer"]["independent"] is False
    held_out = report["rounds"][0]["held_out"]
    assert held_out["requests"] == 4
    assert set(held_out["error"]) == {"mean", "quality", "humor"}
    for estimate in (held_out["quality"], held_out["error"]["mean"]):
        assert estimate["after"]["value"] - estimate["before"]["value"] == pytest.approx(
            estimate["difference"]["value"], abs=1e-9
        )
    assert report["rounds"][1]["held_out"]["quality"]["before"] == held_out["quality"]["after"]


def test_a_finished_run_is_left_alone(finished: tuple[Path, Any], world: Any, monkeypatch: Any) -> None:
    before = results(finished[0])
    for name in ("steerlm.stages.tuning.answers.open_engine", "steerlm.stages.tuning.held_out.open_engine"):
        monkeypatch.setattr(name, None)
    assert bootstrap(CONFIG.model_copy(update={"rounds": 2}), out=finished[0], **world) == finished[1]
    assert results(finished[0]) == before


def interrupt(monkeypatch: pytest.MonkeyPatch, target: str, call: int) -> None:
    """Let the `call`-th call of a function raise as if the process had ended there."""
    original: Callable[..., Any] = pkgutil.resolve_name(target)
    calls = 0

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(target, wrapper)


@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("steerlm.stages.bootstrap.data.write_conversations", 1),
        *(("os.fsync", call) for call in (4, 7, 10)),
        *(("os.replace", call) for call in (3, 8)),
        ("steerlm.stages.bootstrap.data.bootstrapped_record", 4),
        ("steerlm.stages.bootstrap.stage.train_sft", 1),
        ("steerlm.stages.bootstrap.stage.compare", 1),
        ("steerlm.stages.tuning.models.shutil.copytree", 1),
    ],
)
def test_an_interrupted_run_ends_the_same(
    finished: tuple[Path, Any], world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, call: int
) -> None:
    one_round = CONFIG.model_copy(update={"rounds": 1})
    with monkeypatch.context() as patch:
        interrupt(patch, target, call)
        with pytest.raises(KeyboardInterrupt):
            bootstrap(one_round, out=tmp_path, **world)
    report = bootstrap(one_round, out=tmp_path, **world)
    expected = results(finished[0] / "round-1")
    assert results(tmp_path / "round-1") == expected
    assert report["rounds"][0] == finished[1]["rounds"][0]
    assert not list(tmp_path.rglob("*.partial"))


def test_choices_of_the_recipe(world: Any, tmp_path: Path) -> None:
    config = CONFIG.model_copy(
        update={
            "num_prompts": 5, "filter": "top", "keep_per_prompt": 1, "start_from": "base", "mix_original": 0.5,
            "learning_rate": 0.002, "epochs": None,
        }
    )  # fmt: skip
    report = bootstrap(config, out=tmp_path, **world)["rounds"][0]
    prompts = [prompt.id for prompt in read_conversations(tmp_path / "round-1" / "prompts.jsonl", SCHEMA)]
    assert len(prompts) == 5
    assert prompts != [f"{topic}-4" for topic in TOPICS[:5]], "drawn, not the first"
    records = list(read_conversations(tmp_path / "round-1" / "bootstrapped.jsonl", SCHEMA))
    assert len(records) == len({record.id.rpartition("/")[0] for record in records}) == report["kept"] <= 5
    assert report["filtered_out"] > 0
    scored = {row["id"]: row["samples"] for row in read_rows(tmp_path / "round-1" / "scored.jsonl")}
    for record in records:
        qualities = [
            row["scores"]["quality"]["mean"] for row in scored[record.id.rpartition("/")[0]] if "scores" in row
        ]
        assert record.messages[-1].scores is not None
        assert record.messages[-1].scores["quality"].mean == max(qualities)
    training = Counter(r.source for r in read_conversations(tmp_path / "round-1" / "training.jsonl", SCHEMA))
    assert training["toy"] == round(0.5 * report["kept"])
    recipe = load_info(tmp_path / "model").provenance["recipe"]
    assert recipe["base_model"] == world["sft"].base_model
    assert (recipe["learning_rate"], recipe["epochs"]) == (0.002, 1)


def test_nearest_trains_what_was_asked_and_came_out(world: Any, tmp_path: Path) -> None:
    config = BootstrapConfig(
        rounds=2, samples_per_prompt=3, max_new_tokens=40, batch_size=8, tolerance=2.0, judge=world["attribute_model"],
        num_prompts=6, epochs=1, keep_per_prompt=1, mix_original=0,
    )  # fmt: skip
    report = bootstrap(config, out=tmp_path, **world)
    asked = set()
    kept: list[list[str]] = []
    for number, row in enumerate(report["rounds"], 1):
        folder = tmp_path / f"round-{number}"
        sampled = {line["id"]: line["samples"] for line in read_rows(folder / "samples.jsonl")}
        scored = {line["id"]: line["samples"] for line in read_rows(folder / "scored.jsonl")}
        records = list(read_conversations(folder / "bootstrapped.jsonl", SCHEMA))
        kept.append([record.id for record in records])
        assert row["kept"] == len(records) > 0
        assert row["prompts_without_success"] == 6 - len({record.id.rpartition("/")[0] for record in records})
        for samples in sampled.values():
            [requested] = {tuple(sample["requested"].items()) for sample in samples}
            asked.add(requested)
        for record in records:
            prompt, _, place = record.id.rpartition(f"/bootstrap-{number}-")
            wanted = sampled[prompt][int(place)]["requested"]
            assert record.messages[-1].attributes == wanted

            def far(places: dict[str, float], wanted: dict[str, int] = wanted) -> list[float]:
                return [abs(places[name] - level) for name, level in wanted.items()]

            candidates = [far(one["places"]) for one in scored[prompt] if one["dropped"] is None]
            mine = far(scored[prompt][int(place)]["places"])
            assert max(mine) <= 2.0
            assert sum(mine) == min(sum(other) for other in candidates if max(other) <= 2.0)
        tried = row["temperature"]["tried"]
        best = max(tried, key=lambda name: tried[name]["fresh"])
        assert row["temperature"]["value"] == float(best)
        assert tried[best]["accepted"] > 0
        assert all(trial["drawn"] == 18 and trial["fresh"] <= trial["accepted"] for trial in tried.values())
    assert any(dict(setting)["quality"] < 4 for setting in asked), "the whole support is asked for"
    training = [record.id for record in read_conversations(tmp_path / "round-2" / "training.jsonl", SCHEMA)]
    assert training == kept[0] + kept[1], "what the first round kept trains the second as well, and nothing else"
    assert load_info(tmp_path / "model").provenance["recipe"]["learning_rate"] == pytest.approx(0.0025)
    assert report["scorer"]["judge"] == report["scorer"]["attribute_model"]


def test_samples_count_as_strongly_as_the_recipe_or_the_model_says(world: Any, tmp_path: Path) -> None:
    shutil.copytree(world["sft_model"], tmp_path / "turned-up")
    save_strengths(tmp_path / "turned-up", {"quality": 3.0, "humor": 2.0})
    prompt = Conversation("a", (Message("user", "Tell me of tea"),))
    setting = {"quality": 1, "humor": 0}  # the defaults are 4 and 0

    def strengths(model: Path, **config: object) -> dict[str, float]:
        run = Bootstrap(
            BootstrapConfig.model_validate(config), world["sft"], None, world["data"], world["validation"], SCHEMA,
            Combinations((setting,), (setting,), True), tmp_path, 0, (),
        )  # fmt: skip
        [guidance] = {tuple((r.guidance or {}).items()) for r in run.requests(1, prompt, run.strengths(model))}
        return dict(guidance)

    assert strengths(world["sft_model"]) == {}
    assert strengths(tmp_path / "turned-up") == {"quality": 3.0}, "humor is not turned"
    assert strengths(tmp_path / "turned-up", guidance=2) == {"quality": 2.0}
    assert strengths(tmp_path / "turned-up", guidance={"humor": 2}) == {}
    assert strengths(tmp_path / "turned-up", engine="vllm") == {}, "it cannot mix prompts"
    assert strengths(tmp_path / "turned-up", mode="paper") == {}, "as trained"
    setting["humor"] = 3
    assert strengths(tmp_path / "turned-up") == {"quality": 2.0, "humor": 2.0}, "together, at the least"
    assert strengths(tmp_path / "turned-up", guidance={"quality": 4, "humor": 1}) == {"quality": 4.0}

    samples = {}
    for name, guidance in (("as trained", 1.0), ("switched off", 0.0)):
        config = CONFIG.model_copy(update={"guidance": guidance, "temperature": 0.7})
        bootstrap(config, out=tmp_path / name, **world)
        rows = read_rows(tmp_path / name / "round-1" / "samples.jsonl")
        samples[name] = [sample["text"] for row in rows for sample in row["samples"]]
    asked = {name: sum(text.startswith("All about") for text in texts) for name, texts in samples.items()}
    assert asked["as trained"] > asked["switched off"], asked


def test_what_a_round_kept_picks_its_weights_where_it_kept_enough(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = {"quality": 1, "humor": 0}
    setting = Combinations((labels,), (labels,), True)
    used = []
    monkeypatch.setattr(stage, "train_sft", lambda config, data, validation, *rest: used.append(validation))

    def split(config: BootstrapConfig, prompts: int) -> tuple[list[Conversation], ...]:
        run = Bootstrap(
            config, world["sft"], None, world["data"], world["validation"], SCHEMA, setting, tmp_path, 0, ()
        )  # fmt: skip
        folder = tmp_path / "round-1"
        kept = [
            Conversation(
                f"{n}/bootstrap-1-{k}", (Message("user", "Hi"), Message("assistant", f"{n} {k}", labels)), "bootstrap",
                meta={"bootstrap": {"round": 1, "prompt": str(n), "requested": labels}},
            )
            for n in range(prompts) for k in (0, 1)
        ]  # fmt: skip
        write_conversations(folder / "bootstrapped.jsonl", kept, SCHEMA)
        mix(run, 1, folder, len(kept))
        stage.fine_tune(run, 1, world["sft_model"])
        assert world["sft"].eval_steps == 500 > len(kept), "never, taken from the first training"
        section = stage.training_section(run, world["sft_model"])
        assert section.eval_steps is None
        assert (section.warmup_steps, world["sft"].warmup_steps) == (0.1, 5), "a tenth of its own steps"
        files = (folder / name for name in ("training.jsonl", "validation.jsonl"))
        return tuple(list(read_conversations(file, SCHEMA)) for file in files)

    several = BootstrapConfig(mix_original=0)
    training, validation = split(several, 200)
    assert 20 < len(validation) < 60
    assert len(training) + len(validation) == 400
    assert not {r.id.split("/")[0] for r in training} & {r.id.split("/")[0] for r in validation}, "whole prompts"
    once = several.model_copy(update={"epochs": 1})
    for config in (once, BootstrapConfig(mode="paper", mix_original=0)):
        training, validation = split(config, 200)
        assert (len(training), validation) == (400, []), "one validation picks nothing, and the paper has none"
    held_out = {r.id for r in split(several, 200)[1]}
    training, validation = split(several.model_copy(update={"rounds": 2}), 20)
    assert 0 < 40 - len(training) < 16, "held out all the same"
    assert validation == [], "but too few to pick"
    assert not {r.id for r in training} & held_out, "nor are they trained: a later round has enough of them"
    training, validation = split(several, 20)
    assert (len(training), validation) == (40, []), "there is no later round"
    assert used == [
        folder_file := tmp_path / "round-1" / "validation.jsonl",
        *[world["validation"]] * 2,
        folder_file,
        *[world["validation"]] * 2,
    ]


def test_another_judge_reports(world: Any, tmp_path: Path) -> None:
    other = load_sequence_classifier(world["attribute_model"])
    with torch.no_grad():
        other.score.weight.mul_(-1)
    tokenizer = byte_tokenizer(SCHEMA)
    info = CheckpointInfo("regression", SCHEMA, "steerlm", provenance={"max_length": 128})
    save_model(tmp_path / "judge", other, tokenizer, info, "card")
    config = CONFIG.model_copy(update={"judge": tmp_path / "judge", "num_prompts": 4, "epochs": 1})
    report = bootstrap(config, out=tmp_path / "out", **world)
    assert report["scorer"]["independent"] is True
    rows = list(read_rows(tmp_path / "out" / "held_out" / "round-0.jsonl"))
    scorer = load_attribute_model(tmp_path / "judge")
    asked = [row for row in rows if row["scores"]]
    prompts = {prompt.id: prompt.messages for prompt in read_prompts(world["validation"], SCHEMA, None, 0)}
    scores = scorer.score([(*prompts[r["prompt"]], Message("assistant", r["text"])) for r in asked])
    assert [r["scores"]["quality"] for r in asked] == [pytest.approx(s["quality"].mean, abs=1e-4) for s in scores if s]
    with pytest.raises(UserError, match=r"bootstrap\.judge: .* is not an attribute model"):
        bootstrap(CONFIG.model_copy(update={"judge": world["sft_model"]}), out=tmp_path / "no", **world)


def test_mistakes_are_named(world: Any, tmp_path: Path, finished: tuple[Path, Any]) -> None:
    def fails(match: str, config: BootstrapConfig = CONFIG, **changes: Any) -> None:
        with pytest.raises(UserError, match=match):
            bootstrap(config, **{**world, "out": tmp_path / "out", **changes})

    fails("is not an attribute model", attribute_model=world["sft_model"])
    fails("was not trained with attributes", sft_model=world["attribute_model"])
    fails("train_sft.labels: predicted", sft=world["sft"].model_copy(update={"labels": "human"}))
    fails("schema mismatch", schema=AttributeSchema((Attribute("quality", best="max"),)))
    fails("no such file", data=tmp_path / "absent.jsonl")
    fails("no attribute model says whether quality, humor", BootstrapConfig(), attribute_model=None)
    fails("'humor' has no best end", CONFIG.model_copy(update={"quality_attributes": ("humor",)}))
    fails(r"other inputs \(different: seed\)", CONFIG.model_copy(update={"rounds": 2}), out=finished[0], seed=4)
    fails("unknown attribute 'wit'", CONFIG.model_copy(update={"guidance": {"wit": 2.0}}))
    fails("bootstrap.guidance: the engine vllm cannot mix", CONFIG.model_copy(update={"guidance": 2, "engine": "vllm"}))
    fails("none of 24 samples is left", CONFIG.model_copy(update={"filter": "minimum", "minimum_quality": 9.0}))


def test_further_processes_wait_for_the_data_and_train_only(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "round-1" / "training.jsonl"
    trained: list[Any] = []
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:  # the first process is done with it
            data.parent.mkdir()
            data.with_name("validation.jsonl").touch()
            data.touch()

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(stage.time, "sleep", sleep)
    monkeypatch.setattr(stage, "train_sft", lambda config, data, *rest: trained.append(data))
    assert bootstrap(CONFIG, out=tmp_path, **world) == {}
    assert trained == [data]
    assert len(waits) == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["round-1", "training.jsonl", "validation.jsonl"]


def test_a_baseline_without_attributes_is_refused(world: Any, tmp_path: Path) -> None:
    shutil.copytree(world["sft_model"], tmp_path / "plain")
    save_info(tmp_path / "plain", CheckpointInfo("sft", SCHEMA, "steerlm", conditioning=False))
    with pytest.raises(UserError, match="was not trained with attributes"):
        bootstrap(CONFIG, **{**world, "sft_model": tmp_path / "plain", "out": tmp_path / "out"})
