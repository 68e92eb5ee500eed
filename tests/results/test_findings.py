"""Each sign that a run learned nothing: where it counts, where it does not, and what is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from steerlm.results.codec import from_json
from steerlm.results.evaluation import Evaluation
from steerlm.results.findings import (
    Finding,
    collapsed,
    few_steps,
    findings_of_evaluation,
    findings_of_stage,
    too_long,
    verdict,
)


def only(found: list[Finding]) -> Finding:
    [finding] = found
    return finding


def model_summary(**rows: dict[str, Any]) -> dict[str, Any]:
    return {"train": {"labels": dict.fromkeys(rows, 381)}, "attributes": rows}


def ordinal(n: int, mae: float, of_mean: float) -> dict[str, Any]:
    return {"n": n, "mae": {"value": mae}, "mean_baseline_mae": {"value": of_mean}}


def categorical(n: int, accuracy: float, commonest: float) -> dict[str, Any]:
    return {"n": n, "accuracy": {"value": accuracy}, "commonest_baseline_accuracy": {"value": commonest}}


def training(**changes: Any) -> dict[str, Any]:
    """What a good training says of itself."""
    summary: dict[str, Any] = {
        "steps": 400,
        "early_stopped": False,
        "max_length": 512,
        "train": {"records": 900, "too_long": 9, "no_response": 0},
        "train_loss_start": 2.0,
        "train_loss_end": 1.5,
        "header_gain": {"value": 0.05, "low": 0.01, "high": 0.09, "n": 48, "clusters": 24},
    }
    return {**summary, **changes}


def test_a_good_run_shows_nothing() -> None:
    assert findings_of_stage("train_sft", training()) == []
    good = model_summary(quality=ordinal(90, 0.4, 0.9), lang=categorical(90, 0.9, 0.6), rare=ordinal(5, 1.0, 0.9))
    assert findings_of_stage("train_attribute_model", good) == []
    assert findings_of_stage("annotate", {"histograms": {"quality": {"0": 40, "1": 60}, "empty": {"0": 0}}}) == []
    assert findings_of_stage("prepare", {}) == []


def test_an_attribute_model_no_better_than_the_mean() -> None:
    rows = model_summary(quality=ordinal(90, 0.4, 0.9), humor=ordinal(90, 0.99, 0.9), lang=categorical(90, 0.5, 0.6))
    humor, lang = findings_of_stage("train_attribute_model", rows)
    assert humor.dials == ("humor",)
    assert humor.blocks
    assert "no better than the mean on humor (381 rated turns; error 1.10 of that of the mean)" in str(humor)
    assert "ratings" in humor.cure
    assert "no better than the commonest category on lang (381 rated turns; error 1.25" in lang.text


def test_labels_on_one_level() -> None:
    finding = only(findings_of_stage("annotate", {"histograms": {"humor": {"0": 996, "1": 4}}}))
    assert "humor are on one level (996 of 1000 turns at 0)" in finding.text
    assert finding.blocks
    five = {"histograms": {"humor": {"0": 600, "1": 395, "2": 5, "3": 0, "4": 0}}}
    narrow = only(findings_of_stage("annotate", five))
    assert "humor stand on 2 of 5 levels only" in narrow.text
    assert not narrow.blocks
    assert list(collapsed("prepare", {"humor": {"0": 98, "1": 2}})) == []


def test_few_steps() -> None:
    finding = only(findings_of_stage("train_sft", training(steps=7)))
    assert "7 optimizer steps were made" in finding.text
    assert "tokens_per_batch" in finding.cure
    assert findings_of_stage("train_sft", training(steps=7, early_stopped=True)) == []
    assert "about 99 optimizer steps are planned" in only(list(few_steps("train_sft", 99, planned=True))).text
    assert list(few_steps("train_sft", 100)) == []


def test_records_that_are_too_long() -> None:
    dropped = {"records": 253, "too_long": 128, "no_response": 0}
    finding = only(findings_of_stage("train_sft", training(train=dropped)))
    assert "128 of 381 records (33.6 %) are longer than 512 tokens" in finding.text
    assert "max_length" in finding.cure
    assert "(900 would do" in only(list(too_long("train_sft", 9, 10, 512, 900))).cure


@pytest.mark.parametrize(("start", "end", "said"), [(2.0, 2.0, True), (2.0, 2.1, True), (None, None, False)])
def test_a_loss_that_does_not_fall(start: float | None, end: float | None, said: bool) -> None:
    found = findings_of_stage("train_sft", training(train_loss_start=start, train_loss_end=end))
    assert [finding.kind for finding in found] == ["loss"] * said
    assert all("learning_rate" in finding.cure for finding in found)


@pytest.mark.parametrize(("low", "said"), [(-0.01, True), (0.0, True), (None, True), (0.001, False)])
def test_a_header_without_effect(low: float | None, said: bool) -> None:
    gain = {"value": 0.01, "low": low, "high": 0.05, "n": 48, "clusters": 24}
    assert [finding.kind for finding in findings_of_stage("train_sft", training(header_gain=gain))] == ["header"] * said
    rounds = {"rounds": [{"round": 1, "training": training(header_gain=gain)}, {"round": 2}]}
    assert [finding.stage for finding in findings_of_stage("bootstrap", rounds)] == ["bootstrap"] * said


def test_a_plain_model_has_no_header_to_try() -> None:
    summary = training()
    del summary["header_gain"]
    assert findings_of_stage("train_sft", summary) == []


def test_a_categorical_dial_of_which_no_answer_has_a_value() -> None:
    value = orjson.loads((Path(__file__).parent / "golden" / "evaluate_categories.json").read_bytes())
    for model in value["models"].values():
        report = model["scorers"]["annotator"]["categorical"]["lang"]
        report["n"] = 0
        report["accuracy"] |= {"value": None, "low": None, "high": None, "n": 0, "clusters": 0}
    [lang] = [found for found in findings_of_evaluation(from_json(Evaluation, value)) if found.dials == ("lang",)]
    assert lang.text == "the dial lang does not move: no answer says which category it is in"


def test_dials_that_nothing_measured_are_not_said_to_stand_still() -> None:
    value = orjson.loads((Path(__file__).parent / "golden" / "evaluate_categories.json").read_bytes())
    names = [attribute["name"] for attribute in value["attributes"]]
    measured = value["headline_scorer"]
    results = from_json(Evaluation, {**value, "headline_scorer": {}})
    moves, said = verdict(results, [])
    assert not moves
    assert said.startswith(
        f"whether any dial moves is not known: nothing measured {', '.join(names)}. A section train_"
    )
    one = from_json(Evaluation, {**value, "headline_scorer": {"lang": measured["lang"]}})
    moves, said = verdict(one, [])
    assert not moves
    assert f"1 of {len(names)} dials move (Spearman: lang " in said
    assert "; nothing measured " in said
