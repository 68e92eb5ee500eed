"""The whole method through the command line on a tiny playground: done, skipped, resumed, killed."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from steerlm import pipeline
from steerlm.checkpoint.models import load_config
from steerlm.config import load_recipe
from steerlm.errors import UserError
from steerlm.planning.architectures import architecture
from steerlm.planning.estimate import plan
from steerlm.planning.inputs import playground_shape
from tests import processes
from tests.tiny_recipe import write_tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
TEXT_OUTPUTS = (
    "prepare/train.jsonl",
    "annotate/train.jsonl",
    "annotate/validation.jsonl",
    "bootstrap/round-1/samples.jsonl",
    "bootstrap/round-1/bootstrapped.jsonl",
)
FINAL_LOSSES = ("train_attribute_model", "train_sft", "bootstrap")


def tiny_recipe(path: Path, run_dir: Path) -> Path:
    """Write the tiny recipe with stages long enough to be killed at any place, and more than one validation."""
    trained = {"epochs": 1, "max_steps": -1, "eval_steps": 10}
    return write_tiny_recipe(
        path,
        run_dir,
        playground={"num_prompts": 200},
        train_attribute_model=trained,
        train_sft=trained,
        evaluate={"num_prompts": 4, "samples_per_prompt": 1, "max_new_tokens": 4},
    )


def command(recipe: Path) -> list[str]:
    return ["-m", "steerlm", "run", str(recipe), "--force"]


def finish(recipe: Path) -> str:
    done = processes.run(command(recipe))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def outputs(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = {name: (run_dir / name).read_bytes() for name in TEXT_OUTPUTS}
    for stage in FINAL_LOSSES:
        found[stage] = losses(orjson.loads((run_dir / stage / "done.json").read_bytes())["summary"])
    return found


def losses(summary: Any) -> list[float]:
    """Every final loss that stands anywhere in a stage's summary."""
    if isinstance(summary, dict):
        own = [summary[key] for key in ("train_loss", "eval_loss", "validation_loss") if summary.get(key) is not None]
        return own + [loss for value in summary.values() for loss in losses(value)]
    if isinstance(summary, list):
        return [loss for value in summary for loss in losses(value)]
    return []


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    folder = tmp_path_factory.mktemp("whole")
    recipe = tiny_recipe(folder / "recipe.yaml", folder / "run")
    started = time.monotonic()
    output = finish(recipe)
    return folder, output, time.monotonic() - started


def test_one_command_runs_every_step_and_ends_with_the_table(whole_run: tuple[Path, str, float]) -> None:
    folder, output, _ = whole_run
    for stage in ("playground", "prepare", "train_attribute_model", "annotate", "train_sft", "bootstrap", "evaluate"):
        assert re.search(rf"^[✓!] {stage} ", output, re.MULTILINE)
        assert (folder / "run" / stage / "done.json").is_file()
    assert "requested against obtained" in output
    assert "steerlm chat" in output
    assert (folder / "run" / "report.html").is_file()
    # made in a hurry, answers cut off at 4 tokens
    report = re.sub(r"\s+", " ", (folder / "run" / "report.md").read_text(encoding="utf-8").replace("\\", ""))
    for said in ("of the answers never stop: they were cut off at 4 tokens", "does not move: "):
        assert said in output
        assert said in report
    assert "! evaluate" in output
    assert re.search(r"^✗ \d of 5 dials move", output, re.MULTILINE)
    assert all(losses_of for losses_of in (outputs(folder / "run")[stage] for stage in FINAL_LOSSES))


