"""SteerLM 2.0 end to end on tiny models: what is asked, dropped, weighed and trained, and resumed after a kill."""

from __future__ import annotations

import hashlib
import math
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import load_info
from steerlm.config import RefineConfig
from steerlm.conversation import Conversation, Message, Score, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.generation.engine import load_engine
from steerlm.scorers.labelling import open_labels
from steerlm.scorers.likelihoods import log_likelihood
from steerlm.sources.response_groups import read_groups
from steerlm.stages.refine.data import Refinement, gather
from steerlm.stages.refine.stage import refine
from steerlm.stages.tuning.groups import Likelihoods, open_likelihood
from steerlm.storage.files import write_rows
from steerlm.storage.resumable import read_rows
from tests import processes
from tests.stages.conftest import TOPICS, TOY

CONFIG = RefineConfig(
    samples_per_prompt=4, requests_per_prompt=2, max_new_tokens=40, batch_size=8, temperature=1.3, top_p=1.0, epochs=2,
    learning_rate=0.002,
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(toy_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A whole run of two rounds."""
    out = tmp_path_factory.mktemp("finished") / "refine"
    return out, refine(CONFIG.model_copy(update={"rounds": 2}), out=out, **toy_world)


def results(folder: Path) -> dict[str, str]:
    """Return a hash of every file that a refinement is for."""
    names = [p for p in sorted(folder.rglob("*")) if p.is_file() and "checkpoints" not in p.parts]
    names = [p for p in names if p.name != "metrics.jsonl"]  # has times
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in names}


def test_every_prompt_is_asked_at_settings_of_the_data(finished: tuple[Path, Any], toy_world: Any) -> None:
    requests = list(read_conversations(finished[0] / "round-1" / "requests.jsonl", TOY))
    assert 8 < len(requests) <= 16
    assert {request.id.partition("-")[0] for request in requests} == set(TOPICS[:8])
    known = load_info(toy_world["steerable_model"]).label_statistics["combinations"]
    settings = {tuple(row["attributes"].items()) for row in known}
    asked = [tuple(request.meta["requested"].items()) for request in requests]
    assert set(asked) == settings == {(("quality", q), ("humor", h)) for q in (1, 4) for h in (0, 1)}
    assert finished[1]["requests"] == 4


def test_likelihoods_are_those_of_the_models(finished: tuple[Path, Any], toy_world: Any) -> None:
    folder = finished[0] / "round-1"
    groups = [group for name in ("train", "validation") for group in read_groups(folder / f"{name}.jsonl", TOY)]
    assert len(groups) == sum(finished[1]["rounds"][0]["groups"][name] for name in ("train", "validation"))
    model = Likelihoods(toy_world["steerable_model"], TOY, toy_world["sft"])
    for group in groups[:3]:
        texts = [response.text for response in group.responses]
        steered = model([(group.messages, group.requested, texts)])[0]
        plain = model([(group.messages, {}, texts)])[0]
        assert [r.steered for r in group.responses] == pytest.approx(steered, abs=1e-3)
        assert [r.response for r in group.responses] == pytest.approx(plain, abs=1e-3)
        assert steered != plain
    scored = {row["id"]: row["samples"] for row in read_rows(folder / "scored.jsonl")}
    for group in groups:
        rows = [row for row in scored[group.id] if row["dropped"] is None]
        for row, response in zip(rows, group.responses, strict=True):
            scores = {name: Score(**score) for name, score in row["scores"].items()}
            assert response.attributes == pytest.approx(log_likelihood(TOY, group.requested, scores), abs=0.01)


@pytest.mark.slow
def test_two_processes_find_the_likelihoods_of_one(toy_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    processes.copied(monkeypatch)
    said = [
        ((Message("user", f"Tell me of tea {i}"),), {"quality": 1 + 3 * (i % 2)}, ["Tea.", "All about tea!"])
        for i in range(4)
    ]
    found = [open_likelihood(toy_world["steerable_model"], TOY, toy_world["sft"], n)(said) for n in (1, 2)]
    assert found[1] == [pytest.approx(row, abs=1e-3) for row in found[0]]


def test_training_moves_towards_the_weights(finished: tuple[Path, Any], toy_world: Any) -> None:
    for number, row in enumerate(finished[1]["rounds"], 1):
        assert row["training"]["train_groups"] == row["groups"]["train"]
        assert 1 <= row["training"]["effective_responses"] <= 4
        groups = list(read_groups(finished[0] / f"round-{number}" / "train.jsonl", TOY))
        said = [(group.messages, group.requested, [r.text for r in group.responses]) for group in groups]
        before, after = (
            Likelihoods(path, TOY, toy_world["sft"])(said)
            for path in (
                toy_world["steerable_model"] if number == 1 else finished[0] / "round-1" / "train" / "model",
                finished[0] / f"round-{number}" / "train" / "model",
            )
        )  # fmt: skip
        assert _divergence(groups, after) < _divergence(groups, before)


def _divergence(groups: Any, log_probs: Any) -> float:
    found = []
    for group, row in zip(groups, log_probs, strict=True):
        w = _softmax(np.array([r.attributes + r.response - r.steered for r in group.responses]))
        b = _softmax(np.array(row) - np.array([r.steered for r in group.responses]))
        found.append((w * np.log((w + 1e-30) / b)).sum())
    return float(np.mean(found))


def _softmax(x: Any) -> Any:
    e = np.exp(x - x.max())
    return e / e.sum()


def test_rounds_go_on_from_each_other(finished: tuple[Path, Any], toy_world: Any) -> None:
    out, report = finished
    assert [row["round"] for row in report["rounds"]] == [1, 2]
    second = load_info(out / "round-2" / "train" / "model")
    assert second.provenance["base_model"] == str(out / "round-1" / "train" / "model")
    assert second.label_statistics == load_info(toy_world["steerable_model"]).label_statistics
    assert results(out / "model") == results(out / "round-2" / "train" / "model")
    assert load_engine(out / "model").schema == TOY
    assert report["rounds"][1]["held_out"]["error"]["mean"]["before"]["n"] > 0


def test_a_finished_run_is_left_alone(finished: tuple[Path, Any], toy_world: Any, monkeypatch: Any) -> None:
    before = results(finished[0])
    monkeypatch.setattr("steerlm.stages.tuning.answers.open_engine", None)
    assert refine(CONFIG.model_copy(update={"rounds": 2}), out=finished[0], **toy_world) == finished[1]
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
        ("os.fsync", 8),
        ("steerlm.stages.refine.stage.tune_on_groups", 1),
        *(pytest.param("os.fsync", call, marks=pytest.mark.slow) for call in (4, 11)),
        pytest.param("steerlm.stages.tuning.groups.log_probabilities", 1, marks=pytest.mark.slow),
        pytest.param("steerlm.stages.refine.data.write_groups", 2, marks=pytest.mark.slow),
        pytest.param("steerlm.stages.tuning.held_out.compare", 1, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_the_same(
    finished: tuple[Path, Any], toy_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, call: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, target, call)
        with pytest.raises(KeyboardInterrupt):
            refine(CONFIG, out=tmp_path, **toy_world)
    report: Any = refine(CONFIG, out=tmp_path, **toy_world)
    assert results(tmp_path / "round-1") == results(finished[0] / "round-1")
    assert report["rounds"][0] == finished[1]["rounds"][0]
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_run_ends_the_same(finished: tuple[Path, Any], toy_world: Any, tmp_path: Path) -> None:
    """The command line, killed in the middle of its files and of its training."""
    arguments = command(CONFIG, toy_world, tmp_path)
    for syncs in (3, 10):
        code = (
            "import os, signal, sys\n"
            f"left, fsync = [{syncs}], os.fsync\n"
            "def die(number):\n"
            "    left[0] -= 1\n"
            "    if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return fsync(number)\n"
            "os.fsync = die\n"
            "from steerlm.__main__ import main\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        killed = subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ, check=False)
        assert killed.returncode == -signal.SIGKILL
    done = subprocess.run([sys.executable, "-m", "steerlm", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "answers of each carry the weight" in done.stdout
    assert results(tmp_path / "round-1" / "train" / "model") == results(finished[0] / "round-1" / "train" / "model")


def command(config: Any, world: Mapping[str, Any], out: Path, stage: str = "refine") -> list[str]:
    """Return the arguments that do the same on the command line."""
    given = [stage, "--out", str(out), "--seed", str(world["seed"]), "--sft-model", str(world["steerable_model"])]
    for name in ("attribute_model", "data", "validation"):
        given += [f"--{name.replace('_', '-')}", str(world[name])]
    for prefix, section in ((stage, config), ("train_sft", world["sft"])):
        for key, value in section.model_dump(mode="json").items():
            if value != getattr(type(section)(**({"base_model": "x"} if prefix == "train_sft" else {})), key):
                given += ["--set", f"{prefix}.{key}={value}"]
    return given


def test_given_groups_are_trained_on_as_they_are(finished: tuple[Path, Any], toy_world: Any, tmp_path: Path) -> None:
    groups = finished[0] / "round-1" / "train.jsonl"
    report: Any = refine(RefineConfig(groups=groups, max_new_tokens=40), out=tmp_path / "out", **toy_world)
    kept = report["rounds"][0]["groups"]
    assert kept["train"] + kept["validation"] == sum(1 for _ in read_groups(groups, TOY))
    prompts = [
        {group.messages for group in read_groups(tmp_path / "out" / "round-1" / f"{name}.jsonl", TOY)}
        for name in ("train", "validation")
    ]
    assert len(prompts[1]) == 1
    assert not prompts[0] & prompts[1], "a prompt is held out with all its requests"
    assert not (tmp_path / "out" / "round-1" / "samples.jsonl").exists()
    assert load_info(tmp_path / "out" / "model").kind == "sft"


def test_mistakes_are_named(toy_world: Any, tmp_path: Path, finished: tuple[Path, Any]) -> None:
    def fails(match: str, config: RefineConfig = CONFIG, **changes: Any) -> None:
        with pytest.raises(UserError, match=match):
            refine(config, **{**toy_world, "out": tmp_path / "out", **changes})

    fails("is not an attribute model", attribute_model=toy_world["steerable_model"])
    fails("was not trained with attributes", steerable_model=toy_world["attribute_model"])
    fails("is a regression attribute model", CONFIG.model_copy(update={"response_model": toy_world["attribute_model"]}))
    fails(r"other inputs \(different: seed\)", CONFIG.model_copy(update={"rounds": 2}), out=finished[0], seed=4)
    fails("left with two responses or more", CONFIG.model_copy(update={"max_new_tokens": 1}))


def test_several_processes_are_refused(toy_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="without accelerate launch"):
        refine(CONFIG, out=tmp_path, **toy_world)


def test_a_measure_takes_the_attribute_models_place() -> None:
    scores = {"quality": Score(2.2, 0.0), "humor": Score(3.0, 0.4, {"0": 0.1, "1": 0.0, "2": 0.2, "3": 0.6, "4": 0.1})}
    requested = {"quality": 2, "humor": 3}
    exact = log_likelihood(TOY, requested, scores, kernels={"quality": 0.0})
    assert exact == pytest.approx(np.log(0.6))
    smooth = log_likelihood(TOY, requested, scores, kernels={"quality": 1.0})
    masses = [np.exp(-0.5 * (level - 2.2) ** 2) for level in range(5)]
    assert smooth == pytest.approx(np.log(0.6 * masses[2] / sum(masses)))
    assert log_likelihood(TOY, {"quality": 3}, scores, kernels={"quality": 0.0}) == pytest.approx(np.log(1e-8))
    assert log_likelihood(TOY, {"humor": 1}, scores) == pytest.approx(np.log(1e-8))


def test_the_error_of_samples_is_that_of_what_was_requested(tmp_path: Path, toy_world: Any) -> None:
    asked = [{"quality": 4}, {"humor": 1}, {"quality": 0}]
    requests = [
        Conversation(f"{i}/request-0", (Message("user", f"Ask {i}"),), meta={"requested": setting})
        for i, setting in enumerate(asked)
    ]
    write_conversations(tmp_path / "requests.jsonl", requests, TOY)
    scored = [
        {"dropped": None, "log_likelihood": -1.0, "scores": {name: {"mean": 2.0, "std": 0} for name in setting}}
        for setting in asked
    ]
    likely = {"log_probabilities": [-1.0, -2.0]}
    for name, rows in (
        ("samples", [{"samples": [{"text": "A", "num_tokens": 1}] * 2}] * 3),
        ("scored", [{"samples": [row] * 2} for row in scored]),
        ("response", [likely] * 3),
        ("steered", [likely] * 3),
    ):
        write_rows(tmp_path / f"{name}.jsonl", rows)
    run = Refinement(CONFIG, toy_world["sft"], None, tmp_path, tmp_path, TOY, tuple(asked), tmp_path, tmp_path, seed=0)
    assert gather(run, tmp_path)["sampled_error"] == {"quality": 2.0, "humor": 1.0}


def test_a_measured_category_is_certain_whatever_its_place_among_the_others() -> None:
    schema = AttributeSchema.from_dict([{"name": "language", "categories": ["en", "de"], "measure": "language"}])
    question = Message("user", "How are you?")
    replies = {
        "en": "The weather is very nice today and I want to go for a walk.",
        "de": "Das Wetter ist heute sehr schön, und ich möchte spazieren gehen.",
    }
    scores = open_labels(schema, None).score([[question, Message("assistant", text)] for text in replies.values()])
    for spoken, found in zip(replies, scores, strict=True):
        assert found is not None
        for asked in replies:
            wanted = 0.0 if asked == spoken else pytest.approx(np.log(1e-8))
            assert log_likelihood(schema, {"language": asked}, found, kernels={"language": 0.5}) == wanted


def test_a_regression_spreads_its_score_as_a_beta_distribution() -> None:
    from scipy import integrate, stats

    def wanted(level: int, mean: float) -> float:
        r = min(max(mean / 4, 0.01), 0.99)
        low, high = max((level - 0.5) / 4, 0), min((level + 0.5) / 4, 1)
        return float(integrate.quad(stats.beta(24 * r, 24 * (1 - r)).pdf, low, high)[0])

    for mean in (-0.3, 0.2, 1.4, 2.0, 3.9):
        found = [np.exp(log_likelihood(TOY, {"quality": level}, {"quality": Score(mean, 0.3)})) for level in range(5)]
        assert sum(found) == pytest.approx(1.0, abs=1e-6)
        assert found[1:4] == pytest.approx([max(wanted(level, mean), 1e-8) for level in range(1, 4)], rel=1e-4)
    # 2 of 0..4: the Beta distribution (12, 12) between 3/8 and 5/8
    mass = 2 * sum(math.comb(23, j) * 5**j * 3 ** (23 - j) for j in range(12, 24)) / 8**23 - 1
    assert log_likelihood(TOY, {"quality": 2}, {"quality": Score(2.0, 0)}) == pytest.approx(math.log(mass))


def test_history_keeps_its_labels(tmp_path: Path) -> None:
    from steerlm.sources.response_groups import ResponseGroup, WeighedResponse, write_groups

    messages = (
        Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello", {"quality": 2}),
        Message("user", "Why?"),
    )  # fmt: skip
    group = ResponseGroup("a/1", messages, {"quality": 4, "humor": 0}, (WeighedResponse("So.", -1.0, -2.0, -3.0),) * 2)
    assert write_groups(tmp_path / "g.jsonl", [group], TOY) == 1
    assert list(read_groups(tmp_path / "g.jsonl", TOY)) == [group]


NEMO = (
    '{"system": "S", "prompt_turns": [{"from": "User", "value": "Why?"}], "label": "quality:4,humor:0", "responses": '
    '[{"from": "Assistant", "value": "So.", "log(P(a|x,y))": -1, "log(P(y|x))": -2.5, "log(Q(y|a,x))": -3}]}'
)


def test_nemos_own_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "nemo.jsonl"
    path.write_text(NEMO + "\n")
    [group] = read_groups(path, TOY)
    assert (group.id, group.requested) == ("nemo/1", {"quality": 4, "humor": 0})
    assert group.messages == (Message("system", "S"), Message("user", "Why?"))
    assert group.responses[0].response == -2.5


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"log(P(y|x))": -2.5', '"log(P(y|x))": "x"', r"1: log\(P\(y\|x\)\) of a response must be a finite number"),
        ('"label": "quality:4,humor:0"', '"label": ""', "the label is empty"),
        ('"label": "quality:4,humor:0"', '"label": "wit:4"', "unknown attribute 'wit'"),
        ('{"from": "User", "value": "Why?"}', "", "prompt_turns must be a list of one or more objects"),
        ('"value": "So."', '"value": 3', "value must be text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "nemo.jsonl"
    assert old in NEMO
    path.write_text(NEMO.replace(old, new) + "\n")
    with pytest.raises(UserError, match=said):
        list(read_groups(path, TOY))
