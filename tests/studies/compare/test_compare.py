"""`steerlm compare` from end to end: stored answers, endpoints, checkpoints, a judge, and what goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM

import steerlm.generation.engine
from steerlm.__main__ import main
from steerlm.attributes import OASST
from steerlm.checkpoint.info import save_strengths
from steerlm.checkpoint.models import CheckpointInfo, resize_embeddings, save_model
from steerlm.commands.common import held_folder
from steerlm.conversation import read_conversations
from tests.studies.judge.fake_endpoint import FakeEndpoint
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config


@pytest.fixture(autouse=True)
def _outside(tmp_path, monkeypatch):
    """Work in an empty folder, without anybody's key or endpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "STEERLM_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def prompts(count: int) -> str:
    rows = [{"id": f"p{i}", "messages": [{"role": "user", "content": f"What is {i}?"}]} for i in range(count)]
    return write("prompts.jsonl", rows)


def answers(name: str, words: dict[int, int]) -> str:
    """Answers of so many words, in FastChat's form."""
    rows = [{"question_id": f"p{i}", "text": " ".join(f"word{k}" for k in range(n))} for i, n in words.items()]
    return f"{name}={write(f'{name}.jsonl', rows)}"


def results(out: str = "out") -> dict[str, Any]:
    return json.loads((Path(out) / "results.json").read_text())


def compare(*arguments: str) -> int:
    return main(["compare", *arguments, "--out", "out"])


LONGER = ("--scorer", "text", "--weights", "words=1")


def test_stored_answers_by_a_measure(capsys):
    short = {i: 5 + i % 3 for i in range(20)}
    long = {i: 6 if i < 14 else 5 for i in range(20)}
    arguments = [answers("short", short), answers("long", long), "--prompts", prompts(20), *LONGER]
    assert compare(*arguments, "--elo-games", "1") == 0
    found = results()
    # one game moves a rating by 16 or, where the game is a tie, not at all
    expected = 1000 + 32 * (found["win_rate"]["long"]["value"] - 0.5)
    assert found["elo"]["long"]["value"] == pytest.approx(expected, abs=0.5)
    assert found["elo_games_per_run"] == 1
    wins = sum(long[i] > short[i] for i in range(20))
    ties = sum(long[i] == short[i] for i in range(20))
    cell = found["head_to_head"]["long"]["short"]
    assert (cell["wins"], cell["ties"], cell["losses"]) == (wins, ties, 20 - wins - ties)
    assert found["win_rate"]["long"]["value"] == pytest.approx((wins + ties / 2) / 20)
    assert found["win_rate"]["long"]["low"] < found["win_rate"]["long"]["value"] < found["win_rate"]["long"]["high"]
    ratings = found["bradley_terry"]
    assert ratings["long"]["value"] + ratings["short"]["value"] == pytest.approx(2000)
    assert found["scores"]["long"]["words"]["value"] == pytest.approx(sum(long.values()) / 20)
    assert found["answers"]["short"]["words"]["value"] == pytest.approx(sum(short.values()) / 20)
    assert "flip_rate" not in found  # a measure knows no order
    assert len(Path("out/matches.jsonl").read_text().splitlines()) == 20
    said = capsys.readouterr().out
    assert "20 prompts, decided by exact measures (text)" in said
    assert said.index("│ short") < said.index("│ long")  # the better one first
    page = Path("out/comparison.html").read_text()
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "| short | 5" in Path("out/comparison.md").read_text()


def test_a_folder_that_another_process_writes_to_is_refused(capsys):
    arguments = [answers("a", {0: 1, 1: 1}), answers("b", {0: 2, 1: 2}), "--prompts", prompts(2), *LONGER]
    with held_folder(Path("out")):
        assert compare(*arguments) == 2
    assert "another process is writing to out; wait for it or give another --out" in capsys.readouterr().err
    assert [path.name for path in Path("out").iterdir()] == ["lock"]
    assert compare(*arguments) == 0


