"""The page "You have no ratings", word for word: a table, `init`, a judge, a run, a lock, a server, a client."""

from __future__ import annotations

import csv
import os
import random
import re
import shlex
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TextIO

import orjson
import pytest
import yaml

from steerlm.__main__ import main
from tests import processes
from tests.studies.judge.fake_endpoint import FakeEndpoint
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "no-ratings.md"
GOODS = ("apples", "ropes", "lamps", "maps", "boots")
GRUMBLES = ("Bah.", "Leave me.", "What now?", "Hmph.")
HURRY = [
    "train_sft.max_steps=6", "train_sft.eval_steps=6", "evaluate.num_prompts=8", "evaluate.max_new_tokens=16",
    "evaluate.settings=[defaults]",
]  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def grumpiness(text: str) -> int:
    return sum(text.count(word) for word in GRUMBLES)


def write_dialogue(path: Path, count: int) -> None:
    """Write a table whose replies differ in length and in temper."""
    draw = random.Random(0)
    with path.open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["player", "reply"])
        for i in range(count):
            goods = draw.choices(GOODS, k=draw.randint(1, 9))
            grumbles = draw.sample(GRUMBLES, draw.randint(0, 4))
            table.writerow([f"Do you sell {goods[0]}? ({i})", " ".join([*grumbles, "I sell", ", ".join(goods) + "."])])


def rates(body: dict[str, Any]) -> str:
    """The scripted judge: counts the grumbles of the reply it is shown."""
    asked = body["messages"][-1]["content"]
    shown = re.search(r"Start of the Response to Rate\]\n(.*?)\n\[The End", asked, re.DOTALL)
    assert shown is not None
    return f"It grumbles.\ngrumpiness: [[{grumpiness(shown[1])}]]"


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEndpoint]:
    pytest.importorskip("openai", reason="the judge extra is not installed")
    monkeypatch.chdir(tmp_path)
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "STEERLM_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with FakeEndpoint(rates) as found:
        yield found


def small_model(folder: Path) -> Path:
    tokenizer = byte_tokenizer(None)
    random_model(tiny_llama_config(len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def steerlm(line: str, base: Path, *more: str) -> int:
    """Run a line of the page on another base model."""
    assert line.startswith("steerlm ")
    return main([*shlex.split(line.strip().replace("google/gemma-3-270m", str(base)))[1:], *more])


def follow(
    base: Path, rows: int, overrides: list[str], endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Do what the page says up to the server."""
    init, exports, dry_run, run, _ = blocks("bash")
    write_dialogue(Path("dialogue.csv"), rows)
    assert steerlm(init, base) == 0
    for line in exports.strip().splitlines():
        name, value = line.removeprefix("export ").split("=")
        monkeypatch.setenv(name, endpoint.base_url if name == "OPENAI_BASE_URL" else value)
    changed = [word for override in overrides for word in ("--set", override)]
    assert steerlm(dry_run, base, *changed) == 0
    assert not Path("runs").exists()
    assert steerlm(run, base, *changed) == 0


def start_server() -> tuple[BaseProcess, TextIO, str]:
    Path("lock.yaml").write_text(blocks("yaml")[0], encoding="utf-8")
    words = shlex.split(blocks("bash")[4])[1:]
    process, printed = processes.talk(["-m", "steerlm", *words, "--port", "0"])
    line = printed.readline()
    found = re.match(r"dialogue at (http://127\.0\.0\.1:\d+)/v1", line)  # named after the recipe
    assert found is not None, line
    return process, printed, found[1]


def ask(url: str) -> None:
    """Run the page's client, and ask for what the lock forbids."""
    import openai

    [code] = blocks("python")
    exec(compile(code.replace("http://127.0.0.1:8000", url), str(PAGE), "exec"), {})
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    messages: Any = [{"role": "user", "content": "Do you sell maps?"}]
    body = {"steer": {"attributes": {"grumpiness": 4}}}
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="dialogue", messages=messages, extra_body=body)
    assert client.chat.completions.create(model="dialogue@preset=chatty", messages=messages, max_tokens=4).choices


def test_the_page_holds_word_for_word(
    endpoint: FakeEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(small_model(tmp_path / "base"), 80, HURRY, endpoint, monkeypatch)
    said = capsys.readouterr().out
    assert 60 < endpoint.num_requests <= 80  # what is said twice is rated once
    assert "6 optimizer steps" in said, "a run in a hurry says so"
    recipe = yaml.safe_load(Path("runs/dialogue/recipe.yaml").read_text(encoding="utf-8"))
    assert [attribute["name"] for attribute in recipe["attributes"]] == ["length", "grumpiness"]
    labels = [
        orjson.loads(line)["messages"][-1]
        for line in Path("runs/dialogue/annotate/train.jsonl").read_bytes().splitlines()
    ]
    errors = [abs(one["attributes"]["grumpiness"] - grumpiness(one["content"])) for one in labels]
    assert sum(errors) / len(errors) < 0.5
    assert {one["attributes"]["length"] for one in labels} == {0, 1, 2, 3, 4}
    process, printed, url = start_server()
    try:
        ask(url)
    finally:
        process.terminate()
        process.join(60)
        printed.close()


@pytest.mark.slow
def test_after_the_hour_the_dials_move(
    endpoint: FakeEndpoint, shared_models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(shared_models / "stories260K", 800, [], endpoint, monkeypatch)
    assert "✓ every dial moves" in capsys.readouterr().out


@pytest.mark.slow
def test_after_twenty_minutes_the_dials_of_a_real_model_move(
    endpoint: FakeEndpoint, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "STEERLM_GEMMA" not in os.environ:
        pytest.skip("STEERLM_GEMMA names no folder of google/gemma-3-270m")
    follow(Path(os.environ["STEERLM_GEMMA"]), 400, [], endpoint, monkeypatch)
    assert "✓ every dial moves" in capsys.readouterr().out
