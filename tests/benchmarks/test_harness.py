"""The harness: fresh processes, alternating order, the fastest variant, ratios, reports of what did not run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import Job, Measurement, NotRun, build_parser, environment, ratio, run_benchmark, run_case
from steerlm.storage.files import write_json
from tests.benchmarks.stub import BENCHMARK


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three rounds of the stub's first case, in this process."""
    folder = tmp_path_factory.mktemp("stub")
    BENCHMARK.prepare(folder, ["one"], False, "cpu")

    def run(case: str, contestant: str, variant: str, number: int) -> Measurement | NotRun:
        try:
            return BENCHMARK.measure(Job(case, contestant, variant, number, False, "cpu", folder))
        except NotRun as reason:
            return reason

    case = run_case("one", BENCHMARK.cases["one"], run, 3, BENCHMARK.compare, lambda text: None)
    result: dict[str, Any] = json.loads(json.dumps(case))
    return result


def test_every_measurement_has_a_process_of_its_own(tmp_path: Path) -> None:
    path = run_benchmark(BENCHMARK, "tests.benchmarks.stub", ["two"], 2, True, "cpu", tmp_path)
    assert path == tmp_path / "stub.json"
    facts = json.loads(path.read_text(encoding="utf-8"))["cases"]["two"]["ours"]["facts"]
    assert os.getpid() not in {row["process"] for row in facts}
    assert len({row["process"] for row in facts}) == 2


def test_ratios_are_pair_by_pair(result: dict[str, Any]) -> None:
    peers = result["peers"]
    assert peers["slow"]["ratio"] == {"median": 3.0, "low": 2.0, "high": 3.0, "pairs": [2.0, 3.0, 3.0]}
    assert peers["slow"]["target"] == 2.0


def test_a_peer_runs_with_its_fastest_variant(result: dict[str, Any]) -> None:
    tuned = result["peers"]["tuned"]
    assert tuned["variant"] == "6"
    assert tuned["ratio"]["pairs"] == pytest.approx([8 / 6, 2.0, 1.5], abs=1e-3)


def test_a_second_engine_of_ours_is_held_against_its_peer(result: dict[str, Any]) -> None:
    ratio = {"median": 1.5, "low": 1.5, "high": 2.0, "pairs": [1.5, 1.5, 2.0]}
    assert result["peers"]["tuned"]["further"] == {"peer": "slow", "target": 1.25, "ratio": ratio}


def test_contestants_take_turns_in_alternating_order(result: dict[str, Any]) -> None:
    orders = [facts["order"] for facts in result["ours"]["facts"]]
    tuning = ["tuned2-1", "tuned6-1", "tuned4-1"]
    first = ["ours0", "slow0", "tuned60", "absent0"]
    assert orders[2].split() == [*tuning, *first, "tuned61", "slow1", "ours1", "ours2"]


def test_who_cannot_run_is_reported(result: dict[str, Any]) -> None:
    peers = result["peers"]
    assert peers["absent"]["not_run"] == "it is not installed"
    assert "ratio" not in peers["absent"]


def test_outputs_are_compared_and_not_recorded(result: dict[str, Any]) -> None:
    assert result["checks"] == [{"case": "one", "seen": {"ours": "ours", "slow": "slow", "tuned": "6"}}] * 3
    assert "output" not in json.dumps(result)


def test_other_cases_of_the_file_are_kept(tmp_path: Path) -> None:
    write_json(tmp_path / "stub.json", {"cases": {"one": {"description": "measured before"}, "gone": {}}})
    path = run_benchmark(BENCHMARK, "tests.benchmarks.stub", ["two"], 1, True, "cpu", tmp_path)
    cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    assert list(cases) == ["one", "two"]
    assert cases["one"] == {"description": "measured before"}
    assert cases["two"]["quick"] is True


def test_a_failure_shows_what_the_process_wrote(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="No module named"):
        run_benchmark(BENCHMARK, "tests.benchmarks.no_such_module", ["one"], 1, True, "cpu", tmp_path)


def test_without_a_gpu_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness._has_gpu", lambda: False)
    path = run_benchmark(BENCHMARK, "tests.benchmarks.stub", ["one"], 1, True, "cuda", tmp_path)
    assert path.name == "stub_cuda.json"
    assert json.loads(path.read_text(encoding="utf-8"))["not_run"] == "no GPU here"


def test_environment_holds_no_path() -> None:
    facts = environment()
    assert facts["cpus"] >= 1
    assert facts["packages"]["torch"]
    assert "/" not in json.dumps(facts)


def test_ratio_of_one_pair() -> None:
    assert ratio([3.0], [2.0]) == {"median": 1.5, "low": 1.5, "high": 1.5, "pairs": [1.5]}


def test_unknown_cases_are_refused() -> None:
    with pytest.raises(SystemExit):
        build_parser(BENCHMARK).parse_args(["--cases", "three"])