def test_published_answer_files(shared_data):
    folder = shared_data / "vicuna"
    systems = [
        f"gpt35={folder / 'generations/answer_gpt35.jsonl'}",
        f"flan={folder / 'generations/65b-flan-vicuna-generations-topp0.9-temp0.7.jsonl'}",
    ]
    questions = str(folder / "prompts/vicuna_questions.jsonl")
    assert compare(*systems, "--prompts", questions, "--scorer", "text", "--weights", "unique_words=1") == 0
    found = results()
    assert found["prompts"] == {"file": "vicuna_questions.jsonl", "asked": 80, "compared": 80}
    assert found["win_rate"]["gpt35"]["low"] > 0.9
    # what QLoRA's models went on to say for the user is no part of their answers
    assert "### Human" not in "".join(c.messages[-1].content for c in read_conversations("out/answers/flan.jsonl"))


def test_missing_answers_are_counted_and_said(capsys):
    all_of_them, some = dict.fromkeys(range(12), 3), {i: 2 + i % 3 for i in range(0, 12, 2)}
    assert compare(answers("a", all_of_them), answers("b", some), "--prompts", prompts(12), *LONGER) == 0
    said = capsys.readouterr().out
    assert "b lacks 6 of 12 answers (no answer in the file)." in said
    assert "Compared on the 6 prompts that all systems answered." in said
    found = results()
    assert (found["prompts"]["compared"], found["systems"]["b"]["missing"], found["systems"]["a"]["missing"]) == (
        6,
        6,
        0,
    )
    assert found["systems"]["b"]["missing_examples"][0] == {"id": "p1", "problem": "no answer in the file"}
    assert found["matches"] == 6
    assert "Compared on the 6 prompts" in Path("out/comparison.html").read_text()


def test_too_few_prompts_get_no_interval(capsys):
    systems = answers("a", {0: 1, 1: 3, 2: 2}), answers("b", dict.fromkeys(range(3), 2))
    assert compare(*systems, "--prompts", prompts(3), *LONGER) == 0
    assert "3 prompts are too few for intervals: at least 5 are needed" in capsys.readouterr().out
    found = results()
    for column in ("win_rate", "bradley_terry", "elo"):
        assert found[column]["a"]["low"] is None
        assert "no interval" in found[column]["a"]["note"]


