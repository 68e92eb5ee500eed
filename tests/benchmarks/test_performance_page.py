"""The tables of the performance page: what holds, what is missed, what was not run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import annotate, engines, generative_labels, large_vocabulary, planning, sampling, sft
from benchmarks.harness import environment
from steerlm.storage.files import write_json

DOCS = Path(__file__).resolve().parents[2] / "docs"
ENVIRONMENT = {**environment(), "cpu": "A CPU (R) (avx2, amx_bf16)"}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(DOCS))
    import results_performance

    monkeypatch.setattr(results_performance, "FOLDER", tmp_path)
    yield results_performance
    sys.modules.pop("results_performance", None)


def _peer(median: float, target: float | None) -> dict[str, Any]:
    ratio = {"median": median, "low": median - 0.5, "high": median + 0.5, "pairs": [median] * 5}
    return {"description": "a peer", "target": target, "ratio": ratio, "facts": [{"tokens": 3, "loss": 2.0}] * 2}


def _write(folder: Path, quick: bool = False) -> None:
    peers = {
        "good": _peer(3.0, 2.0),
        "bad": _peer(1.5, 2.0),
        "free": _peer(0.9, None),
        "absent": {"description": "another", "target": 1.0, "not_run": "not installed"},
    }
    ours = {"description": "us", "facts": [{"tokens": 3, "loss": 1.5}, {"tokens": 4, "loss": 1.0}]}
    case = {
        "description": "a case", "ours": ours, "peers": peers, "checks": [{"equal_labels": {"good": 1.0}}],
        "quick": quick, "environment": ENVIRONMENT,
    }  # fmt: skip
    write_json(folder / "sft.json", {"title": "SFT", "claim": "sft", "device": "cpu", "cases": {"one": case}})
    write_json(folder / "sft_cuda.json", {"title": "SFT", "claim": "sft", "device": "cuda", "not_run": "no GPU here"})


def test_targets_are_judged_by_the_median(page: ModuleType, tmp_path: Path) -> None:
    _write(tmp_path)
    rows = page.targets().splitlines()
    assert "| SFT: a case | a peer | >= 2 x | 3.00 x [2.50, 3.50], 5 pairs | holds | A CPU (R), AMX |" in rows
    assert "| SFT: a case | a peer | >= 2 x | 1.50 x [1.00, 2.00], 5 pairs | **missed** | A CPU (R), AMX |" in rows
    assert "| SFT: a case | a peer |  | 0.90 x [0.40, 1.40], 5 pairs | no target | A CPU (R), AMX |" in rows
    assert "| SFT: a case | another | >= 1 x |  | not run: not installed | A CPU (R), AMX |" in rows
    assert "| SFT, cuda |  |  |  | not run: no GPU here |  |" in rows


def test_a_quick_check_is_no_result(page: ModuleType, tmp_path: Path) -> None:
    _write(tmp_path, quick=True)
    assert "a case (quick check, no result)" in page.targets()


def test_the_work_of_both_sides_is_shown(page: ModuleType, tmp_path: Path) -> None:
    _write(tmp_path)
    work = page.work()
    assert "| SFT: a case | steerlm | tokens 3 to 4, loss 1.0 to 1.5 |" in work
    assert "| SFT: a case | good | tokens 3, loss 2.0 |" in work
    assert '| SFT: a case | equal labels | {"good": 1.0} |' in work


def test_memory_is_judged_where_it_was_measured(page: ModuleType, tmp_path: Path) -> None:
    def measured(*peaks: float) -> list[dict[str, Any]]:
        return [{"peak_gib": peak} for peak in peaks]

    ours = {"description": "us", "facts": measured(3.0, 2.0, 2.5)}
    peers = {
        "before": {**_peer(3.0, 3.0), "facts": measured(8.0, 8.0, 8.0)},
        "trl": {**_peer(3.0, 2.5), "facts": measured(4.0, 4.0, 4.0)},
    }
    case = {"description": "a case", "ours": ours, "checks": [], "quick": False, "environment": ENVIRONMENT}
    cases = {"lora": {**case, "peers": peers}, "full": {**case, "description": "all", "peers": {}}}
    write_json(tmp_path / "large_vocabulary.json", {"title": "T", "device": "cpu", "cases": cases})
    rows = page.targets().splitlines()
    assert "| T: a case | peak memory of: a peer | <= 0.5 x | 0.31 x [0.25, 0.38], 3 pairs | holds |" in str(rows)
    assert "| T: a case | peak memory of: a peer | <= 0.6 x | 0.62 x [0.50, 0.75], 3 pairs | **missed** |" in str(rows)
    assert "| T: all | peak memory | <= 12 GB | 3.2 GB | holds |" in str(rows)


def test_cost_per_record_has_its_own_targets(page: ModuleType, tmp_path: Path) -> None:
    found = {
        "sizes": {"10000": {"peak_mib": 100}, "1000000": {"peak_mib": 2000}},
        "largest_against_reference": 1.1,
        "targets": {"ratio": 1.2, "peak_bytes": 10**9, "reference": 10_000},
    }
    steps = {"prepare": {**found, "environment": ENVIRONMENT}}
    write_json(tmp_path / "io.json", {"quick": False, "steps": steps})
    rows = page.targets()
    assert "its own time per record at 10,000 | <= 1.2 x | 1.10 x | holds | A CPU (R), AMX |" in rows
    assert "| peak memory | < 1 GB | 2.10 GB | **missed** | A CPU (R), AMX |" in rows


def test_plans_stand_beside_what_happened(page: ModuleType, tmp_path: Path) -> None:
    rounds = [
        {
            "predicted": {"memory_mib": 90.0, "seconds_per_step": 0.5},
            "measured": {"memory_mib": m, "seconds_per_step": s},
        }
        for m, s in ((100.0, 0.4), (120.0, 0.45), (99.6, 0.38))
    ]
    found = {"6m": {"summary": planning.summarise(rounds), "rounds": rounds}}
    write_json(tmp_path / "planning.json", {"quick": False, "environment": environment(), "plans": found})
    rows = page.plan().splitlines()
    assert "| 6m | peak memory, MiB | 90 | 100 [100, 120], 3 rounds | -10 % |" in rows
    assert "| 6m | seconds per step | 0.50 | 0.40 [0.38, 0.45], 3 rounds | +25 % |" in rows
    assert page.environment().startswith("- planning: ")
    write_json(tmp_path / "planning.json", {"quick": True, "environment": environment(), "plans": found})
    assert "| 6m (quick check, no result) |" in page.plan()


@pytest.mark.parametrize("benchmark", [sft, large_vocabulary, annotate, generative_labels, sampling, engines])
def test_every_comparison_has_its_place_on_the_page(page: ModuleType, benchmark: ModuleType) -> None:
    assert benchmark.BENCHMARK.claim in page.CLAIMS
    assert benchmark.__name__ == f"benchmarks.{benchmark.BENCHMARK.claim}"


def test_nothing_measured_is_said(page: ModuleType) -> None:
    assert page.work() == page.plan() == page.environment() == "Not measured yet.\n"


def test_the_machine_is_named(page: ModuleType, tmp_path: Path) -> None:
    _write(tmp_path)
    assert page.environment().startswith("- sft one: ")
    assert "torch" in page.environment()
