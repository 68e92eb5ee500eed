"""The benchmark as a whole, with measures that can be read off the text: rules, stored answers, an endpoint, dials."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlm.__main__ import main
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.errors import UserError
from steerlm.reporting.steerbench import steerbench_sections
from steerlm.results.steerbench import SteerbenchResult, read_steerbench
from steerlm.scorers.goal_measures import GOAL_MEASURES, GOALS, goal_schema
from steerlm.stages.pairs.edits import edits_of, sentences
from steerlm.studies.compare.answering import AnswerSampling
from steerlm.studies.compare.systems import System, parse_system
from steerlm.studies.steerbench.probe import PUBLISHED_BOUNDS, Probe
from steerlm.studies.steerbench.study import ProbeSize, TextMeasures, levels_of, probe_of_texts, steerbench
from tests.studies.judge.fake_endpoint import FakeEndpoint

GENERATION = AnswerSampling(max_new_tokens=64, temperature=0)


class Counted:
    """Measures that need nothing: letters per sentence, distinct words, words, long words."""

    real_words = None
    versions: dict[str, str] = {"counted": "1"}  # noqa: RUF012

    def __init__(self, *_: object) -> None:
        self.texts = 0

    def __call__(self, texts: Sequence[str]) -> Any:
        self.texts += len(texts)
        rows = []
        for text in texts:
            words = re.findall(r"\w+", text)
            share = len({w.lower() for w in words}) / max(1, len(words))
            long = sum(len(w) > 5 for w in words) / max(1, len(words))
            rows.append([len(words) / max(1, len(sentences(text))), 40 + 90 * share, len(words), 40 + 60 * long])
        return np.array(rows, dtype=np.float64).reshape(-1, 4)


def texts_file(folder: Path, count: int = 12) -> Path:
    random = np.random.default_rng(0)
    vocabulary = ["a", "dog", "house", "river", "unusual", "mountain", "remarkable", "sits", "beside", "yellow", "it"]
    path = folder / "texts.jsonl"
    rows = []
    for i in range(count):
        said = [
            " ".join(random.choice(vocabulary[i % 5 :], random.integers(4, 12))) for _ in range(random.integers(8, 60))
        ]
        rows.append({"question_id": i, "text": ". ".join(said) + "."})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def probe_of(folder: Path, measures: TextMeasures) -> Probe:
    size = ProbeSize(texts=6, goals=5, active=3)
    return probe_of_texts([texts_file(folder)], measures, folder / "out", size=size, fitted=False, seed=1)


def run(folder: Path, systems: Sequence[System] = (), modes: Any = ("words", "dials")) -> SteerbenchResult:
    measures = TextMeasures(Counted())  # type: ignore[arg-type]
    probe = probe_of(folder, measures)
    return steerbench(systems, probe, measures, folder / "out", modes=modes, generation=GENERATION, seed=1)


def test_rules_bound_the_figures(tmp_path: Path) -> None:
    result = run(tmp_path)
    rules = {policy.name: policy for policy in result.of_mode("reference")}
    assert list(rules) == ["copy", "truncate", "repeat", "oracle"]
    errors = {name: policy.figures.binned.steering_error.mean.value for name, policy in rules.items()}
    assert errors["oracle"] < min(errors["copy"], errors["truncate"], errors["repeat"])
    assert rules["copy"].figures.unbinned.miscalibration.mean.value == pytest.approx(1, abs=1e-6)
    assert rules["copy"].overlap.value == 1
    assert rules["copy"].leakage["text_length"]["text_length"] == pytest.approx(0)
    assert rules["truncate"].goals["text_length"].strayed > 0
    assert rules["copy"].figures.binned.rows == 30
    assert rules["copy"].figures.binned.steering_error.mean.clusters == 6
    assert result.probe.rows == 30
    assert "Other source texts" in result.cautions[0]
    assert read_steerbench(tmp_path / "out") == result


def test_an_endpoint_is_asked_in_words_and_resumed(tmp_path: Path) -> None:
    with FakeEndpoint(lambda body: "Here is the rewritten text:\n" + source(body)) as endpoint:
        system = parse_system(f"copier={endpoint.base_url}#m")
        first = run(tmp_path, [system], ("words",))
        asked = endpoint.num_requests
        assert run(tmp_path, [system], ("words",)) == first
        assert endpoint.num_requests == asked
        body = endpoint.bodies[0]
    assert body["temperature"] == 0
    assert body["messages"][0]["content"].startswith("Please rewrite the following, but make it ")
    [copier] = first.of_mode("words")
    [copy] = [policy for policy in first.policies if policy.name == "copy"]
    assert copier.figures == copy.figures, "the announcement is cut off"
    assert first.of_mode("dials") == []
    assert "Published, for comparison" in steerbench_sections(first)
    fitted = replace(first, probe=replace(first.probe, bounds_from="fitted"))
    assert "Published" not in steerbench_sections(fitted), "on other bounds nothing compares with them"


def source(body: Any) -> str:
    return str(body["messages"][0]["content"]).partition("\n\n")[2]


def test_dials_carry_the_whole_target(tmp_path: Path) -> None:
    schema = AttributeSchema((*(Attribute(goal, maximum=9) for goal in GOALS), Attribute("humor")))
    assert levels_of(schema, np.array([0.0, 0.5, 0.96, 1.0]), PUBLISHED_BOUNDS) == {
        "reading_difficulty": 0,
        "textual_diversity": schema["textual_diversity"].round(4.5),
        "text_length": 9,
        "formality": 9,
        "humor": 0,
    }
    with FakeEndpoint(source) as endpoint:
        system = System("served", "endpoint", endpoint.base_url, "m", schema=schema)
        result = run(tmp_path, [system], ("dials",))
        bodies = list(endpoint.bodies)
    asked = [body["chat_template_kwargs"]["attributes"] for body in bodies]
    assert len({tuple(setting.items()) for setting in asked}) > 20
    assert all(body["messages"][0]["content"].startswith("Rewrite the following text.\n\n") for body in bodies)
    assert [policy.name for policy in result.of_mode("dials")] == ["served"]
    assert result.of_mode("words") == []
    with pytest.raises(UserError, match="system 'plain' has no dials reading_difficulty, "):
        run(tmp_path, [System("plain", "endpoint", "http://localhost:1/v1", "m")], ("dials",))


def test_a_dial_is_asked_for_the_level_that_its_own_cuts_give_the_target() -> None:
    point = np.array([0.5, 0.5, 0.1, 0.5])
    raw = PUBLISHED_BOUNDS.raw(point)
    assert PUBLISHED_BOUNDS.scale(raw) == pytest.approx(point)
    long = (20.0, 100.0, 200.0, 1000.0)
    own = AttributeSchema(
        tuple(
            Attribute(goal, measure=measure, cuts=long if goal == "text_length" else (1e4, 1e5, 1e6, 1e7))
            for goal, measure in zip(GOALS, GOAL_MEASURES, strict=True)
        )
    )
    assert raw[2] == pytest.approx(221.1)
    assert levels_of(own, point, PUBLISHED_BOUNDS)["text_length"] == 3
    assert levels_of(own, point, PUBLISHED_BOUNDS)["formality"] == 0
    spaced = goal_schema()
    for z in np.linspace(0, 1, 23):
        even = {goal: spaced[goal].round(9 * z) for goal in GOALS}
        assert levels_of(spaced, np.full(4, z), PUBLISHED_BOUNDS) == even, "the benchmark's own levels are even"


def test_a_system_without_answers_has_a_word_and_no_row(tmp_path: Path) -> None:
    stored = tmp_path / "none.jsonl"
    stored.write_text('{"question_id": "other", "text": "An answer."}\n', encoding="utf-8")
    result = run(tmp_path, [parse_system(f"mute={stored}")], ("words",))
    assert result.of_mode("words") == []
    assert result.cautions[0] == "mute has no row (words): it answered none of the requests (no answer in the file)."


def test_texts_are_measured_once(tmp_path: Path) -> None:
    counted = Counted()
    measures = TextMeasures(counted)  # type: ignore[arg-type]
    for path in ("a.jsonl", "b.jsonl"):
        measures(["One text.", "Another."], tmp_path / path, "")
    assert counted.texts == 2
    again = Counted()
    TextMeasures(again)(["One text.", "Another."], tmp_path / "a.jsonl", "")  # type: ignore[arg-type]
    assert again.texts == 0


def test_edits_change_what_they_say() -> None:
    text = "I do not know it, but he is here. We cannot stay; it is late. They left early. Nobody saw them go."
    found = edits_of(text)
    assert found["contract"].startswith("I don't know it, but he is here. We can't stay; it's late.")
    assert len(sentences(found["split sentences"])) == 6
    assert len(sentences(found["join sentences"])) == 2
    assert found["keep three quarters"] == text.removesuffix(" Nobody saw them go.")
    assert found["twice"].count("Nobody") == 2
    assert found["chatty"].startswith("Well, i do not")
    assert len(set(found.values())) == len(found)
    assert text not in found.values()


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("steerlm.scorers.goal_measures.GoalMeasures", Counted)
    out = tmp_path / "out"
    common = ["evaluate", "--suite", "steerbench", "--out", str(out), "--num-texts", "6", "--num-goals", "4"]
    assert main([*common, "--texts", str(texts_file(tmp_path))]) == 0
    printed = capsys.readouterr().out
    assert "steerbench, rules" in printed
    assert "oracle" in printed
    page = (out / "report.md").read_text(encoding="utf-8")
    assert "### Rules" in page
    assert "24 requests on 6 source texts (12 texts of texts.jsonl)" in page
    assert "| not asked, but moved |" in page
    assert main(common) == 2
    assert "give --probe (the published CSV), or --texts" in capsys.readouterr().err
    few = tmp_path / "few.jsonl"
    few.write_text('{"question_id": 1, "text": "Too short."}\n', encoding="utf-8")
    assert main([*common, "--texts", str(few)]) == 2
    assert "none of the 1 texts" in capsys.readouterr().err
