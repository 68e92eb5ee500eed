"""Preparing data: duplicates, leaks, the split by group, the report, and that a rerun changes nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import OASST, STEERLM, AttributeSchema
from steerlm.config import PrepareConfig, SourceConfig
from steerlm.conversation import Conversation, read_conversations
from steerlm.errors import UserError
from steerlm.stages.prepare.stage import inspect_source, prepare

FILES = ("train.jsonl", "validation.jsonl", "report.json")


def chat(*said: str, attributes: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(said)
    messages: list[dict[str, Any]] = [{"role": r, "content": t} for r, t in zip(roles, said, strict=False)]
    if attributes is not None:
        messages[-1]["attributes"] = attributes
    return {"messages": messages, **fields}


def source(path: Path, *rows: Any, **fields: Any) -> SourceConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(**{"name": path.stem, "format": "messages", "path": path, **fields})


def run(out: Path, *sources: SourceConfig, schema: AttributeSchema = STEERLM, seed: int = 0, **fields: Any) -> Any:
    return prepare(PrepareConfig(sources=sources, **fields), schema, out, seed)


def records(out: Path, schema: AttributeSchema = STEERLM) -> tuple[list[Conversation], list[Conversation]]:
    train, validation = (list(read_conversations(out / name, schema)) for name in FILES[:2])
    return train, validation


def many(count: int, per_prompt: int = 3) -> list[dict[str, Any]]:
    return [chat(f"Question {i}?", f"Answer {j}") for i in range(count) for j in range(per_prompt)]


def test_the_split_is_by_prompt_and_close_to_the_fraction(tmp_path: Path) -> None:
    report = run(tmp_path / "out", source(tmp_path / "a.jsonl", *many(1000)), validation_fraction=0.1)
    train, validation = records(tmp_path / "out")
    assert len(train) + len(validation) == 3000
    assert not {c.group for c in train} & {c.group for c in validation}
    assert len(validation) == 3 * len({c.group for c in validation})
    assert 70 <= report["validation"]["groups"] <= 130  # 100 +- 3 standard deviations
    assert report["train"] == {"records": len(train), "groups": 1000 - report["validation"]["groups"]}
    assert report["validation"]["records"] == len(validation)
    assert report["prompts_on_both_sides"] == 0
    assert report["warnings"] == []


def test_a_group_keeps_its_side_when_data_are_added_and_another_seed_moves_it(tmp_path: Path) -> None:
    rows = many(300)
    run(tmp_path / "few", source(tmp_path / "a.jsonl", *rows[:600]), validation_fraction=0.3)
    run(tmp_path / "all", source(tmp_path / "b.jsonl", *rows[::-1]), validation_fraction=0.3)
    few = {c.group for c in records(tmp_path / "few")[1]}
    every = {c.group for c in records(tmp_path / "all")[1]}
    known = {c.group for side in records(tmp_path / "few") for c in side}
    assert few == every & known
    run(tmp_path / "other", source(tmp_path / "a.jsonl", *rows[:600]), validation_fraction=0.3, seed=1)
    assert {c.group for c in records(tmp_path / "other")[1]} != few


@pytest.mark.parametrize("fraction", [0.0001, 0.5, 0.9999])
@pytest.mark.parametrize("count", [2, 3])
def test_both_sides_get_a_group_where_there_are_two(tmp_path: Path, count: int, fraction: float) -> None:
    report = run(tmp_path / "out", source(tmp_path / "a.jsonl", *many(count)), validation_fraction=fraction)
    assert report["train"]["groups"] >= 1
    assert report["validation"]["groups"] >= 1
    assert report["train"]["groups"] + report["validation"]["groups"] == count


def test_one_group_goes_to_training_with_a_warning(tmp_path: Path) -> None:
    report = run(tmp_path / "out", source(tmp_path / "a.jsonl", *many(1)), validation_fraction=0.9)
    assert (report["train"]["groups"], report["validation"]["groups"]) == (1, 0)
    assert (tmp_path / "out" / "validation.jsonl").read_bytes() == b""
    assert report["warnings"] == ["validation.jsonl is empty: there is only one prompt"]


def test_responses_to_one_prompt_stay_together_across_sources_and_formats(tmp_path: Path) -> None:
    alpaca = [{"instruction": f"question {i}", "output": "Hm."} for i in range(100)]
    sources = source(tmp_path / "a.jsonl", *many(100)), source(tmp_path / "b.jsonl", *alpaca, format="alpaca")
    run(tmp_path / "out", *sources, validation_fraction=0.3)
    for side in records(tmp_path / "out"):
        groups = {name: {c.group for c in side if c.source == name} for name in ("a", "b")}
        assert groups["a"] == groups["b"] != set()


def test_groups_of_the_records_are_kept_and_prompts_on_both_sides_told(tmp_path: Path) -> None:
    rows = [chat("Same?", f"Answer {i}", group=f"g{i}") for i in range(50)]
    report = run(tmp_path / "out", source(tmp_path / "a.jsonl", *rows), validation_fraction=0.5)
    assert report["train"]["groups"] + report["validation"]["groups"] == 50
    assert report["prompts_on_both_sides"] == 1
    assert "1 prompts are in train.jsonl and in validation.jsonl" in report["warnings"][0]


def test_duplicates_are_equal_in_all_that_trains(tmp_path: Path) -> None:
    code = "for i in range(2):\n    print('hi')"
    untrained = chat("Hi", "Hello")
    untrained["messages"][1]["weight"] = 0
    rated = chat("Hi", "Hello", attributes={"quality": 4})
    rated["messages"][1]["ratings"] = {"quality": [4, 3.5]}
    different = [
        chat("Hi", code),
        chat("Hi", code.replace("    ", "")),
        chat("Hi ", code),
        chat("Hi", "Hello"),
        untrained,
        chat("Hi", "Hello", attributes={"quality": 4}),
        chat("Hi", "Hello", attributes={"quality": 0}),
        chat("Hi", "Hello", attributes={"quality": 4, "humor": 0}),
        rated,
    ]
    report = run(tmp_path / "out", source(tmp_path / "a.jsonl", *different))
    assert report["sources"]["a"]["duplicates"] == 0
    report = run(tmp_path / "out", source(tmp_path / "a.jsonl", *different, *different))
    assert report["sources"]["a"]["duplicates"] == len(different)
    assert report["losses"] == [f"a: duplicates: {len(different)} left out (50.0 %)"]
    assert set(report["losses"]) < set(report["warnings"])
    train, validation = records(tmp_path / "out")
    assert len(train) + len(validation) == len(different)
    kept = run(tmp_path / "out", source(tmp_path / "a.jsonl", *different, *different), deduplicate=False)
    assert kept["train"]["records"] + kept["validation"]["records"] == 2 * len(different)


def test_a_record_without_labels_adds_nothing_to_its_labelled_twin(tmp_path: Path) -> None:
    labelled = source(tmp_path / "a.jsonl", chat("Hi", "Hello", attributes={"quality": 4}), chat("x", "y"))
    bare = source(tmp_path / "b.jsonl", chat("Hi", "Hello"))
    assert run(tmp_path / "out", labelled, bare)["sources"]["b"]["duplicates"] == 1
    assert run(tmp_path / "out", bare, labelled)["sources"]["a"]["duplicates"] == 0  # no label is lost


def test_the_same_words_from_another_speaker_are_no_duplicate(tmp_path: Path) -> None:
    instructed = {"messages": [{"role": "system", "content": "a"}, *chat("b", "c")["messages"]]}
    rows = [chat("a", "b c"), chat("a b", "c"), chat("a", "b", "c"), instructed]
    report = run(tmp_path / "out", source(tmp_path / "a.jsonl", *rows))
    assert report["sources"]["a"]["duplicates"] == 0


def test_leaks_are_dropped_and_counted(tmp_path: Path) -> None:
    long = "tell me in three short and friendly sentences why a cup of tea is good"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"text": "Name a tea!"}) + "\n" + json.dumps(long) + "\n")
    rows = [chat("name a tea", "x"), chat("Hi", "x", f"Now {long}", "y"), chat("ok", "Name a tea!"), chat("fine", "z")]
    report = run(tmp_path / "out", source(tmp_path / "a.jsonl", *rows), evaluation_prompts=(prompts,))
    counts = report["sources"]["a"]
    assert (counts["read"], counts["leaks"], counts["near_leaks"]) == (4, 1, 1)
    assert report["evaluation_prompts"]["prompts"] == 2
    kept = [c.messages[0].content for side in records(tmp_path / "out") for c in side]
    assert sorted(kept) == ["fine", "ok"]


def test_records_without_a_response_are_dropped_and_counted(tmp_path: Path) -> None:
    report = run(tmp_path / "out", source(tmp_path / "a.jsonl", chat("Hi"), chat("Hi", "Hello", "Bye")))
    assert report["sources"]["a"]["no_response"] == 1
    assert report["train"]["records"] == 1


def test_the_report_counts_responses_and_labels(tmp_path: Path) -> None:
    rows = [
        chat("a", "b", "c", "d", attributes={"quality": 1, "humor": 2}),
        chat("a", "b", "c", "e", attributes={"quality": 1}),
        chat("a", "f"),
    ]
    helpsteer = {"prompt": "p", "response": "r", "verbosity": 1, "coherence": 2}
    first = source(tmp_path / "a.jsonl", *rows)
    second = source(tmp_path / "b.jsonl", helpsteer, format="helpsteer")
    report = run(tmp_path / "out", first, second, schema=OASST)
    counts = report["sources"]["a"]
    assert (counts["responses"], counts["repeated_responses"]) == (5, 1)  # a-b is the start of two paths
    assert counts["labelled"] == {"quality": 2, "toxicity": 0, "humor": 1, "creativity": 0}
    assert report["sources"]["b"]["left_out"] == {"coherence": 1, "verbosity": 1}
    assert "b: none of its labels is in the schema (coherence, verbosity)" in report["warnings"]
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == report
    assert sum(c["train"] + c["validation"] for c in report["sources"].values()) == 4


def test_ids_are_unique(tmp_path: Path) -> None:
    rows = [chat(f"{i}", "x", id="same") for i in range(4)] + [chat("last", "x", id="same#1")]
    run(tmp_path / "out", source(tmp_path / "a.jsonl", *rows))
    ids = [c.id for side in records(tmp_path / "out") for c in side]
    assert len(set(ids)) == 5
    assert {"same", "same#1"} <= set(ids)


def test_bad_records_stop_or_are_counted_with_examples(tmp_path: Path) -> None:
    rows = [chat("a", "b"), chat("c", ""), chat("d", "e", attributes={"quality": 9})]
    given = source(tmp_path / "a.jsonl", *rows)
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*empty.*--skip-bad-records counts"):
        run(tmp_path / "out", given)
    assert list((tmp_path / "out").iterdir()) == []
    report = run(tmp_path / "out", given, skip_bad_records=True)
    assert report["sources"]["a"]["bad"]["count"] == 2
    assert "a.jsonl:3: message 1: quality: 9 is not" in report["sources"]["a"]["bad"]["examples"][1]


def test_a_schema_mismatch_stops_even_when_bad_records_are_skipped(tmp_path: Path) -> None:
    rows = [chat("a", "b", schema=OASST.signature)]
    with pytest.raises(UserError, match=r"schema mismatch.*a\.jsonl:1"):
        run(tmp_path / "out", source(tmp_path / "a.jsonl", *rows), skip_bad_records=True)


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    given = source(tmp_path / "a.jsonl", chat("a", ""), chat("a"))
    with pytest.raises(UserError, match="no record is left to train on: a: no record is left of 1 read and 1 bad ones"):
        run(tmp_path / "out", given, skip_bad_records=True)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_rerun_gives_the_same_bytes_and_clears_what_a_killed_run_left(tmp_path: Path) -> None:
    given = source(tmp_path / "a.jsonl", *many(50))
    run(tmp_path / "out", given)
    before = contents(tmp_path / "out")
    assert sorted(before) == sorted(FILES)
    (tmp_path / "out" / ".train.jsonl.123.partial").write_bytes(b"half")
    (tmp_path / "out" / ".staged.jsonl").write_bytes(b"half")
    (tmp_path / "out" / "report.json").unlink()
    run(tmp_path / "out", given)
    assert contents(tmp_path / "out") == before


def test_the_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    row = {"prompt": "p", "response": "r", "verbosity": 1, "coherence": 2, "helpfulness": 3}
    source(tmp_path / "a.jsonl", *[{**row, "prompt": f"p{i}"} for i in range(20)])
    code = (
        "import sys; from pathlib import Path\n"
        "from steerlm.attributes import STEERLM\n"
        "from steerlm.config import PrepareConfig, SourceConfig\n"
        "from steerlm.stages.prepare.stage import prepare\n"
        "given = SourceConfig(name='a', format='helpsteer', path=Path(sys.argv[1]))\n"
        "prepare(PrepareConfig(sources=(given,)), STEERLM, Path(sys.argv[2]), 0)\n"
    )
    for hash_seed in ("1", "2"):
        arguments = [sys.executable, "-c", code, str(tmp_path / "a.jsonl"), str(tmp_path / hash_seed)]
        subprocess.run(arguments, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed})
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_a_full_disk_leaves_the_files_of_the_run_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = source(tmp_path / "a.jsonl", *many(5))
    run(tmp_path / "out", given)
    before = contents(tmp_path / "out")
    given = source(tmp_path / "a.jsonl", *many(9))
    synced = []

    def full_the_second_time(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_the_second_time)
    with pytest.raises(UserError, match="no space left on the disk while writing"):
        run(tmp_path / "out", given)
    assert contents(tmp_path / "out") == before


def peak_memory(tmp_path: Path, count: int) -> int:
    path = tmp_path / f"a{count}.jsonl"
    with path.open("w") as stream:
        for i in range(count):
            stream.write(json.dumps(chat(f"Question {i}? {'word ' * 200}", f"Answer {'word ' * 200}")) + "\n")
    tracemalloc.start()
    try:
        run(tmp_path / "out", SourceConfig(name="a", format="messages", path=path))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_holds_hashes_not_text(tmp_path: Path) -> None:
    peak_memory(tmp_path, 10)  # imports
    small, large = peak_memory(tmp_path, 200), peak_memory(tmp_path, 1700)
    assert (large - small) / 1500 < 150  # bytes per record of 2,000 characters


def test_inspecting_a_source(tmp_path: Path) -> None:
    given = source(tmp_path / "a.jsonl", chat("ab", "cde"), chat("f", ""), chat("g", "h", "i", "j"))
    seen = inspect_source(given, STEERLM)
    assert (seen.records, seen.responses, seen.characters) == (2, 3, 9)
    assert (seen.bad, seen.complete) == (1, True)
    assert "a.jsonl:2: message 1 (assistant) is empty" in seen.first_error
    missing = inspect_source(SourceConfig(name="b", format="messages", path=tmp_path / "none.jsonl"), STEERLM)
    assert "no such file" in missing.first_error
    assert (missing.records, missing.complete) == (0, False)


def test_real_sources_together(shared_data: Path, tmp_path: Path) -> None:
    def real() -> Iterator[SourceConfig]:
        for name, source_format, path in (
            ("nemo", "nemo", "nemo_aligner/sft_512_sample_extra_id_format.jsonl"),
            ("hh", "hh_rlhf", "hh_rlhf/harmless-base-test.jsonl.gz"),
            ("oasst", "oasst", "open_assistant/en_100_tree.jsonl"),
            ("again", "oasst", "open_assistant/en_100_message.jsonl"),
            ("identity", "self_identification", "model_self_identification/dummy_conversation.json"),
        ):
            yield SourceConfig(name=name, format=source_format, path=shared_data / path)  # type: ignore[arg-type]

    prompts = shared_data / "vicuna" / "prompts" / "vicuna_questions.jsonl"
    report = run(tmp_path / "out", *real(), skip_bad_records=True, evaluation_prompts=(prompts,))
    counts = report["sources"]
    kept = {name: count["train"] + count["validation"] for name, count in counts.items()}
    assert kept == {"nemo": 512, "hh": 4607, "oasst": 546, "again": 0, "identity": 500}
    assert counts["again"]["duplicates"] == 546
    assert counts["nemo"]["labelled"]["helpfulness"] == 512
    assert report["prompts_on_both_sides"] == 0
    train, validation = records(tmp_path / "out")
    first = {side: {c.messages[0].content for c in rows} for side, rows in (("t", train), ("v", validation))}
    assert not first["t"] & first["v"]
    assert len({c.id for c in [*train, *validation]}) == len(train) + len(validation) == sum(kept.values())


@pytest.mark.parametrize("file", [0, 1, 2, 3])
def test_killed_at_any_file_and_run_again_it_ends_with_the_same_bytes(tmp_path: Path, file: int) -> None:
    given = source(tmp_path / "a.jsonl", *many(20))
    run(tmp_path / "whole", given)
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from steerlm.attributes import STEERLM\n"
        "from steerlm.config import PrepareConfig, SourceConfig\n"
        "from steerlm.stages.prepare.stage import prepare\n"
        "left = [int(sys.argv[3])]\n"
        "def sync(descriptor):\n"
        "    left[0] -= 1\n"
        "    if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.fsync = sync\n"
        "given = SourceConfig(name='a', format='messages', path=Path(sys.argv[1]))\n"
        "prepare(PrepareConfig(sources=(given,)), STEERLM, Path(sys.argv[2]), 0)\n"
    )
    out = tmp_path / "out"
    arguments = [sys.executable, "-c", code, str(tmp_path / "a.jsonl"), str(out), str(file)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    assert not (out / "report.json").exists()
    run(out, given)
    assert contents(out) == contents(tmp_path / "whole")
