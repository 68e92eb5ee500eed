"""The parts of the report beside the sweeps: the paper's experiments, the ablation ladder, warnings, maps of pairs."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import pytest

from steerlm.__main__ import main
from steerlm.config import EvaluateConfig
from steerlm.errors import UserError
from steerlm.reporting import charts
from steerlm.reporting.formatting import estimate_text, number
from steerlm.reporting.report import write_report
from steerlm.reporting.suites import suite_table
from steerlm.results.codec import write_result
from steerlm.results.evaluation import ScorerLabel, evaluation_file
from steerlm.results.studies import (
    AblationResult,
    DialFigures,
    DialsEstimate,
    Gain,
    MachineFacts,
    ModelFigures,
    OverSeeds,
    RungCourse,
    RungResult,
    RungTraining,
    SeededEstimate,
    StudyConditions,
    StudyDraws,
    StudySubject,
    TextFigures,
)
from steerlm.stages.evaluate.stage import SuiteRun, evaluate_suite
from steerlm.statistics.estimates import Estimate
from steerlm.storage.files import write_json
from tests.reporting.test_report import Structure, markdown, page
from tests.stages.evaluate.test_evaluate import SCHEMA, World, deaf, exact


def seeded(value: float, half: float) -> SeededEstimate:
    seeds = {str(i): Estimate(value + shift, math.nan, math.nan, 20, 8) for i, shift in enumerate((-0.03, 0.03))}
    spread = OverSeeds(2, value, 0.04, value - 0.4, value + 0.4)
    return SeededEstimate(Estimate(value, value - half, value + half, 40, 8), seeds, spread)


def rung(quality: float, gain: float | None, paper: float, steerable: bool = True) -> RungResult:
    training = [
        RungTraining(
            seed,
            RungCourse(
                records=records, tokens=1, trained_tokens=1, spent_tokens=1, sampled_tokens=0, epochs=1.0, steps=9,
                best_step=9, validation_loss=1.0, starts_from="base model", seconds=1.0, peak_memory_mib=1,
            ),
        )
        for seed, records in ((0, 1210), (1, 1218))
    ]  # fmt: skip
    text = TextFigures(40, 0, seeded(5.0, 1.0), Estimate(0.0, 0.0, 0.1, 40, 8), 0.5, 0.5, 0.5, 0.5)
    steering = DialFigures(error=DialsEstimate(seeded(1.375, 0.125), {}))
    return RungResult(
        adds=f"adds <b> {paper}",
        data="all",
        labels="human" if steerable else None,
        paper=paper,
        steerable=steerable,
        training=training,
        seconds=[1.0, 1.0],
        figures=ModelFigures(seeded(quality, 0.25), {}, steering, text),
        gain=None if gain is None else Gain(seeded(gain, 0.5), seeded(0.0, 0.1)),
        versus={},
    )


@pytest.fixture
def ablation(tmp_path: Path) -> Path:
    scorers = [
        ScorerLabel("measure", "exact measures", True, ["quality"]),
        ScorerLabel("annotator", "own model", False, ["quality"]),
    ]
    results = AblationResult(
        subject=StudySubject(
            recipe="demo", seeds=[0, 1], attributes=SCHEMA, quality_attributes=["quality"], quality_scale=[4, 0],
            best_setting={"quality": 4}, prompts=64, swept=16,
        ),
        settings=StudyDraws(None, 1, 0.7, 50, 64),
        conditions=StudyConditions(
            training={}, scorers=scorers, headline={"quality": "measure", "humor": "annotator"},
            environment=MachineFacts(python="3.11", platform="Linux", cpus=2, packages={}),
        ),
        notes=["a note"],
        rungs={"plain": rung(1.125, None, 79.7, steerable=False), "human": rung(2.0625, 0.9375, 96.2)},
    )  # fmt: skip
    path = tmp_path / "ladder" / "ablation.json"
    write_result(path, results)
    return path


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world", monkeypatch)
    config = EvaluateConfig(measure="playground", suite_prompts=6)
    red_team = tmp_path / "red.jsonl"
    row = {"chosen": "\n\nHuman: Bad {i}?\n\nAssistant: No.", "rejected": "\n\nHuman: Bad {i}?\n\nAssistant: Go away."}
    lines = [{k: text.replace("{i}", f"<b>{i}") for k, text in row.items()} for i in range(6)]
    red_team.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_dir = tmp_path / "run"
    models = {"sft": world.model("sft", exact)}
    annotator = world.folder / "annotator"
    for name, prompts in (("toxicity", str(red_team)), ("humor", None)):
        out = run_dir / "evaluate" / "suites" / name
        evaluate_suite(SuiteRun(config, name, models, prompts, SCHEMA, 0, annotator), out)  # type: ignore[arg-type]
    return run_dir


def test_suites_stand_beside_the_paper_s_row(suite: Path) -> None:
    write_report(suite)
    html, text = page(suite), markdown(suite)
    Structure(html)
    for shown in (html, text):
        for score in ("0.063", "0.086", "0.096", "0.104", "0.041"):
            assert score in shown, score
        assert "toxicity 1 (paper: 3)" in shown
        assert "compare the direction, not the height" in shown
        assert "two anecdotes" in shown
        assert "sft, exact measures (playground)" in shown
        assert "(not independent)" in shown  # the annotator's column
        assert "<b>0" not in shown
    results = evaluation_file(suite / "evaluate" / "suites" / "toxicity" / "results.json")
    header, *rows = suite_table(results)
    assert header[0] == "asked for"
    assert header[-1] == "paper"
    assert [row[1] for row in rows[:4]] == [f"{x} [{x}, {x}]" for x in ("0.000", "0.250", "0.750", "1.000")]
    assert [row[-1] for row in rows] == ["0.063", "0.086", "0.096", "0.104", "0.041"]
    drawings = re.findall(r'<svg class="chart"', html)
    assert len(drawings) == 3  # toxicity here and in the paper, humor here


def test_the_folder_of_a_suite_is_reported_alone(suite: Path) -> None:
    own = suite / "evaluate" / "suites" / "humor"
    write_report(own)
    assert re.findall(r'<section id="([\w-]+)"', page(own)) == ["suites", "reproduce"]
    Structure(page(own))


def test_ladder_shows_every_rung_with_the_paper_s_score(ablation: Path) -> None:
    write_report(ablation.parent)
    html, text = page(ablation.parent), markdown(ablation.parent)
    Structure(html)
    for shown in (html, text):
        for value in (1.125, 2.0625, 0.9375, 1.375):
            assert number(value) in shown, value
        for part in ("79.7", "96.2", "1,210 to 1,218", "hears no request", "own model", "not independent", "plain"):
            assert part in shown, part
        assert "<b>" not in shown
        assert "2.03 / 2.09" in shown
        assert "adds &lt;b&gt; 79.7" in shown


def test_an_ablation_can_be_named(
    suite: Path, ablation: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(suite), "--ablation", str(ablation)]) == 0
    assert 'id="ablation"' in page(suite)
    assert main(["report", str(suite), "--ablation", str(ablation.parent)]) == 0
    assert 'id="ablation"' in page(suite)
    assert main(["report", str(suite)]) == 0
    assert 'id="ablation"' not in page(suite)
    with pytest.raises(UserError, match="no such ablation"):
        write_report(suite, tmp_path / "nowhere.json")
    with pytest.raises(UserError, match="has no rungs"):
        write_report(suite, suite / "evaluate/suites/humor/results.json")


def test_warnings_stand_at_the_top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, monkeypatch)
    world.config = EvaluateConfig(measure="none", settings=("defaults",))
    results = world.evaluate(".", tmp_path / "annotator", sft=world.model("sft", deaf))
    write_report(tmp_path)
    assert len(results["cautions"]) == 1  # nobody independent
    assert "the dial humor does not move: its answers are alike" in markdown(tmp_path)
    for line in results["cautions"]:
        assert f"<p><strong>Warning:</strong> {line}</p>" in page(tmp_path)
        assert f"> **Warning:** {line}" in markdown(tmp_path).replace("\\", "")
    assert page(tmp_path).index('class="warning"') < page(tmp_path).index("<nav")


def test_results_of_an_older_version_are_still_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path, monkeypatch)
    results = world.evaluate(".", sft=world.model("sft", exact))
    del results["cautions"]
    model = results["models"]["sft"]
    del model["coverage"]["pairs"]
    for scorer in model["scorers"].values():
        del scorer["responses"]
        del scorer["unscored"]
        for dial in scorer["dials"].values():
            del dial["support"]
            del dial["constant"]
    write_json(tmp_path / "results.json", results)
    write_report(tmp_path)
    assert 'id="fidelity"' in page(tmp_path)


def test_words_of_a_label_in_the_text_are_reported_where_they_were_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path, monkeypatch)
    world.evaluate(".", sft=world.model("sft", exact))
    results = evaluation_file(tmp_path / "results.json")
    untried = dataclasses.replace(results.models["sft"], label_words=None, unseen_label_words=None)
    write_result(tmp_path / "results.json", dataclasses.replace(results, models={"sft": untried}))
    write_report(tmp_path)
    assert "Words of a label" not in markdown(tmp_path)
    tried = dataclasses.replace(results.models["sft"], label_words={"humor": Estimate(0.07, 0.03, 0.12, 40, 8)})
    write_result(tmp_path / "results.json", dataclasses.replace(results, models={"sft": tried}))
    write_report(tmp_path)
    assert "| humor | sft | 0.07 [0.03, 0.12] |" in markdown(tmp_path)
    assert '<th scope="row">humor</th>\n<td>sft</td>\n<td>0.07<span class="ci">0.03 to 0.12</span></td>' in page(
        tmp_path
    )


def test_pairs_that_training_lacks_are_outlined() -> None:
    chart = str(charts.pair_map([[4, 0], [0, 1]], "a & b"))
    assert chart.count("<rect") == 4
    assert chart.count('fill="none"') == 2
    assert "a &amp; b" in chart
    # the lowest level of the first attribute is the bottom row
    assert (
        'x="1" y="11" width="8" height="8" rx="1.5" stroke-width="0.6" fill="var(--series-1)" fill-opacity="1.00"'
        in chart
    )


def test_formats() -> None:
    assert estimate_text(Estimate(0.5, 0.25, 0.75, 40, 8)) == "0.50 [0.25, 0.75]"
    few = Estimate(0.5, math.nan, math.nan, 40, 3, "no interval: 3 clusters")
    assert estimate_text(few) == "0.50 (no interval: 3 clusters)"
    assert estimate_text(None) == "–"


def test_check_ends_with_1_and_the_failing_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path, monkeypatch)
    world.evaluate(".", sft=world.model("sft", exact))
    run = ["check", str(tmp_path), "--require", "humor.spearman>=0.9"]
    assert main([*run, "--max-leak", "0.1"]) == 0
    assert "7 of 7 demands hold (compared: estimates)" in capsys.readouterr().out
    assert main([*run, "--require", "humor.mae>0.5"]) == 1
    said = capsys.readouterr().out
    assert "1 of 2 demands do not hold" in said
    assert re.search(r"humor\.mae .*>0\.5.*0\.000", said)
    assert "humor.spearman" not in said
    assert main(["check", str(tmp_path), "--require", "humor.spearmen>=0.9"]) == 2
    assert "did you mean 'spearman'" in capsys.readouterr().err
    assert main(["check", str(tmp_path)]) == 2


@pytest.mark.slow
def test_nothing_scrolls_sideways_on_a_phone_or_on_paper(suite: Path, ablation: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    browser_path = shutil.which("chromium")
    if browser_path is None:
        pytest.skip("no chromium")
    write_report(suite, ablation)
    width = "[document.documentElement.scrollWidth, innerWidth]"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for view, media in ((320, "screen"), (390, "screen"), (1280, "screen"), (794, "print")):
            opened = browser.new_page(viewport={"width": view, "height": 900})
            opened.emulate_media(media=media)
            opened.goto(f"file://{suite}/report.html")
            opened.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
            found, room = opened.evaluate(width)
            assert found <= room, (view, media)
        browser.close()