def test_the_same_command_again_computes_nothing(whole_run: tuple[Path, str, float]) -> None:
    folder, _, _ = whole_run
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*.safetensors")}
    started = [sys.executable, *command(folder / "recipe.yaml")]
    again = subprocess.run(started, capture_output=True, text=True, timeout=600, check=False)
    assert again.returncode == 0, again.stderr
    assert (again.stdout + again.stderr).count("already done") == 7
    assert before == {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*.safetensors")}


def test_the_readme_example_runs_on_the_finished_run(
    whole_run: tuple[Path, str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, _, _ = whole_run
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "playground").symlink_to(folder / "run")
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    assert namespace["answer"].text in printed
    assert set(namespace["scores"]) == {"toxicity", "humor", "creativity", "helpfulness", "verbosity"}


def test_chat_answers_from_a_pipe(whole_run: tuple[Path, str, float]) -> None:
    folder, _, _ = whole_run
    words = ["-m", "steerlm", "chat", str(folder / "run" / "bootstrap" / "model"), "--humor", "4"]
    done = processes.run(words, "How do I bake bread?\n/set\n/quit\n")
    assert done.returncode == 0, done.stderr
    assert "humor" in done.stdout


def test_a_steerable_model_is_an_ordinary_folder_with_a_template_that_knows_the_dials(
    whole_run: tuple[Path, str, float],
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, _, _ = whole_run
    model = folder / "run" / "bootstrap" / "model"
    tokenizer = AutoTokenizer.from_pretrained(model)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], attributes={"humor": 4}, tokenize=False, add_generation_prompt=True
    )
    assert "humor:4" in text
    assert AutoModelForCausalLM.from_pretrained(model).get_input_embeddings().num_embeddings >= len(tokenizer)
    assert (model / "README.md").is_file()


def test_the_plan_knows_the_shape_of_the_base_model(whole_run: tuple[Path, str, float]) -> None:
    folder, _, _ = whole_run
    world = load_recipe(folder / "recipe.yaml").playground
    assert world is not None
    planned = playground_shape(world)
    made = architecture(load_config(folder / "run" / "playground" / "base_model"))
    assert planned.body == pytest.approx(made.body, rel=0.01)  # without the norms
    assert replace(planned, vocab=made.vocab, body=made.body) == made


def kill_at_random(folder: Path, kills: int, reference: dict[str, Any], seconds: float, seed: int) -> int:
    """Kill runs with SIGKILL at random moments until `kills` have landed; compare every run that completes."""
    moments = random.Random(seed)
    landed = completed = 0
    while landed < kills or completed == 0:
        run_dir = folder / f"killed-{completed}"
        recipe = tiny_recipe(folder / f"killed-{completed}.yaml", run_dir)
        while True:
            with (folder / "output").open("w") as output:
                process = processes.start(command(recipe), stdout=output.fileno(), stderr=output.fileno())
            process.join(moments.uniform(0.5, seconds) if landed < kills else 600.0)
            if process.exitcode is not None:
                assert process.exitcode == 0, (folder / "output").read_text()
                break
            assert process.pid is not None
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
            landed += 1
        assert outputs(run_dir) == reference
        completed += 1
    return landed


def test_killed_twice_a_run_ends_the_same(whole_run: tuple[Path, str, float], tmp_path: Path) -> None:
    folder, _, seconds = whole_run
    assert kill_at_random(tmp_path, 2, outputs(folder / "run"), seconds, seed=1) == 2


@pytest.mark.slow
def test_killed_at_20_random_points_a_run_ends_the_same(whole_run: tuple[Path, str, float], tmp_path: Path) -> None:
    folder, _, seconds = whole_run
    assert kill_at_random(tmp_path, 20, outputs(folder / "run"), seconds, seed=2) == 20


def test_a_plain_model_is_neither_planned_nor_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run")
    recipe = load_recipe(path, {"train_sft.conditioning": False, "bootstrap": None})
    ran: list[str] = []
    monkeypatch.setattr(pipeline, "_run", lambda folder, stage, notify: ran.append(stage))
    monkeypatch.setattr("steerlm.reporting.report.write_report", lambda folder: folder)
    pipeline.run_recipe(recipe, force=True)
    assert ran == ["playground", "prepare", "train_attribute_model", "annotate", "train_sft"]
    assert plan(recipe).stages[-1].stage == "train_sft"


def test_a_run_stops_before_annotating_with_a_dial_that_learned_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load_recipe(tiny_recipe(tmp_path / "recipe.yaml", tmp_path / "run"))
    ran: list[str] = []
    useless = {"n": 50, "mae": {"value": 1.2}, "mean_baseline_mae": {"value": 1.0}}
    summaries: dict[str, Any] = {
        "train_attribute_model": {"train": {"labels": {"humor": 80}}, "attributes": {"humor": useless}},
        "annotate": {"histograms": {"humor": {"0": 100, "1": 0}}},
    }

    def done(folder: object, stage: str, notify: object) -> dict[str, object]:
        ran.append(stage)
        return {"summary": summaries.get(stage, {})}

    monkeypatch.setattr(pipeline, "_run", done)
    monkeypatch.setattr("steerlm.reporting.report.write_report", lambda folder: folder)
    with pytest.raises(UserError, match=r"no better than the mean on humor \(80 rated turns"):
        pipeline.run_recipe(recipe)
    assert ran[-1] == "train_attribute_model"
    summaries["train_attribute_model"]["attributes"] = {}
    with pytest.raises(UserError, match=r"humor are on one level \(100 of 100 turns at 0\)"):
        pipeline.run_recipe(recipe)
    assert ran[-1] == "annotate"
    pipeline.run_recipe(recipe, force=True)
    assert ran[-1] == "evaluate"