def test_a_system_that_always_wins_has_no_rating(capsys):
    systems = answers("a", dict.fromkeys(range(8), 3)), answers("b", dict.fromkeys(range(8), 2))
    assert compare(*systems, "--prompts", prompts(8), *LONGER) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Bradley-Terry: undefined: b never wins, a never loses." in said
    assert "a against b at equal length: undefined: all verdicts are the same." in said
    assert results()["win_rate"]["a"]["value"] == 1.0
    assert results()["win_rate"]["a"]["low"] < 0.7  # eight prompts are no proof


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say who decides: --scorer"),
        (["--scorer", "text", "--judge", "m"], "say who decides"),
        (["--scorer", "text"], "nothing says what counts as better: give --weights"),
        (["--scorer", "text", "--weights", "wrods=1"], "does not measure 'wrods': did you mean 'words'"),
        (["--scorer", "nowhere"], "no such checkpoint folder: nowhere"),
        ([*LONGER, "--num-prompts", "0"], "--num-prompts must be at least 1"),
        ([*LONGER, "--tie-margin", "-1"], "--tie-margin must be at least 0"),
        (["--judge", "m", "--weights", "words=1"], "a judge decides by itself"),
        (["--judge", "m"], "no endpoint"),
    ],
)
def test_mistakes_are_named_before_anything_is_computed(arguments, message, capsys):
    assert compare(answers("a", {0: 1}), answers("b", {0: 2}), "--prompts", prompts(1), *arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_answers_to_other_prompts_are_refused(capsys):
    assert compare(answers("a", {0: 1}), answers("b", {1: 2}), "--prompts", prompts(2), *LONGER) == 2
    assert "no prompt was answered by all systems (answered of 2: a 1, b 1)" in capsys.readouterr().err


def test_an_endpoint_is_resumed_and_not_asked_twice(capsys):
    def answer(body: dict[str, Any]) -> str:
        number = body["messages"][-1]["content"].removeprefix("What is ").removesuffix("?")
        return "word " * (int(number) % 4 + 1)

    # 20 prompts are two chunks, and the second one is refused at first
    with FakeEndpoint(answer) as endpoint:
        arguments = [
            f"served={endpoint.base_url}#some-model@humor=3", answers("stored", dict.fromkeys(range(20), 2)),
            "--prompts", prompts(20), *LONGER, "--temperature", "0.3",
        ]  # fmt: skip

        endpoint.faults = [None] * 16 + [(401, {})] * 4
        assert compare(*arguments) == 2
        assert "gave out" in capsys.readouterr().err
        first = endpoint.num_requests
        endpoint.faults = []
        assert compare(*arguments) == 0
        assert endpoint.num_requests == first + 4  # the first chunk is not paid for again
        assert compare(*arguments) == 0
        assert endpoint.num_requests == first + 4
        body = endpoint.bodies[0]
        assert (body["model"], body["temperature"]) == ("some-model", 0.3)
        assert body["chat_template_kwargs"] == {"attributes": {"humor": 3}}
    assert results()["scores"]["served"]["words"]["value"] == pytest.approx(2.5)


def test_an_endpoint_that_falters_is_asked_again(monkeypatch):
    monkeypatch.setattr("steerlm.scorers.llm.client._MALFORMED_PAUSE_S", 0.0)
    with FakeEndpoint(
        lambda body: "a word", faults=["garbage", "half", "html", "empty_choices", (400, {}), "null"]
    ) as endpoint:
        arguments = [f"served={endpoint.base_url}#m", answers("stored", dict.fromkeys(range(9), 3))]
        assert compare(*arguments, "--prompts", prompts(9), *LONGER) == 0
    problems = sorted(row["problem"] for row in results()["systems"]["served"]["missing_examples"])
    assert problems == [
        "refused by the endpoint with status 400: as asked",
        "the endpoint's reply holds no text (finish reason no text)",
    ]
    assert results()["prompts"]["compared"] == 7


def test_an_endpoint_that_never_makes_sense_is_given_up(monkeypatch, capsys):
    monkeypatch.setattr("steerlm.scorers.llm.client._MALFORMED_PAUSE_S", 0.0)
    with FakeEndpoint(faults=["html"] * 100) as endpoint:
        arguments = [f"served={endpoint.base_url}#m", answers("stored", {0: 3}), "--prompts", prompts(1), *LONGER]
        assert compare(*arguments) == 2
    assert (
        "the reply is no chat completion: '<html><body>Please log in</body></html>'; stopped after 0 of 1 requests"
        in capsys.readouterr().err
    )


def test_a_judge_sees_both_orders(capsys):
    def prefer_long_but_first_on_p3(body: dict[str, Any]) -> str:
        text = body["messages"][-1]["content"]
        first, second = text.split("[The Start of Assistant 2's Answer]")
        if "What is 3?" in text:
            return "9 5\nI like the first."
        return "nonsense" if "What is 5?" in text else "8 4" if first.count("word") > second.count("word") else "4 8"

    with FakeEndpoint(prefer_long_but_first_on_p3) as endpoint:
        arguments = [
            answers("a", dict.fromkeys(range(8), 4)), answers("b", {i: 3 + 2 * (i % 2) for i in range(8)}),
            "--prompts", prompts(8), "--judge", "some-judge", "--judge-url", endpoint.base_url,
        ]  # fmt: skip
        assert compare(*arguments) == 2
        assert "nobody is there to confirm the cost; give --yes" in capsys.readouterr().err
        assert compare(*arguments, "--yes") == 0
        assert endpoint.num_requests == 16
        assert compare(*arguments, "--yes") == 0
        assert endpoint.num_requests == 16
    found = results()
    assert found["decided_by"] | {"label": "judge some-judge", "undecided": 2} == found["decided_by"]
    assert found["matches"] == 14
    assert found["flip_rate"]["value"] == pytest.approx(1 / 7)
    assert found["position_bias"]["value"] == pytest.approx(8 / 14)
    assert (found["head_to_head"]["a"]["b"]["wins"], found["head_to_head"]["a"]["b"]["losses"]) == (9, 5)
    said = capsys.readouterr().out
    assert "2 verdicts could not be read; they are left out." in said
    assert "14.3 % of pairs have another winner in the other order" in " ".join(said.split())


def test_a_judge_by_mt_bench_with_references(capsys):
    write("references.jsonl", [{"question_id": "p0", "choices": [{"turns": ["The reference says so."]}]}])
    rows = [{"question_id": f"p{i}", "category": "math", "turns": [f"What is {i}?"]} for i in range(2)]
    arguments = [answers("a", {0: 1, 1: 2}), answers("b", {0: 2, 1: 2}), "--prompts", write("questions.jsonl", rows)]
    with FakeEndpoint(lambda body: "Either way. [[C]]") as endpoint:
        judge = ["--judge", "m", "--judge-url", endpoint.base_url, "--protocol", "mt-bench-pair", "--yes"]
        assert compare(*arguments, *judge, "--references", "references.jsonl") == 0
        shown = [body["messages"][-1]["content"] for body in endpoint.bodies]
    assert sum("The reference says so." in text for text in shown) == 2
    assert (results()["ties"], results()["matches"]) == (4, 4)


def test_the_page_fits_a_phone():
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    texts = [{"question_id": f"p{i}", "text": "an_answer_without_a_space_" * 40} for i in range(6)]
    rising, falling = {i: i + 1 for i in range(6)}, {i: 6 - i for i in range(6)}
    arguments = [answers("a-rather-long-name-for-a-system", rising), answers("b", falling)]
    assert compare(*arguments, f"c={write('c.jsonl', texts)}", "--prompts", prompts(6), *LONGER) == 0
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("request", lambda request: problems.append(request.url) if "file://" not in request.url else None)
        page.goto(Path("out/comparison.html").resolve().as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.locator("svg.chart").bounding_box()["width"] > 280
        browser.close()
    assert problems == []


@pytest.fixture
def checkpoints() -> None:
    """`steerable`, a random checkpoint of ours, and `plain`, any other chat model."""
    tokenizer = byte_tokenizer(OASST)
    model = random_model(tiny_llama_config(len(tokenizer)))
    resize_embeddings(model, tokenizer)
    info = CheckpointInfo("sft", OASST, "steerlm")
    save_model("steerable", model, tokenizer, info, "card")
    save_model("again", model, tokenizer, info, "card")
    tokenizer = byte_tokenizer(None)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
    model = random_model(tiny_llama_config(len(tokenizer)), seed=1)
    assert isinstance(model, LlamaForCausalLM)
    model.save_pretrained("plain")
    tokenizer.save_pretrained("plain")


@pytest.mark.usefixtures("checkpoints")
def test_checkpoints_answer_with_common_seeds(monkeypatch):
    arguments = [
        "one=steerable", "same=again", "other=steerable@humor=4", "plain=plain",
        "--prompts", prompts(6), *LONGER, "--max-new-tokens", "8", "--precision", "fp32",
    ]  # fmt: skip
    assert compare(*arguments) == 0
    said = {
        name: [c.messages[-1].content for c in read_conversations(f"out/answers/{name}.jsonl")]
        for name in ("one", "same", "other", "plain")
    }
    assert said["one"] == said["same"] != said["other"]
    assert len(said["plain"]) >= 4
    found = results()
    assert found["head_to_head"]["one"]["same"]["ties"] == 6
    assert found["systems"]["other"]["setting"] == {"quality": 4, "toxicity": 0, "humor": 4, "creativity": 0}
    assert found["systems"]["plain"]["kind"] == "plain"
    first = next(read_conversations("out/answers/other.jsonl"))
    assert (first.id, first.source, first.messages[-1].attributes) == (
        "p0",
        "other",
        found["systems"]["other"]["setting"],
    )

    def refuse(*arguments: object) -> None:
        raise AssertionError("nothing is to be generated again")

    monkeypatch.setattr(steerlm.generation.engine, "load_engine", refuse)
    assert compare(*arguments) == 0
    # what was generated can be compared again as stored answers
    again = ["one=out/answers/one.jsonl", "other=out/answers/other.jsonl", "--prompts", "prompts.jsonl", *LONGER]
    before = results()["head_to_head"]["one"]["other"]["wins"]
    assert main(["compare", *again, "--out", "again-out"]) == 0
    assert results("again-out")["head_to_head"]["one"]["other"]["wins"] == before
    with pytest.raises(AssertionError, match="nothing is to be generated"):
        compare(*arguments, "--temperature", "0")
    # comparing a few of them in place leaves the others where they are
    kept = Path("out/answers/one.jsonl").read_bytes()
    assert compare(*again, "--num-prompts", "5") == 0
    assert results()["prompts"]["asked"] == 5
    assert Path("out/answers/one.jsonl").read_bytes() == kept


@pytest.mark.usefixtures("checkpoints")
def test_a_tuned_model_answers_at_its_strengths(monkeypatch):
    asked = []
    generate = steerlm.generation.engine.LocalEngine.generate

    def seen(self, requests, sampling):
        asked.extend((request.attributes["humor"], request.guidance) for request in requests)
        return generate(self, requests, sampling)

    monkeypatch.setattr(steerlm.generation.engine.LocalEngine, "generate", seen)
    arguments = ["as_is=steerable", "turned=steerable@humor=4", "--prompts", prompts(6), *LONGER, "--precision", "fp32"]
    assert compare(*arguments, "--max-new-tokens", "4") == 0
    assert asked == [(0, None)] * 6 + [(4, None)] * 6
    save_strengths("steerable", {"humor": 3.0})
    asked.clear()
    assert compare(*arguments, "--max-new-tokens", "4") == 0
    assert asked == [(0, None)] * 6 + [(4, {"humor": 3.0})] * 6, "answers at other strengths are other answers"


@pytest.mark.usefixtures("checkpoints")
def test_a_model_without_a_template_is_refused_before_others_answer(capsys):
    byte_tokenizer(None).save_pretrained("plain")
    Path("plain/chat_template.jinja").unlink(missing_ok=True)
    assert compare("one=steerable", "plain=plain", "--prompts", prompts(2), *LONGER) == 2
    assert "system 'plain': plain has no chat template" in capsys.readouterr().err
    assert not Path("out/generated").exists()


@pytest.mark.usefixtures("checkpoints")
def test_a_plain_model_is_greedy_as_transformers_is():
    import torch

    from steerlm.checkpoint.models import load_causal_lm, load_tokenizer

    arguments = ["plain=plain", answers("b", dict.fromkeys(range(5), 2)), "--prompts", prompts(5), *LONGER]
    assert compare(*arguments, "--max-new-tokens", "12", "--temperature", "0", "--precision", "fp32") == 0
    rows = [json.loads(line) for line in Path("out/generated/plain.jsonl").read_text().splitlines()]
    model, tokenizer = load_causal_lm("plain", "fp32").eval(), load_tokenizer("plain")
    for i, row in enumerate(rows):
        ids = tokenizer(f"user: What is {i}?\nassistant: ", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            tokens = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert row["text"] == tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.usefixtures("checkpoints")
def test_prompts_longer_than_the_context_have_no_answer():
    rows = [{"id": f"p{i}", "messages": [{"role": "user", "content": "x" * (600 * (i == 2) + 5)}]} for i in range(6)]
    arguments = ["steerable=steerable", "plain=plain", "--prompts", write("prompts.jsonl", rows), *LONGER]
    assert compare(*arguments, "--max-new-tokens", "4") == 0
    for name in ("steerable", "plain"):
        problem = "the prompt is longer than the model's context"
        assert results()["systems"][name]["missing_examples"] == [{"id": "p2", "problem": problem}]


def test_text_from_data_is_escaped():
    rows = [{"question_id": f"p{i}", "text": "<script>alert(1)</script> | `x`"} for i in range(5)]
    systems = f"a={write('a.jsonl', rows)}", answers("b", dict.fromkeys(range(5), 2))
    assert compare(*systems, "--prompts", prompts(5), *LONGER) == 0
    page = Path("out/comparison.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "<script>" not in Path("out/comparison.md").read_text()
