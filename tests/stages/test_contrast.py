"""Pairs under both goals, and the preference training on them: what is compared, trained, reported and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.models import load_info
from steerlm.config import ContrastConfig
from steerlm.conversation import Conversation, Message, Score, write_conversations
from steerlm.errors import UserError
from steerlm.stages.contrast.pairs import distance, pair_items, write_pairs
from steerlm.stages.contrast.stage import contrast
from steerlm.storage.resumable import read_rows
from tests.stages.conftest import TOY
from tests.stages.refine.test_refine import command, interrupt, results

CONFIG = ContrastConfig(max_new_tokens=40, batch_size=8, epochs=2, learning_rate=0.002, anchor=1.0)


@pytest.fixture(scope="module")
def finished(toy_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("finished") / "contrast"
    return out, contrast(CONFIG, out=out, **toy_world)


def test_each_pair_stands_under_both_goals(finished: tuple[Path, Any]) -> None:
    out, report = finished
    pairs = pair_items(out / "pairs.jsonl", TOY)[:]
    assert len(pairs) == 16
    assert report["pairs"]["train"] == {
        "prompts": 8, "pairs": 8, "goals": 16, "alike": 0, "not_further": 0, "unlabelled": 0, "over": 0,
    }  # fmt: skip
    for first, second in zip(pairs[::2], pairs[1::2], strict=True):
        assert (first.chosen, first.rejected) == (second.rejected, second.chosen)
        assert first.messages == second.messages
        for pair in (first, second):
            assert pair.goal["quality"] == (4 if pair.chosen.startswith("All") else 1)
            # three levels of four on one of two attributes
            assert pair.margin == pytest.approx(0.375)
    row = orjson.loads((out / "pairs.jsonl").read_bytes().splitlines()[0])
    assert {"prompt", "chosen", "rejected", "margin"} < set(row), "what TRL reads"
    assert row["chosen"][0]["role"] == "assistant"


def test_training_prefers_the_answer_nearer_to_the_goal(finished: tuple[Path, Any], toy_world: Any) -> None:
    out, report = finished
    leads = {}
    for name in ("before", "after"):
        rows = list(read_rows(out / f"validation_{name}.jsonl"))
        leads[name] = [row["log_probabilities"][0] - row["log_probabilities"][1] for row in rows]
    assert sum(leads["after"]) > sum(leads["before"])
    assert report["own_header"]["after"]["n"] == 2
    assert report["training"]["train_pairs"] == 16
    info = load_info(out / "model")
    assert info.label_statistics == load_info(toy_world["steerable_model"]).label_statistics
    assert info.provenance["contrast"]["margin"] == 1.0
    assert results(out / "model") == results(out / "train" / "model")


@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("os.fsync", 4),
        ("steerlm.stages.contrast.stage.tune_on_groups", 1),
        pytest.param("os.fsync", 7, marks=pytest.mark.slow),
        pytest.param("steerlm.stages.contrast.stage.publish", 1, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_the_same(
    finished: tuple[Path, Any], toy_world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, call: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, target, call)
        with pytest.raises(KeyboardInterrupt):
            contrast(CONFIG, out=tmp_path, **toy_world)
    assert contrast(CONFIG, out=tmp_path, **toy_world) == finished[1]
    assert results(tmp_path) == results(finished[0])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_run_ends_the_same(finished: tuple[Path, Any], toy_world: Any, tmp_path: Path) -> None:
    arguments = command(CONFIG, toy_world, tmp_path, "contrast")
    for syncs in (3, 5):
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
    whole = [sys.executable, "-m", "steerlm", *arguments]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "16 pairs of 8 prompts" in done.stdout
    assert results(tmp_path / "model") == results(finished[0] / "model")


def test_scores_decide_where_labels_are_equal_or_wrong(tmp_path: Path) -> None:
    schema = AttributeSchema((Attribute("quality"), Attribute("lang", "categorical", categories=("en", "de"))))

    def answer(text: str, quality: float, lang: str = "en") -> Message:
        scores = {"quality": Score(quality, 0.1), "lang": Score(0, 0, {"en": 1.0, "de": 0.0})}
        return Message("assistant", text, {"quality": schema["quality"].round(quality), "lang": lang}, scores=scores)

    assert distance(schema, {"quality": 4, "lang": "en"}, answer("a", 3.0)) == pytest.approx(0.125)
    assert distance(schema, {"quality": 3, "lang": "de"}, answer("a", 3.0)) == pytest.approx(0.5)
    answers = [answer("a", 1.6), answer("b", 2.4), answer("c", 2.6), answer("c", 2.6), answer("d", 0.4)]
    records = [Conversation(str(i), (Message("user", "Hi"), a), "toy") for i, a in enumerate(answers)]
    records.append(Conversation("x", (Message("user", "Alone"), answers[0]), "toy"))
    records.append(Conversation("y", (Message("user", "Hi"), Message("assistant", "e")), "toy"))
    write_conversations(tmp_path / "d.jsonl", records, schema)
    config = ContrastConfig(minimum_distance=0.0, pairs_per_prompt=99)
    counts = write_pairs(config, tmp_path / "d.jsonl", tmp_path / "p.jsonl", schema, 0)
    pairs = pair_items(tmp_path / "p.jsonl", schema)[:]
    assert counts["prompts"] == 1
    assert counts["alike"] == 1, "the same text twice"
    assert counts["unlabelled"] == 1
    # a and b both round to 2 and lie equally far from it; b is nearer to the goal 2 than c, and c nearer to 3 than b
    said = Counter((pair.chosen, pair.rejected, pair.goal["quality"]) for pair in pairs)
    assert said[("b", "c", 2)] == said[("c", "b", 3)] == 2
    assert not any({chosen, rejected} == {"a", "b"} for chosen, rejected, _ in said)
    assert counts["not_further"] == 2
    assert all(pair.margin > 0 for pair in pairs)
    few = write_pairs(ContrastConfig(pairs_per_prompt=2), tmp_path / "d.jsonl", tmp_path / "q.jsonl", schema, 0)
    assert few["over"] == 8
    assert few["pairs"] + few["alike"] == 2


def test_mistakes_are_named(toy_world: Any, tmp_path: Path, finished: tuple[Path, Any]) -> None:
    def fails(match: str, config: ContrastConfig = CONFIG, **changes: Any) -> None:
        with pytest.raises(UserError, match=match):
            contrast(config, **{**toy_world, "out": tmp_path / "out", **changes})

    fails("is not an attribute model", attribute_model=toy_world["steerable_model"])
    fails("no prompt has two annotated answers", CONFIG.model_copy(update={"minimum_distance": 0.9}))
    fails(r"other inputs \(different: seed\)", out=finished[0], seed=4)
    fails("no pair has answers of at most 16 tokens", sft=toy_world["sft"].model_copy(update={"max_length": 16}),
          out=tmp_path / "short")  # fmt: skip
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"id": "a", "prompt": []}\n')
    with pytest.raises(UserError, match=r"bad.jsonl:1: not a pair"):
        pair_items(bad, TOY)[:]
