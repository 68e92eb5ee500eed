"""Result files survive reading and writing byte by byte, those of versions before the types too."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from steerlm.errors import UserError
from steerlm.results.codec import VERSION, from_json, read_result, to_json, write_result
from steerlm.results.comparison import ComparisonResult
from steerlm.results.evaluation import Evaluation, read_evaluation
from steerlm.results.studies import AblationResult

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[2]
KINDS: dict[str, type] = {
    "evaluate": Evaluation, "evaluate_categories": Evaluation, "suite": Evaluation, "suite_humor": Evaluation,
    "compare_judge": ComparisonResult, "compare_scorer": ComparisonResult, "ablate": AblationResult,
}  # fmt: skip


def golden(name: str) -> Any:
    return orjson.loads((GOLDEN / f"{name}.json").read_bytes())


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_an_earlier_version_is_written_as_it_was_read(name: str) -> None:
    text = (GOLDEN / f"{name}.json").read_bytes()
    assert orjson.dumps(to_json(from_json(KINDS[name], orjson.loads(text)))) + b"\n" == text


def test_the_published_evaluation_is_read_whole() -> None:
    value = orjson.loads((ROOT / "docs" / "results" / "playground" / "evaluate.json").read_bytes())
    assert to_json(from_json(Evaluation, value)) == value


def test_undefined_numbers_are_null_in_the_file() -> None:
    value = golden("evaluate_categories")
    value["models"]["bootstrap"]["coverage"]["contexts"]["random"]["seen"] = None
    found = from_json(Evaluation, value)
    assert math.isnan(found.models["bootstrap"].coverage.contexts["random"].seen)
    assert to_json(found) == value


def test_an_evaluation_answers_by_name(tmp_path: Path) -> None:
    write_result(tmp_path / "evaluate" / "results.json", from_json(Evaluation, golden("evaluate")))
    found = read_evaluation(tmp_path)
    assert found is not None
    assert found.final == "bootstrap"
    assert found.drawing.settings == ["defaults", "random"]
    assert found.drawing.temperature == 0.7
    [humor] = [row for row in found.headline_dials() if row.attribute == "toxicity"]
    raw = golden("evaluate")["models"]["bootstrap"]["scorers"]["measure"]["dials"]["toxicity"]
    assert humor.dial.spearman.to_dict() == raw["spearman"]
    assert humor.dial.largest_leak is not None
    assert humor.dial.largest_leak.attribute == raw["largest_leak"]["attribute"]
    assert [point.estimate.value for point in humor.dial.curve] == [row["value"] for row in raw["curve"]]
    assert humor.scorer.independent
    assert read_evaluation(tmp_path / "nowhere") is None


def test_what_is_not_read_says_where(tmp_path: Path) -> None:
    value = golden("evaluate")
    write_result(tmp_path / "results.json", {**value, "unknown": 1})  # a newer version's key
    assert read_result(Evaluation, tmp_path / "results.json").seed == value["seed"]
    for change, said in (
        ({"asks": "many"}, r"results\.json: asks should be of type int, not 'many'"),
        ({"prompts": {"used": 1}}, r"results\.json: prompts\.clusters is missing"),
        ({"models": {"m": []}}, r"results\.json: models\.m should be of type Mapping"),
        ({"version": VERSION + 1}, r"results\.json: written by a newer steerlm"),
    ):
        write_result(tmp_path / "results.json", {**value, **change})
        with pytest.raises(UserError, match=said):
            read_result(Evaluation, tmp_path / "results.json")
