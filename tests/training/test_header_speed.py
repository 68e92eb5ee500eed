"""The driver that measures how fast a header is learned: one option on a tiny playground, and the table of many."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from steerlm.config import dump_recipe, load_recipe
from steerlm.playground import build
from tests.tiny_recipe import ROOT, write_tiny_recipe

sys.path.insert(0, str(ROOT / "docs"))
import results_header


def test_an_option_is_trained_measured_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    recipe = load_recipe(write_tiny_recipe(tmp_path / "recipe.yaml", run))
    assert recipe.playground is not None
    for folder in ("playground", "annotate"):
        (run / folder).mkdir(parents=True)
    build(recipe.playground, recipe.schema_, run / "playground", 0)
    (run / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    lines = (run / "playground" / "labelled.jsonl").read_bytes().splitlines(keepends=True)
    (run / "annotate" / "train.jsonl").write_bytes(b"".join(lines[20:]))
    (run / "annotate" / "validation.jsonl").write_bytes(b"".join(lines[:20]))
    tried: dict[str, dict[str, object]] = {"as it is": {}, "no decoys": {"header_decoys": 0.0}}
    tried["in tokens that it has"] = {"header": "text", "template": "native"}
    monkeypatch.setattr(results_header, "OPTIONS", tried)
    monkeypatch.setattr(results_header, "_PROMPTS", 5)
    monkeypatch.setattr(results_header, "_MAX_NEW_TOKENS", 8)
    monkeypatch.setattr(results_header, "STEPS", 6)
    learn = results_header.learn
    monkeypatch.setattr(results_header, "learn", lambda *given: learn(*given, steps=6))
    result = tmp_path / "header.json"
    results_header.measure(run, tmp_path / "work", [0], result)
    found = results_header.json.loads(result.read_text(encoding="utf-8"))
    assert list(found) == list(tried)
    course = found["no decoys"]["0"]
    assert len(course["gain"]) == results_header.VALIDATIONS
    assert [examples for examples, _ in course["gain"]] == sorted({examples for examples, _ in course["gain"]})
    assert set(course["spearman"]) == set(recipe.schema_.names)
    before = result.read_bytes()
    monkeypatch.setattr(results_header, "learn", None)  # nothing is left to do
    results_header.measure(run, tmp_path / "work", [0], result)
    assert result.read_bytes() == before
    assert "| no decoys | 1 |" in results_header.table(found)
    stage = tmp_path / "work" / "no-decoys-0"
    monkeypatch.setattr(results_header, "REAL", tmp_path / "real.json")
    results_header.keep("no decoys", stage, stage / "evaluation", results_header.REAL)
    [columns, _, row] = results_header.real_table().splitlines()
    assert (
        len(row.split(" | "))
        == len(columns.split(" | "))
        == 1 + results_header.VALIDATIONS + 1 + len(recipe.schema_.ordinal)
    )
    assert row.startswith(f"| no decoys | {course['gain'][0][1]:.3f} [")


def test_the_table_says_means_and_ranges_over_seeds() -> None:
    def course(end: float) -> dict[str, object]:
        return {"gain": [[10 * i, end * i / 6] for i in range(1, 7)], "loss": 1.0, "spearman": {"a": end, "b": 0.0}}

    [line] = results_header.table({"as it is": {"0": course(0.6), "1": course(0.2)}}).splitlines()[2:]
    assert "0.400 [0.200, 0.600] (60)" in line
    assert line.endswith("| 0.200 [0.100, 0.300] | 0.000 [0.000, 0.000] |")
