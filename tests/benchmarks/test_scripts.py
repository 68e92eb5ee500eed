"""The benchmark scripts still run: their data, their clock, one tiny measurement of ours each; slow: all of --quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer

from benchmarks import annotate, generative_labels, gpu, gpu_parts, sft
from benchmarks.clock import Clock, shuffled_batches, watch
from benchmarks.harness import Benchmark, Job, Measurement, NotRun, build_parser, main
from benchmarks.synthetic import conversations, make_tokenizer
from steerlm.attributes import AttributeSchema
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.small_training import language_model, run, section, token_examples

torch.set_num_threads(1)
SCRIPTS = {module.BENCHMARK.claim: module.BENCHMARK for module in (sft, annotate, generative_labels)}


@pytest.mark.parametrize("benchmark", SCRIPTS.values(), ids=SCRIPTS)
def test_command_line_and_contestants(benchmark: Benchmark) -> None:
    args = build_parser(benchmark).parse_args(["--quick", "--pairs", "1", "--device", "cuda"])
    assert (args.quick, args.pairs, args.device) == (True, 1, "cuda")
    for case in benchmark.cases.values():
        assert next(iter(case.contestants)) == "steerlm"
        assert len(case.contestants) > 1


def test_targets_are_those_of_the_claim() -> None:
    targets = {
        (claim, case, who): contestant.target
        for claim, benchmark in SCRIPTS.items()
        for case, row in benchmark.cases.items()
        for who, contestant in row.contestants.items()
        if contestant.target is not None
    }
    for size in ("6m", "80m", "1b"):
        assert targets["sft", size, "trl_default"] == 3.0
        assert targets["sft", size, "trl_best"] == 1.5
        assert targets["sft", f"{size}-8", "trl_best"] == 2.5
    assert targets["annotate", "80m-8", "loop"] == 10.0
    assert targets["annotate", "80m-8", "sorted"] == 1.8
    assert targets["generative_labels", "6m", "generate"] == 5.0


def test_chats_have_the_lengths_they_claim() -> None:
    schema = AttributeSchema.preset("helpsteer")
    tokenizer = make_tokenizer(1024, schema)
    rows = list(conversations(tokenizer, schema, 30, 8, seed=3))
    assert [row.messages for row in rows] == [row.messages for row in conversations(tokenizer, schema, 30, 8, seed=3)]
    assert len({row.messages[0] for row in rows}) == 30
    rows = list(conversations(tokenizer, schema, 250, 1))
    encoder = ConversationEncoder(tokenizer, schema)
    encoded = [encoder.conversation(row.messages) for row in rows]
    lengths = np.array([len(row.input_ids) for row in encoded])
    assert lengths.mean() == pytest.approx(288, rel=0.05)
    assert sum(sum(row.loss_mask) for row in encoded) / lengths.sum() == pytest.approx(1 / 3, abs=0.02)
    assert lengths.max() <= 1000


def test_the_clock_counts_the_steps_after_the_warm_up(tmp_path: Path) -> None:
    clock = Clock(2, 500)
    step = Trainer.training_step
    examples = token_examples(80)
    watch(clock, lambda: run(section(epochs=3.0), language_model(), examples, tmp_path))
    facts = clock.facts()
    assert facts["steps"] >= 4
    assert facts["timed_tokens"] >= 500 > facts["timed_tokens"] - clock.batch_tokens[facts["steps"] - 1]
    assert facts["trained_tokens"] == facts["timed_tokens"] + sum(clock.batch_tokens[:2])
    assert clock.seconds > 0
    assert Trainer.training_step is step
    assert not (tmp_path / "checkpoints" / f"checkpoint-{facts['steps']}").exists()


def test_a_training_that_is_too_short_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="too little data"):
        watch(Clock(1, 10**6), lambda: run(section(max_steps=2), language_model(), token_examples(40), tmp_path))


def test_batches_are_shuffled_whole() -> None:
    shuffled = shuffled_batches(list(range(22)), 4, seed=0)
    batches = [tuple(shuffled[i : i + 4]) for i in range(0, len(shuffled), 4)]
    assert sorted(batches) == [tuple(range(i, i + 4)) for i in range(0, 20, 4)]
    assert batches != sorted(batches)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measurement]:
    folder = tmp_path_factory.mktemp("sft")
    sft.prepare(folder, ["6m-8"], True, "cpu")
    return folder, sft.measure(Job("6m-8", "steerlm", "", 0, True, "cpu", folder))


def test_conditioned_sft_is_measured(trained: tuple[Path, Measurement]) -> None:
    facts = trained[1].facts
    assert trained[1].rate > 0
    assert facts["timed_tokens"] >= sft.QUICK.timed_tokens
    assert facts["first_loss"] == pytest.approx(np.log(1024), abs=0.1)
    assert facts["last_loss"] < facts["first_loss"]


def test_trl_gets_the_ids_that_we_train_on(trained: tuple[Path, Measurement]) -> None:
    rows = [json.loads(line) for line in (trained[0] / "6m-8" / "encoded.jsonl").read_text().splitlines()]
    assert len(rows) == sft.QUICK_CONVERSATIONS
    for row in rows:
        assert len(row["input_ids"]) == len(row["completion_mask"])
        assert 0 < sum(row["completion_mask"]) < len(row["input_ids"])
    beginnings = {tuple(row["input_ids"][:40]) for row in rows}
    assert len(beginnings) == sft.QUICK_CONVERSATIONS // 8


def test_annotation_is_measured_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotate, "SLOW_CONVERSATIONS", 4)
    annotate.prepare(tmp_path, ["80m-8"], True, "cpu")
    found = {
        who: annotate.measure(Job("80m-8", who, variant, 0, True, "cpu", tmp_path))
        for who, variant in (("steerlm", ""), ("loop", ""), ("sorted", "8"))
    }
    assert found["steerlm"].facts["conversations"] == found["sorted"].facts["conversations"] == 32
    assert found["steerlm"].facts["tokens"] == found["sorted"].facts["tokens"]
    differences = annotate.compare("80m-8", found)["largest_difference_in_levels"]
    assert set(differences) == {"loop", "sorted"}
    assert 0 < max(differences.values()) < 0.1


def test_labels_are_read_as_written() -> None:
    names = generative_labels.SCHEMA.names
    text = ",".join(f"{name}:{i % 5}" for i, name in enumerate(names))
    assert generative_labels._read(text + "<|end_attributes|>") == {name: i % 5 for i, name in enumerate(names)}
    assert generative_labels._read(text[1:]) is None
    ours = [dict.fromkeys(names, 1)] * 3
    theirs = [ours[0], None, {**ours[0], names[0]: 2}]
    found = {
        "steerlm": Measurement(1.0, {}, ours),
        "generate": Measurement(1.0, {}, theirs),
        "fp32": Measurement(1.0, {}, [ours[0], ours[0], theirs[2]]),
    }
    equal = generative_labels.compare("6m", found)["equal_labels"]
    assert equal["auto"]["generate"] == pytest.approx(17 / 18)
    assert equal["fp32"] == {"generate": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", SCRIPTS.values(), ids=SCRIPTS)
def test_the_whole_script_runs(benchmark: Benchmark, tmp_path: Path) -> None:
    case = [name for name, row in benchmark.cases.items() if "cpu" in row.devices][-1]
    main(benchmark, ["--quick", "--pairs", "1", "--cases", case, "--out", str(tmp_path)])
    result = json.loads((tmp_path / f"{benchmark.claim}.json").read_text(encoding="utf-8"))["cases"][case]
    assert result["quick"] is True
    assert all(peer["ratio"]["median"] > 0 for peer in result["peers"].values())
    for check in result["checks"]:
        for share in check.get("equal_labels", {}).values():
            assert share is None or share > 0.99


def test_the_gpu_script_tells_what_did_not_run_and_keeps_what_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> dict[str, Any]:
        raise RuntimeError("no kernel")

    def absent() -> dict[str, Any]:
        raise NotRun("no vLLM")

    def breaks() -> dict[str, Any]:
        raise KeyError("train")

    checks = {"checks": {"scores": {"ok": True}, "texts": {"ok": False}}}
    monkeypatch.setattr(
        gpu, "parts", lambda setup, say: {"checks": lambda: checks, "a": fails, "c": breaks, "b": absent}
    )
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(out)]) == 1
    assert "failed: a, c, texts" in capsys.readouterr().err
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["parts"]["checks"]["checks"] == checks["checks"]
    assert found["parts"]["a"]["failed"].endswith("RuntimeError: no kernel\n")
    assert "in breaks" in found["parts"]["c"]["failed"]
    assert found["parts"]["b"]["not_run"] == "no vLLM"
    assert gpu.main(["--device", "cpu", "--tiny", "--minutes", "0", "--out", str(out)]) == 0
    late = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert {part["not_run"] for part in late.values()} == {"no time left"}


def test_the_checks_of_the_gpu_script_pass_here(tmp_path: Path) -> None:
    found = gpu_parts.checks(gpu_parts.Given("cpu", True, None, tmp_path))["checks"]
    assert set(found) == {"scores_regression", "scores_generative", "loss", "greedy_texts"}
    assert all(check["ok"] for check in found.values())
    assert found["scores_regression"]["rows_share_prompts"]


@pytest.mark.slow
def test_the_gpu_script_runs_through_on_the_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--tiny", "--out", str(out)]) == 0
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert list(parts) == ["checks", "sft", "memory", "annotate", "sampling", "gemma"]
    assert parts["memory"]["measured"]["memory_mib"] > 0
    assert parts["sft"]["ours"]["facts"][0]["steps"] >= 1
    assert set(parts["gemma"]["stages"]) >= {"train_attribute_model", "annotate", "train_sft"}
