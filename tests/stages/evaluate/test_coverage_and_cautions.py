"""What training supports, what a categorical dial obtains, and what the report warns of."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from steerlm.attributes import Value
from steerlm.config import ClassifierConfig, EvaluateConfig
from steerlm.results.codec import from_json
from steerlm.results.evaluation import Evaluation
from steerlm.results.findings import findings_of_evaluation
from steerlm.stages.evaluate.panel import make_panel
from steerlm.stages.evaluate.sweeping import make_plan, pairs_seen, read_prompts, supported
from tests.scorers.test_classifiers import save
from tests.stages.evaluate.test_evaluate import SCHEMA, World, deaf, dials, exact, leaky


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def statistics(*combinations: Mapping[str, Value]) -> dict[str, Any]:
    rows = [{"attributes": dict(combination), "count": 2} for combination in combinations]
    attributes = {}
    for attribute in SCHEMA:
        levels = [str(c[attribute.name]) for c in combinations if attribute.name in c]
        attributes[attribute.name] = {"histogram": {str(x): levels.count(str(x)) for x in attribute.levels}}
    return {"combinations": rows, "num_combinations": len(rows), "attributes": attributes}


GOOD = [{"quality": 4, "humor": h, "toxicity": 0, "lang": lang} for h in range(5) for lang in ("en", "de")]


def test_error_is_told_apart_by_whether_training_had_the_setting(world: World) -> None:
    def knows_good(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
        return {**attributes, "humor": attributes["humor"] - (attributes["quality"] < 4)}

    world.config = EvaluateConfig(measure="playground", settings=("defaults", "extremes"))
    model = world.model("sft", knows_good, label_statistics=statistics(*GOOD))
    dial = dials(world.evaluate(sft=model), "sft")["humor"]
    assert dial["support"]["seen"]["mae"]["value"] == 0
    assert 0 < dial["support"]["unseen"]["mae"]["value"] < 1
    assert dial["support"]["seen"]["n"] + dial["support"]["unseen"]["n"] == dial["n"] == 8 * 2 * 5
    prompts = read_prompts(world.prompts, SCHEMA, None, 0)
    plan = make_plan(prompts, SCHEMA, ("defaults",), (), 0)
    known = supported(plan, [(combination, 1) for combination in GOOD])
    assert sum(known) == 8 * 6  # five levels of humor, and the other language


def test_pairs_of_levels_are_counted() -> None:
    rows = {(row.first, row.second): row for row in pairs_seen(SCHEMA, [(c, 3) for c in GOOD])}
    assert len(rows) == 6
    humor = rows["quality", "humor"]
    assert (humor.seen, humor.possible) == (5, 25)
    assert humor.counts == [[0] * 5] * 4 + [[6] * 5]
    assert rows["toxicity", "lang"].counts == [[15, 15], [0, 0], [0, 0], [0, 0], [0, 0]]
    assert pairs_seen(SCHEMA, [({"humor": 1}, 1)])[0].seen == 0  # labels may be partial
    assert pairs_seen(SCHEMA, []) == []


def test_off_target_responses_show_a_bend_that_the_slope_hides(world: World) -> None:
    def bent(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
        return {**attributes, "toxicity": 2 - abs(attributes["humor"] - 2)}

    report = world.evaluate(sft=world.model("sft", bent))["models"]["sft"]["scorers"]["measure"]
    assert report["leakage"]["humor"]["toxicity"]["value"] == pytest.approx(0, abs=1e-12)
    assert [row["value"] for row in report["responses"]["humor"]["toxicity"]] == [0, 1, 2, 1, 0]
    assert report["responses"]["humor"]["humor"] == report["dials"]["humor"]["curve"]


def test_confusion_of_a_categorical_dial(world: World) -> None:
    def english(attributes: Mapping[str, Any], prompt: str) -> Mapping[str, float]:
        """German is spoken to every second prompt only."""
        number = re.search(r"Question (\d)", prompt)
        wanted = attributes["lang"] if number is not None and int(number[1]) % 2 else "en"
        return {**attributes, "lang": wanted}

    world.config = EvaluateConfig(measure="none", settings=("defaults",))
    results = world.evaluate(sft=world.model("sft", english), annotator=world.folder / "annotator")
    lang = results["models"]["sft"]["scorers"]["annotator"]["categorical"]["lang"]
    shares = {asked: {got: e["value"] for got, e in row.items()} for asked, row in lang["confusion"].items()}
    assert shares == {"en": {"en": 1, "de": 0}, "de": {"en": 0.5, "de": 0.5}}
    assert lang["accuracy"]["value"] == 0.75
    honest = stats.binomtest(8, 8).proportion_ci(0.95)
    assert lang["confusion"]["en"]["en"]["low"] == pytest.approx(honest.low)


def test_an_attribute_that_never_varies_is_said_to(world: World) -> None:
    only_toxic_free = statistics(*GOOD)
    results = world.evaluate(sft=world.model("sft", deaf, label_statistics=only_toxic_free))
    assert dials(results, "sft")["humor"]["constant"] == 2
    said = results["cautions"]
    stuck = findings_of_evaluation(from_json(Evaluation, results))
    assert "steerlm tune-guidance may turn it up" in stuck[1].cure
    again = findings_of_evaluation(from_json(Evaluation, results), tuned=True)
    assert not any("tune-guidance" in finding.cure for finding in again)
    assert [finding.dials for finding in stuck if finding.kind == "dial"] == [("quality",), ("humor",), ("toxicity",)]
    assert "alike, whatever is asked for (always 2)" in stuck[1].text
    assert "All training labels of sft have toxicity 0: its dial cannot have learnt a thing." in said
    assert not any("of sft have humor" in line for line in said)
    fine = world.evaluate("fine", sft=world.model("sft", exact))
    assert dials(fine, "sft")["humor"]["constant"] is None
    assert fine["cautions"] == ["Nothing measures lang: name a measure, an attribute model, a classifier or a judge."]


def test_few_prompts_and_the_annotator_alone_are_warned_of(world: World) -> None:
    world.write_prompts(3)
    world.config = EvaluateConfig(measure="none")
    said = world.evaluate(sft=world.model("sft", exact), annotator=world.folder / "annotator")["cautions"]
    assert said[0] == "3 independent prompts are too few for intervals; at least 5 are needed."
    assert said[1].startswith("Quality, humor, toxicity and lang: measured only by what labelled the training data")


def test_whoever_labelled_the_training_data_is_never_independent(world: World) -> None:
    """Also where nobody names the annotator: the checkpoint says who it was, of any model that is evaluated."""
    world.infos["other"] = world.infos["annotator"]
    world.config = EvaluateConfig(measure="none", attribute_models=(world.folder / "other",), settings=("defaults",))
    clean = world.model("clean", exact, provenance={"labelled_by": ["judge:another"]})
    results = world.evaluate(clean=clean)
    assert [row["independent"] for row in results["scorers"]] == [True]
    assert results["cautions"] == []  # it is known who labelled, so nothing is taken on trust
    [who] = [scorer.scorer.who for scorer in make_panel(world.config, SCHEMA, None, [])]
    learned = world.model("learned", exact, provenance={"labelled_by": ["judge:another", who]})
    results = world.evaluate("again", clean=clean, learned=learned)
    assert [row["independent"] for row in results["scorers"]] == [False]
    assert any("measured only by what labelled the training data" in line for line in results["cautions"])


def test_an_unknown_annotator_is_warned_of(world: World) -> None:
    world.infos["other"] = world.infos["annotator"]
    world.config = EvaluateConfig(measure="none", attribute_models=(world.folder / "other",), settings=("defaults",))
    said = world.evaluate(sft=world.model("sft", exact))["cautions"]
    assert [line for line in said if "that attribute-model-1 had no part in it is taken on trust" in line]
    said = world.evaluate("known", sft=world.model("sft", exact), annotator=world.folder / "annotator")["cautions"]
    assert said == []


def test_a_classifier_is_an_independent_scorer(world: World, tmp_path: Path) -> None:
    folder = save(tmp_path / "judge" / "toxic", ["fine", "toxic"])
    world.config = EvaluateConfig(
        measure="none", classifiers=(ClassifierConfig(model=str(folder), labels={"toxic": "toxicity"}),)
    )
    results = world.evaluate(sft=world.model("sft", leaky), annotator=world.folder / "annotator")
    assert [(s["id"], s["independent"]) for s in results["scorers"]] == [("classifier-1", True), ("annotator", False)]
    assert results["scorers"][0]["label"] == "classifier toxic"
    assert results["headline_scorer"]["toxicity"] == "classifier-1"
    stored = (world.folder / "out/sft/scores-classifier-1.jsonl").read_text().splitlines()
    values = [json.loads(line)["scores"][0]["toxicity"] for line in stored]
    assert all(0 <= value <= 4 for value in values)
    dial = dials(results, "sft", "classifier-1")["toxicity"]
    assert dial["curve"][0]["value"] == pytest.approx(
        np.mean([value for value, row in zip(values, samples(world), strict=True) if row["toxicity"] == 0]), abs=0.5
    )


def samples(world: World) -> list[dict[str, Any]]:
    lines = (world.folder / "out/sft/samples.jsonl").read_text().splitlines()
    return [json.loads(line)["attributes"] for line in lines]
