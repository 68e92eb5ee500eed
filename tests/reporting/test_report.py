"""The report: complete, self-contained, escaped, the same bytes every time, and whole with any part missing."""

from __future__ import annotations

import html
import io
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from steerlm.__main__ import main
from steerlm.attributes import Attribute
from steerlm.checkpoint.models import CheckpointInfo
from steerlm.config import EvaluateConfig
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.reporting import charts
from steerlm.reporting.formatting import (
    fenced,
    markdown_code,
    markdown_lines,
    markdown_quote,
    markdown_text,
    number,
    percent,
    shade,
    share_text,
)
from steerlm.reporting.report import steering_table, write_report
from steerlm.results.codec import from_json
from steerlm.results.dials import CurvePoint
from steerlm.results.evaluation import Evaluation
from steerlm.stages.evaluate import stage
from steerlm.statistics.estimates import Estimate
from steerlm.statistics.metrics import fleiss_kappa, human_ceiling, regression_report
from steerlm.storage.files import write_json
from tests.stages.evaluate.test_evaluate import SCHEMA, World, exact, noisy

NASTY = '<script>alert("x")</script> & | *bold* `code` <img src=http://example.org/x.png>'


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with every part, from fake models whose prompts are nasty."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        world = World(folder, patch)
        rows = [Conversation(f"p{i}", (Message("user", f"{NASTY} {i}"),)) for i in range(6)]
        write_conversations(world.prompts, rows)
        combination = {"attributes": {"quality": 4, "humor": 0, "toxicity": 0, "lang": "en"}, "count": 2}
        models = {
            "train_sft": world.model("train_sft", noisy, label_statistics={"combinations": [combination]}),
            "bootstrap": world.model("bootstrap", exact, label_statistics={"combinations": [combination]}),
        }
        turn = Message("assistant", '{"quality": 1, "humor": 2, "toxicity": 0}', {"humor": 2}, human={"humor": 3})
        data = folder / "train.jsonl"
        write_conversations(data, [Conversation(f"t{i}", (Message("user", "Hm?"), turn)) for i in range(6)])
        config = EvaluateConfig(measure="playground")
        annotator = folder / "annotator"
        out = folder / "evaluate"
        stage.evaluate(config, models, world.prompts, SCHEMA, out, seed=7, annotator=annotator, annotated=[data])
    write_other_stages(folder)
    write_report(folder)
    return folder


