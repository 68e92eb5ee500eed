"""The gate: strict requirements, estimates or interval ends, failing rows, exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.errors import UserError
from steerlm.results.check import CheckedDemand, Requirement, check, parse_requirement
from steerlm.storage.files import write_json

SCHEMA = AttributeSchema(
    (
        Attribute("quality", best="max"),
        Attribute("humor"),
        Attribute("lang", kind="categorical", categories=("en", "de")),
    )
)


def estimate(
    value: float | None, low: float | None = None, high: float | None = None, note: str = ""
) -> dict[str, Any]:
    out: dict[str, Any] = {"value": value, "low": low, "high": high, "n": 40, "clusters": 8}
    return {**out, "note": note} if note else out


def dial(spearman: dict[str, Any], leak: dict[str, Any]) -> dict[str, Any]:
    figures = dict.fromkeys(("spearman_per_prompt", "monotonicity", "slope", "exact"), estimate(0.9, 0.8, 0.95))
    rest = {"n": 40, "clusters": 8, "constant": None}
    return {
        **rest,
        **figures,
        "mae": estimate(0.25, 0.2, 0.3),
        "spearman": spearman,
        "largest_leak": {"attribute": "quality", **leak},
    }


@pytest.fixture
def results(tmp_path: Path) -> dict[str, Any]:
    report = {
        "dials": {
            "quality": dial(estimate(None, note="undefined: a constant input"), estimate(0.02, 0.0, 0.05)),
            "humor": dial(estimate(0.93, 0.88, 0.95), estimate(0.2, 0.1, 0.3)),
        },
        "leakage": {
            "quality": {"quality": estimate(1.0, 0.9, 1.1), "humor": estimate(0.02, -0.01, 0.05)},
            "humor": {"quality": estimate(-0.2, -0.3, -0.1), "humor": estimate(0.9, 0.8, 1.0)},
        },
        "categorical": {"lang": {"n": 40, "accuracy": estimate(0.97, 0.9, 1.0)}},
    }
    for row in report["dials"].values():
        row["largest_leak"]["attribute"] = "quality" if row["spearman"]["value"] else "humor"
    annotator = {**report, "dials": {"humor": dial(estimate(0.99, 0.98, 1.0), estimate(0.0, 0.0, 0.0))}}
    model = {
        "fingerprint": "0",
        "coverage": {"combinations": 1, "possible": 50, "records": 1},
        "scorers": {"measure": report, "annotator": annotator},
        "answers": {
            "all": {"answers": 400, "unanswered": 0, "label_leak": estimate(0.0, 0.0, 0.07), "distinct_2": 0.31}
        },
    }
    worse = {**model, "scorers": {**model["scorers"], "measure": {**report, "categorical": {}}}}
    return {
        "attributes": SCHEMA.to_dict(),
        "seed": 0,
        "prompts": {"used": 8, "clusters": 8},
        "asks": 400,
        "examples": {"model": "final"},
        "scorers": [
            {"id": "measure", "label": "exact", "independent": True, "attributes": ["quality", "humor"]},
            {"id": "annotator", "label": "own", "independent": False, "attributes": ["quality", "humor", "lang"]},
        ],
        "headline_scorer": {"quality": "measure", "humor": "measure", "lang": "annotator"},
        "models": {"first": worse, "final": model},
    }


def rows(tmp_path: Path, results: dict[str, Any], *texts: str, **options: Any) -> list[CheckedDemand]:
    write_json(tmp_path / "evaluate" / "results.json", results)
    return check(tmp_path, [parse_requirement(text) for text in texts], **options)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("humor.spearman>=0.9", Requirement("humor", "spearman", ">=", 0.9)),
        (" humor.mae < .5 ", Requirement("humor", "mae", "<", 0.5)),
        ("*.leak<=1e-1", Requirement("*", "leak", "<=", 0.1)),
        ("answers.label_leak<=0", Requirement("answers", "label_leak", "<=", 0.0)),
    ],
)
def test_requirements_parse(text: str, parsed: Requirement) -> None:
    assert parse_requirement(text) == parsed


@pytest.mark.parametrize(
    "text",
    ["", "humor", "humor.spearman", "humor.spearman=0.9", "humor.spearman==0.9", "humor.spearman>=high",
     "0.9<humor.mae",
     "humor.spearman>=0.9 and humor.mae<1", "humor.spearman>=nan", "humor.spearman>=inf", "Humor.spearman>=0.9",
     "humor.spearman=>0.9", "humor.spearman>=0.9%", "__import__('os').system('x')>=1"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"not of the form ATTRIBUTE\.FIGURE OP NUMBER"):
        parse_requirement(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "humour.spearman>=0.9",
            r"no attribute 'humour': did you mean 'humor'\? \(valid: quality, humor, lang, answers",
        ),
        ("humor.sperman>=0.9", r"no figure 'sperman': did you mean 'spearman'\? \(valid: spearman, .*leak\)"),
        ("lang.spearman>=0.9", "'lang' has no figure 'spearman': valid: accuracy"),
        ("*.sperman>=0.9", "no attribute has a figure 'sperman'"),
        ("answers.leak<=0", "the answers have no figure 'leak'"),
    ],
)
def test_unknown_names_get_the_valid_ones(tmp_path: Path, results: dict[str, Any], text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows(tmp_path, results, text)


def test_the_estimate_counts_unless_the_interval_is_asked_for(tmp_path: Path, results: dict[str, Any]) -> None:
    [row] = rows(tmp_path, results, "humor.spearman>=0.9")
    assert (row.what, row.demand, row.found, row.holds) == ("humor.spearman", ">=0.9", "0.930 [0.880, 0.950]", True)
    assert [r.holds for r in rows(tmp_path, results, "humor.spearman>=0.93", "humor.spearman>0.93")] == [True, False]
    interval = {"compare": "interval"}
    wanted = {
        "humor.spearman>=0.9": False,
        "humor.spearman>=0.88": True,
        "humor.mae<=0.25": False,
        "humor.mae<=0.3": True,
    }
    for text, holds in wanted.items():
        [row] = rows(tmp_path, results, text, **interval)
        assert row.holds is holds, text


def test_what_is_undefined_or_has_no_interval_does_not_hold(tmp_path: Path, results: dict[str, Any]) -> None:
    [row] = rows(tmp_path, results, "quality.spearman>=-1")
    assert not row.holds
    assert (row.found, row.reason) == ("undefined", "undefined: a constant input")
    few = estimate(0.95, note="no interval: 3 clusters, at least 5 are needed")
    results["models"]["final"]["scorers"]["measure"]["dials"]["humor"]["spearman"] = few
    assert rows(tmp_path, results, "humor.spearman>=0.9")[0].holds
    [row] = rows(tmp_path, results, "humor.spearman>=0.9", compare="interval")
    assert not row.holds
    assert "3 clusters" in row.reason


def test_leaks_count_by_size_whichever_way_they_go(tmp_path: Path, results: dict[str, Any]) -> None:
    found = rows(tmp_path, results, max_leak=0.15)
    assert [(row.what, row.holds) for row in found] == [
        ("leak of quality on humor", True), ("leak of humor on quality", False),
    ]  # fmt: skip
    assert found[1].found == "0.200 [0.100, 0.300]"
    assert found[0].found == "0.020 [0.000, 0.050]"
    assert all(row.holds for row in rows(tmp_path, results, max_leak=0.25))
    assert not all(row.holds for row in rows(tmp_path, results, max_leak=0.25, compare="interval"))
    [row] = rows(tmp_path, results, "humor.leak<=0.15")
    assert (row.what, row.holds) == ("humor.leak (on quality)", False)


def test_a_dial_that_has_its_own_scorer_must_not_move_what_others_measure(
    tmp_path: Path, results: dict[str, Any]
) -> None:
    scorers = results["models"]["final"]["scorers"]
    alone = {
        **scorers["measure"],
        "dials": {"quality": {**scorers["measure"]["dials"]["quality"], "largest_leak": None}},
    }
    alone["leakage"] = {dial: {"quality": row["quality"]} for dial, row in alone["leakage"].items()}
    moved = {
        **scorers["measure"]["leakage"],
        "quality": {"quality": estimate(1.0), "humor": estimate(-0.4, -0.6, -0.2)},
    }
    scorers |= {"dials": alone, "measure": {**scorers["measure"], "leakage": moved}}
    label = {"id": "dials", "label": "the dial's own measure", "independent": True, "attributes": ["quality"]}
    results["scorers"] = [label, *results["scorers"]]
    results["headline_scorer"]["quality"] = "dials"
    found = rows(tmp_path, results, max_leak=0.3)
    assert [(row.what, row.found, row.holds) for row in found] == [
        ("leak of quality on humor", "0.400 [0.200, 0.600]", False),
        ("leak of humor on quality", "0.200 [0.100, 0.300]", True),
    ]
    [row] = rows(tmp_path, results, "quality.leak<=0.3")
    assert (row.what, row.holds) == ("quality.leak (on humor)", False)
    results["headline_scorer"]["humor"] = "annotator"
    assert [row.holds for row in rows(tmp_path, results, max_leak=9)] == [False, False]
    [row] = rows(tmp_path, results, "quality.leak<=0.3")
    assert row.found == "no figure"


def test_the_annotating_model_counts_only_when_named(tmp_path: Path, results: dict[str, Any]) -> None:
    [row] = rows(tmp_path, results, "lang.accuracy>=0.5")
    assert not row.holds
    assert row.reason == "only annotator measured it, which is not independent; --scorer annotator accepts that"
    [row] = rows(tmp_path, results, "lang.accuracy>=0.5", scorer="annotator")
    assert row.holds
    [row] = rows(tmp_path, results, "lang.accuracy>=0.5", scorer="measure")
    assert (row.holds, row.reason) == (False, "measure does not measure it")


def test_every_attribute_the_answers_and_other_models(tmp_path: Path, results: dict[str, Any]) -> None:
    found = rows(tmp_path, results, "*.mae<=0.5", "answers.label_leak<=0.01", "answers.distinct_2>=0.3")
    assert [row.what for row in found] == ["quality.mae", "humor.mae", "answers.label_leak", "answers.distinct_2"]
    assert all(row.holds for row in found)
    assert found[-1].found == "0.310"
    first = rows(tmp_path, results, "lang.accuracy>=0.5", model="first", scorer="annotator")
    assert first[0].holds
    with pytest.raises(UserError, match=r"no model 'finale': did you mean 'final'"):
        rows(tmp_path, results, "humor.mae<1", model="finale")
    with pytest.raises(UserError, match=r"no scorer 'judge': valid: measure, annotator"):
        rows(tmp_path, results, "humor.mae<1", scorer="judge")


def test_nothing_demanded_and_nothing_there(tmp_path: Path, results: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="nothing to check"):
        rows(tmp_path, results)
    with pytest.raises(UserError, match="must be 0 or more"):
        rows(tmp_path, results, max_leak=-0.1)
    with pytest.raises(UserError, match=r"no results\.json; run `steerlm evaluate`"):
        check(tmp_path / "elsewhere", [], max_leak=0.1)
    write_json(tmp_path / "plain" / "results.json", results)
    assert check(tmp_path / "plain", [parse_requirement("humor.mae<1")])[0].holds
    (tmp_path / "plain" / "results.json").write_text("{")
    with pytest.raises(UserError, match=r"results\.json: malformed JSON"):
        check(tmp_path / "plain", [], max_leak=0.1)


def test_the_results_of_another_command_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "results.json", {"systems": ["a", "b"]})
    with pytest.raises(UserError, match=r"results\.json holds no evaluation"):
        check(tmp_path, [], max_leak=1)


def test_a_figure_that_no_attribute_has_is_not_offered(tmp_path: Path, results: dict[str, Any]) -> None:
    results["attributes"] = AttributeSchema((Attribute("quality", best="max"),)).to_dict()
    with pytest.raises(UserError, match=r"no attribute has a figure 'accuracy': valid: spearman, .*leak$"):
        rows(tmp_path, results, "*.accuracy>=0.9")