def write_other_stages(folder: Path) -> None:
    truth, predicted = [0.0, 1, 2, 3, 4, 4, 2, 0], [0.3, 1.2, 1.7, 3.1, 3.6, 3.9, 2.4, 0.1]
    ratings = [[0, 1], [1, 1], [2, 3], [3, 3], [4, 4], [4, 3], [2, 2], [0, 0]]
    row = regression_report(truth, predicted, Attribute("humor"), list(range(8)))
    row |= {"human_ceiling": human_ceiling(ratings), "annotator_kappa": fleiss_kappa(ratings).to_dict()}
    counts = {"turns": 1234, "too_long": 0}
    report = {
        "kind": "regression", "base_model": f"base {NASTY}", "train": counts, "validation": counts,
        "warnings": [f"humor: {NASTY}"], "attributes": {"humor": row}, "sources": {"a": {"humor": row}, "b": {}},
    }  # fmt: skip
    write_json(folder / "train_attribute_model" / "report.json", report)
    annotation = {
        "files": {"train.jsonl": {"records": 10, "turns": 12, "labelled": 11, "too_long": 1}},
        "histograms": {"humor": {str(i): 10 * i for i in range(5)}},
        "correlations": {"humor": {"quality": -0.437}, "quality": {"humor": -0.437}},
        "human": {},
        "disagreements": [],
    }
    write_json(folder / "annotate" / "summary.json", annotation)
    for name in ("train_sft", "bootstrap/round-1/train"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        lines = [{"step": 1, "loss": 2.0}, {"step": 10, "loss": 1.0}, {"step": 10, "eval_loss": 1.125}]
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = {"stage": "train_sft", "seconds": 61.27, "cpu_seconds": 117.9, "peak_memory_mib": 1534, "resumed": True}
    write_json(folder / "train_sft" / "done.json", {**done, "summary": {}})
    before_after = {key: {"value": 0.5, "low": 0.4, "high": 0.6} for key in ("before", "after", "difference")}
    rounds = [
        {"round": number, "prompts": 30, "samples": 120, "kept": 113, "dropped": {"empty": 0, "duplicate": 7},
         "filtered_out": 0, "held_out": {"requests": 64, **quality, "error": {"mean": before_after}}}
        for number, quality in ((1, {"quality": before_after}), (2, {}))  # 2: no attribute has a best end
    ]  # fmt: skip
    write_json(folder / "bootstrap" / "report.json", {"rounds": rounds})
    environment = {"python": "3.11.2", "platform": "Linux x86_64", "cpus": 2, "packages": {"steerlm": "0.1.0"}}
    write_json(folder / "environment.json", environment)
    recipe = f"name: demo\ndescription: A <b>demo</b> {'x' * 200}\nseed: 7\n"
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")


def page(run_dir: Path) -> str:
    return (run_dir / "report.html").read_text(encoding="utf-8")


def markdown(run_dir: Path) -> str:
    return (run_dir / "report.md").read_text(encoding="utf-8")


def results_of(run_dir: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((run_dir / "evaluate" / "results.json").read_text(encoding="utf-8"))
    return results


class Structure(HTMLParser):
    """Checks that tags close in order and collects what hangs together."""

    VOID = frozenset({"meta", "br", "path", "use", "link", "img", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, dict(attrs))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag, (tag, self.getpos())

    def note(self, tag: str, attributes: Mapping[str, str | None]) -> None:
        self.elements.append((tag, dict(attributes)))
        if attributes.get("id"):
            self.ids.append(str(attributes["id"]))
        if str(attributes.get("href", "")).startswith("#"):
            self.targets.append(str(attributes["href"])[1:])


def test_page_is_well_formed_and_accessible(run_dir: Path):
    structure = Structure(page(run_dir))
    assert len(structure.ids) == len(set(structure.ids))
    assert set(structure.targets) <= set(structure.ids)
    drawings = [attributes for tag, attributes in structure.elements if tag == "svg"]
    # response curves, pairs of levels, calibration, distribution, losses
    assert len(drawings) == 3 + 6 + 1 + 1 + 2
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in drawings)
    assert any(tag == "html" and attributes["lang"] == "en" for tag, attributes in structure.elements)
    boxes = [a for _, a in structure.elements if "scroll" in str(a.get("class", "")).split()]
    assert all(box.get("aria-label") and box.get("tabindex") == "0" for box in boxes)


def test_page_needs_nothing_from_outside(run_dir: Path):
    text = page(run_dir)
    outside = text.replace("src=http://example.org/x.png", "")  # that one is text of a prompt
    assert "http" not in outside
    assert "//" not in re.sub(r"<style>.*?</style>", "", outside, flags=re.DOTALL)
    assert not re.search(r"<(script|img|link|iframe|object|embed)|@import|\bsrc=", outside)
    assert set(re.findall(r"url\((.)", text)) <= {"#"}


def test_text_from_data_is_escaped(run_dir: Path):
    assert "<script" not in page(run_dir)
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page(run_dir)
    assert "*bold* `code`" in page(run_dir)  # text stays text
    assert "A &lt;b&gt;demo&lt;/b&gt;" in page(run_dir)
    text = markdown(run_dir)
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert not any(re.search(r"(?<!\\)\*bold", row) for row in rows)


def test_every_table_row_of_the_markdown_has_its_header_s_width(run_dir: Path):
    lines = markdown(run_dir).splitlines()
    tables = 0
    for i, line in enumerate(lines):
        if re.fullmatch(r"\|(---\|)+", line):
            tables += 1
            width = len(re.findall(r"(?<!\\)\|", line))
            assert len(re.findall(r"(?<!\\)\|", lines[i - 1])) == width, lines[i - 1]
            for row in lines[i + 1 :]:
                if not row.startswith("|"):
                    break
                assert len(re.findall(r"(?<!\\)\|", row)) == width, row
    assert tables >= 10


def test_report_shows_the_numbers_of_the_results(run_dir: Path):
    results = results_of(run_dir)
    for text in (page(run_dir), markdown(run_dir)):
        for model in results["models"].values():
            report = model["scorers"]["measure"]
            for dial in report["dials"].values():
                for key in ("spearman", "mae", "slope", "largest_leak"):
                    for part in ("value", "low", "high"):
                        assert number(dial[key][part]) in text, (key, part)
                assert percent(dial["exact"]["value"]) in text
                assert percent(dial["monotonicity"]["value"]) in text
        for row in report["leakage"].values():
            for estimate in row.values():
                assert number(estimate["value"]) in text
        for row in results["comparisons"][0]["attributes"].values():
            assert number(row["mae"]["value"], 3) in text
            assert number(row["spearman"]["low"], 3) in text
        words = results["models"]["train_sft"]["answers"]["all"]["characters"]["value"]
        assert number(words, 0) in text
        assert number(results["label_quality"]["train.jsonl"]["humor"]["ratio"]["value"]) in text
        for shown in ("61.3", "117.9", "1,534", "113", "7 duplicate", "3.11.2"):
            assert shown in text, shown
        assert f"{number(-0.437)}" in text
    report = json.loads((run_dir / "train_attribute_model" / "report.json").read_text(encoding="utf-8"))
    row = report["attributes"]["humor"]
    for estimate in (row["mae"], row["error_ratio"], row["human_ceiling"]["spearman"], row["annotator_kappa"]):
        assert number(estimate["value"]) in page(run_dir)
        assert number(estimate["value"]) in markdown(run_dir)


def test_a_round_of_bootstrapping_without_quality_shows_its_error_alone(run_dir: Path):
    first, second = (line for line in markdown(run_dir).splitlines() if line.startswith("Round "))
    assert "quality where the best is asked for 0.5" in first
    assert "quality" not in second
    assert "mean error 0.5" in second


def test_samples_stand_beside_their_dials(run_dir: Path):
    text = page(run_dir)
    for sweep in results_of(run_dir)["examples"]["sweeps"]:
        for reply in sweep["replies"]:
            assert f"<strong>{sweep['dial']} {reply['requested']}</strong>" in text
    assert re.search(r"In the category asked for 100 % \[\d+, 100\] of the time", text)
    assert "not independent" in text


def test_every_scorer_s_figures_are_shown(run_dir: Path):
    final = results_of(run_dir)["models"]["bootstrap"]["scorers"]
    for text in (page(run_dir), markdown(run_dir)):
        assert "What every scorer says (bootstrap)" in text
        part = text[text.index("What every scorer says") : text.index("By what the other dials stood at")]
        for scorer in ("measure", "annotator"):
            assert number(final[scorer]["dials"]["humor"]["mae"]["value"]) in part
            assert number(final[scorer]["dials"]["humor"]["slope"]["low"]) in part


def test_the_headline_quotes_the_worst_dial_with_its_interval(run_dir: Path):
    dials = results_of(run_dir)["models"]["bootstrap"]["scorers"]["measure"]["dials"]
    name, worst = min(dials.items(), key=lambda row: row[1]["spearman"]["value"])
    tiles = page(run_dir)[: page(run_dir).index("<nav")]
    low, high = number(worst["spearman"]["low"]), number(worst["spearman"]["high"])
    shown = f"<strong>{number(worst['spearman']['value'])}</strong> [{low}, {high}], Spearman, lowest: {name}</li>"
    assert f"<li>asked and obtained agree: {shown}" in tiles
    assert tiles.count("<li>") == 4


def test_equal_data_gives_equal_bytes(run_dir: Path):
    before = page(run_dir), markdown(run_dir)
    write_report(run_dir)
    assert (page(run_dir), markdown(run_dir)) == before


@pytest.mark.parametrize(
    ("keep", "headings"),
    [
        (["evaluate/results.json"], ["fidelity", "leakage", "samples", "bootstrap", "answers", "reproduce"]),
        (["train_sft/done.json"], ["reproduce"]),
        (["train_attribute_model/report.json"], ["attribute-model", "reproduce"]),
        (["annotate/summary.json", "train_sft/metrics.jsonl"], ["labels", "training", "reproduce"]),
    ],
)
def test_missing_parts_are_left_out(run_dir: Path, tmp_path: Path, keep: list[str], headings: list[str]):
    for name in keep:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run_dir / name, tmp_path / name)
    write_report(tmp_path)
    found = re.findall(r'<section id="([\w-]+)"', page(tmp_path))
    assert [heading for heading in found if heading != "labels" or "labels" in headings] == headings
    Structure(page(tmp_path))
    assert set(Structure(page(tmp_path)).targets) <= set(Structure(page(tmp_path)).ids)


def test_one_model_with_few_prompts_and_no_independent_scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World(tmp_path, monkeypatch)
    world.write_prompts(3)
    world.config = EvaluateConfig(measure="none")
    results = world.evaluate(".", tmp_path / "annotator", sft=world.model("sft", exact))
    write_report(tmp_path)  # results.json lies in the folder itself
    assert "not independent" in page(tmp_path)
    assert "no interval: 3 clusters" in page(tmp_path)
    assert "(not independent)" in steering_table(from_json(Evaluation, results))[0]["measured by"]
    assert 'id="bootstrap"' not in page(tmp_path)


def test_without_any_scorer_the_answers_are_still_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    world = World(tmp_path, monkeypatch)
    world.config = EvaluateConfig(measure="none")
    results = world.evaluate(".", sft=world.model("sft", exact))
    write_report(tmp_path)
    assert steering_table(from_json(Evaluation, results)) == []
    assert "The answers themselves" in page(tmp_path)


def test_a_report_elsewhere_leaves_the_run_as_it_is(run_dir: Path, tmp_path: Path):
    write_report(run_dir)
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")}
    for name, own in (("x/page.html", "report.html"), ("text.md", "report.md")):
        assert main(["report", str(run_dir), "--out", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_bytes() == (run_dir / own).read_bytes()
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*")} == before


def test_nothing_to_report_on_and_damaged_files(tmp_path: Path):
    with pytest.raises(UserError, match="nothing to report on"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json: malformed JSON"):
        write_report(tmp_path)
    # a comparison, a judgement and a study write a results.json too
    (tmp_path / "results.json").write_text('{"systems": []}', encoding="utf-8")
    with pytest.raises(UserError, match=r"results\.json holds no evaluation"):
        write_report(tmp_path)


def test_steering_table_is_of_the_last_model_and_fits_a_terminal(run_dir: Path):
    rows = steering_table(from_json(Evaluation, results_of(run_dir)))
    assert rows[0] == {
        "attribute": "quality",
        "obtained for\n  0   1   2   3   4": "0.0 1.0 2.0 3.0 4.0",
        "Spearman": "1.00",
        "error\n(levels)": "0.00",
        "largest\nside effect": "0.00 humor",
    }
    assert [row["attribute"] for row in rows] == ["quality", "humor", "toxicity"]
    console = Console(width=80, file=io.StringIO())
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    assert len(console.file.getvalue().splitlines()) == len(rows) + 5  # type: ignore[attr-defined]  # nothing is folded


def test_steering_table_of_mixed_scales(run_dir: Path):
    results = results_of(run_dir)
    curve = results["models"]["bootstrap"]["scorers"]["measure"]["dials"]["humor"]["curve"]
    del curve[-1]
    rows = steering_table(from_json(Evaluation, results))
    assert rows[0]["asked for, obtained"] == "  0   1   2   3   4\n0.0 1.0 2.0 3.0 4.0"
    assert rows[1]["asked for, obtained"] == "  0   1   2   3\n0.0 1.0 2.0 3.0"


def test_formats():
    assert number(-0.004) == "0.00"
    assert number(-0.126) == "\u22120.13"
    assert number(None) == "\u2013"
    assert percent(0.256) == "26 %"
    assert shade(None) == shade(float("nan")) == "transparent"
    assert shade(0.5) != shade(-0.5)
    assert shade(5.0) == shade(1.0)
    assert markdown_text("# a | b\n*c* <d>") == r"\# a \| b \*c\* &lt;d&gt;"
    assert markdown_text("1. not a list") == r"1\. not a list"
    assert markdown_text("0.90 to 0.95") == "0.90 to 0.95"
    assert markdown_lines("one\n\n- two ") == "one\\\n\\\n\\- two"
    assert markdown_quote("one\ntwo\n\n*three*") == "> one\\\n> two\n>\n> \\*three\\*"
    assert markdown_code("run `a <b>` *now*") == "run `a <b>` \\*now\\*"
    assert markdown_code("a ` <b>") == "a \\` &lt;b&gt;"
    assert fenced("a\n```\nb", "yaml") == "````yaml\na\n```\nb\n````"
    assert share_text(Estimate(0.55, 0.47, 0.63, 40, 8)) == "55 % [47, 63]"


def test_the_markdown_holds_the_words_of_the_page(run_dir: Path):
    """One text: whatever stands in a cell or a paragraph of the one stands in the other."""

    class Words(HTMLParser):
        found: tuple[str, ...] = ()
        skipped = 0

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.skipped += (
                tag in ("svg", "style", "nav", "title", "figcaption", "footer") or dict(attrs).get("class") == "legend"
            )

        def handle_endtag(self, tag: str) -> None:
            self.skipped -= tag in ("svg", "style", "nav", "title", "figcaption", "footer", "ul") and self.skipped > 0

        def handle_data(self, data: str) -> None:
            if not self.skipped:
                self.found += tuple(re.findall(r"\w+", data))

    parser = Words()
    parser.feed(page(run_dir))
    missing = set(parser.found) - set(re.findall(r"\w+", html.unescape(markdown(run_dir)).replace("\\", "")))
    assert missing == set()
    assert len(parser.found) > 1000


def test_figures_have_their_interval_in_small_print(run_dir: Path):
    mae = results_of(run_dir)["models"]["train_sft"]["scorers"]["measure"]["dials"]["humor"]["mae"]
    value, low, high = (number(mae[key]) for key in ("value", "low", "high"))
    assert f'<td>{value}<span class="ci">{low} to {high}</span></td>' in page(run_dir)
    assert f"| {value} [{low}, {high}] |" in markdown(run_dir)


def test_heat_maps_shade_what_should_be_zero(run_dir: Path):
    text = page(run_dir)
    leaks = text[text.index('<section id="leakage"') : text.index('<section id="samples"')]
    cells = re.findall(r"<td (class|style)=\"([^\"]*)\">", leaks[: leaks.index("</table>")])
    # three dials: their own effect on the diagonal
    assert [kind == "class" for kind, _ in cells] == [i % 4 == 0 for i in range(9)]
    assert cells[0] == ("class", "self")
    assert all(style.startswith("background: ") for kind, style in cells if kind == "style")


def test_charts_take_their_colours_from_the_page():
    rows = [CurvePoint(float(i), Estimate(float(i), i - 0.1, i + 0.1, 40, 8)) for i in range(5)]
    label = 'a "label" & more'
    chart = str(charts.response_curve((0, 4), {"a": rows, "b": rows[:2]}, label))
    assert chart == str(charts.response_curve((0, 4), {"a": rows, "b": rows[:2]}, label))
    assert "a &#34;label&#34; &amp; more" in chart
    assert not re.search(r"#[0-9a-fA-F]{6}\b", re.sub(r'(url\(#|href="#)[\w.-]+', "", chart))
    assert {"var(--series-1)", "var(--series-2)", "var(--ink)", "var(--grid)"} <= set(
        re.findall(r"var\([^)]+\)", chart)
    )
    assert "obtained</text>" in chart  # text stays text
    Structure(chart)


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 400, 1280])
def test_page_does_not_scroll_sideways(run_dir: Path, tmp_path: Path, width: int):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("no chromium")
    # a headless window cannot be narrower than 500, a frame can
    frame = f'<iframe style="border:0" width="{width}" height="900" srcdoc="{html.escape(page(run_dir))}"></iframe>'
    probe = "onload = () => { document.title = document.querySelector('iframe').contentDocument.body.scrollWidth }"
    (tmp_path / "page.html").write_text(f"<title></title>{frame}<script>{probe}</script>", encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--window-size=1400,1000", f"--user-data-dir={tmp_path}/profile", "--dump-dom"]
    command.append(f"file://{tmp_path}/page.html")
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = re.search(r"<title>(\d+)</title>", dom)
    assert found is not None
    assert 0 < int(found.group(1)) <= width


def test_fixture_models_are_what_they_seem(run_dir: Path):
    """Guards the fixture: the first model is noisy, the second exact."""
    assert CheckpointInfo("sft", SCHEMA, "steerlm").conditioning
    models = results_of(run_dir)["models"]
    assert models["bootstrap"]["scorers"]["measure"]["dials"]["humor"]["mae"]["value"] == 0
    assert models["train_sft"]["scorers"]["measure"]["dials"]["humor"]["mae"]["value"] > 0.3
