"""The judge from end to end, as a library and on the command line, against the fake endpoint."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from steerlm.__main__ import main
from steerlm.attributes import AttributeSchema
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.scorers.llm.cache import read_replies
from steerlm.scorers.llm.client import Endpoint, JudgeClient
from steerlm.scorers.llm.judge import judge, rate_attributes, to_matches
from steerlm.scorers.llm.protocols import BenchmarkQuestion, SystemAnswers, pair_asks, single_asks
from steerlm.statistics.rankings import Match
from steerlm.studies.judge.stored import read_stored
from tests.studies.judge.fake_endpoint import FakeEndpoint


def client_of(endpoint: FakeEndpoint, folder: Path) -> JudgeClient:
    return JudgeClient(Endpoint(endpoint.base_url, "judge-1", "k"), folder / "replies.jsonl", retries=1)


def longer_wins(body: dict[str, Any]) -> str:
    """A Vicuna judge whose scores are the numbers of words."""
    shown = re.findall(
        r"\[The Start of Assistant \d's Answer\]\n(.*?)\n\n\[The End", body["messages"][1]["content"], re.S
    )
    assert len(shown) == 2
    return " ".join(str(len(text.split())) for text in shown) + "\nBecause."


def first_wins(body: dict[str, Any]) -> str:
    return "I look at the order. [[A]]"


QUESTIONS = [BenchmarkQuestion(str(i), (f"Question {i}?", "And?")) for i in range(1, 7)]
LONG = SystemAnswers("long", {q.id: ("one two three", "one two three") for q in QUESTIONS}, {})
SHORT = SystemAnswers("short", {q.id: ("one two", "one two") for q in QUESTIONS[:5]}, {})


def test_pairs_are_judged_in_both_orders(tmp_path: Path) -> None:
    with FakeEndpoint(longer_wins) as endpoint:
        judgements = judge(
            pair_asks("vicuna", QUESTIONS, LONG, SHORT), client_of(endpoint, tmp_path), tmp_path / "out.jsonl"
        )
        assert endpoint.num_requests == 10  # the sixth question has one answer only
        assert to_matches(judgements)[:2] == [Match("1", "long", "short", 1.0), Match("1", "short", "long", 0.0)]
        assert {judgement.scores for judgement in judgements} == {(3.0, 2.0), (2.0, 3.0)}
        assert read_stored([tmp_path / "out.jsonl"], {}) == judgements
        again = judge(
            pair_asks("vicuna", QUESTIONS, LONG, SHORT), client_of(endpoint, tmp_path), tmp_path / "out.jsonl"
        )
        assert again == judgements
        assert endpoint.num_requests == 10


def test_answers_are_rated_turn_by_turn(tmp_path: Path) -> None:
    def rate(body: dict[str, Any]) -> str:
        return "Rating: [[3]]" if "### User:" in body["messages"][1]["content"] else "Rating: [[8]]"

    with FakeEndpoint(rate) as endpoint:
        judgements = judge(single_asks(QUESTIONS, SHORT), client_of(endpoint, tmp_path), tmp_path / "out.jsonl")
    assert [(judgement.turn, judgement.scores) for judgement in judgements] == [(1, (8.0,)), (2, (3.0,))] * 5


def test_attributes_are_rated_on_their_own_scales_and_what_has_no_verdict_is_left_out(tmp_path: Path) -> None:
    schema = AttributeSchema.from_dict([{"name": "humor"}, {"name": "lang", "categories": ["en", "de"]}])

    def rate(body: dict[str, Any]) -> str:
        user = body["messages"][1]["content"]
        if "lang: [[rating]]" in user:
            return "lang: [[de]]" if "Hallo" in user else "lang: [[fr]]"
        return f"humor: [[{user.count('joke')}]]"

    conversations = [[Message("user", "Hi"), Message("assistant", text)] for text in ("Hallo joke joke", "joke" * 7)]
    with FakeEndpoint(rate) as endpoint:
        ratings = rate_attributes(conversations, schema, client_of(endpoint, tmp_path), tmp_path / "out.jsonl")
    assert ratings == [{"humor": 2.0, "lang": 1.0}, {}]
    problems = [judgement.problem for judgement in read_stored([tmp_path / "out.jsonl"], {}) if judgement.problem]
    assert problems == ["7 is off the scale 0..4", "'fr' is not one of en, de"]


# The command


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "STEERLM_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    rows = {
        "questions": [{"question_id": i, "turns": [f"Question {i}?"], "category": "generic"} for i in range(1, 8)],
        "long": [{"question_id": i, "answer_id": f"l{i}", "text": "one two three"} for i in range(1, 8)],
        "short": [{"question_id": i, "answer_id": f"s{i}", "text": "one two"} for i in range(1, 7)],
        "chats": [
            {
                "id": f"c{i}",
                "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"Hello {i}"}],
            }
            for i in range(1, 7)
        ],
    }
    for name, of in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of))
    return {name: str(tmp_path / f"{name}.jsonl") for name in rows} | {"out": str(tmp_path / "out")}


def vicuna(files: dict[str, str], *more: str) -> list[str]:
    systems = ["--answers", f"long={files['long']}", "--answers", f"short={files['short']}"]
    return ["judge", "--protocol", "vicuna", "--questions", files["questions"], *systems, "--out", files["out"], *more]


def results_of(files: dict[str, str]) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((Path(files["out"]) / "results.json").read_text())
    return results


def test_the_command_judges_and_says_how_the_order_mattered(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeEndpoint(longer_wins) as endpoint:
        more = ("--base-url", endpoint.base_url, "--model", "judge/1", "--baseline", "short", "--yes")
        assert main(vicuna(files, *more)) == 0
        assert endpoint.num_requests == 12
        assert main(vicuna(files, *more)) == 0
        assert endpoint.num_requests == 12
    printed = capsys.readouterr().out
    for words in ("12 requests", "0 requests, 12 more are answered from earlier runs", "12 of 12 have a verdict"):
        assert words in printed
    assert "short did not answer 1 questions: 7" in printed
    assert "the answer shown first wins 50.0 [" in printed
    assert "verdicts that flip with the order: 0.0 [" in printed
    results = results_of(files)
    assert results["counts"] == {"asked": 12, "parsed": 12, "unparsed": 0, "failed": 0}
    assert results["pairs"]["overall"]["long"]["value"] == 1.0
    assert results["scores"]["long"]["all"]["value"] == 3.0
    assert results["scores"]["long"]["share_of_baseline"]["pooled"]["value"] == pytest.approx(1.5)
    reviews = sorted((Path(files["out"]) / "reviews").iterdir())
    assert [path.name for path in reviews] == ["long-vs-short.jsonl", "short-vs-long.jsonl"]


def test_a_judge_that_always_takes_the_first_shows_as_position_bias(files: dict[str, str]) -> None:
    with FakeEndpoint(first_wins) as endpoint:
        argv = vicuna(files, "--base-url", endpoint.base_url, "--model", "m", "--yes")
        argv[argv.index("vicuna")] = "mt-bench-pair"
        assert main(argv) == 0
    pairs = results_of(files)["pairs"]
    assert pairs["position_bias"]["value"] == 1.0
    assert pairs["flip_rate"]["1"]["value"] == 1.0
    assert pairs["overall"]["long"]["value"] == 0.5
    assert (Path(files["out"]) / "fastchat" / "m_pair.jsonl").is_file()


def test_what_cannot_be_parsed_is_counted_kept_and_shown(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    def judge(body: dict[str, Any]) -> str:
        return "Both are [very] good." if "Question 3?" in body["messages"][1]["content"] else longer_wins(body)

    with FakeEndpoint(judge, faults=[(400, {})]) as endpoint:
        argv = vicuna(files, "--base-url", endpoint.base_url, "--model", "m", "--yes", "--max-in-flight", "1")
        assert main(argv) == 1  # one was not answered
        printed = capsys.readouterr().out
        assert main(argv) == 0
        assert endpoint.num_requests == 13
    assert "9 of 12 have a verdict; 2 could not be parsed, 1 were not answered" in printed
    assert "no verdict: question 1, long / short: status 400: " in printed
    assert "no verdict: question 3, short / long: no two scores in the output" in printed
    assert "'Both are [very] good.'" in printed
    kept = [json.loads(line) for line in (Path(files["out"]) / "without_verdict.jsonl").read_text().splitlines()]
    assert [(row["question"], row["text"]) for row in kept] == [("3", "Both are [very] good.")] * 2
    assert results_of(files)["problems"] == {"no two scores in the output": 2}


def test_a_dry_run_and_the_missing_consent_send_nothing(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeEndpoint() as endpoint:
        argv = vicuna(files, "--base-url", endpoint.base_url, "--model", "m")
        assert main([*argv, "--dry-run", "--price-in", "2.5", "--price-out", "10"]) == 0
        printed = capsys.readouterr().out
        assert "12 requests" in printed
        most = 12 * 1024 * 10 / 1e6
        least, upper = map(float, re.findall(r"costs between ([\d.]+) and ([\d.]+)", printed)[0])
        assert upper - least == pytest.approx(most, abs=0.011)
        assert 0 < least < 0.02
        assert main(argv) == 2
        assert "give --yes" in capsys.readouterr().err
        assert main([*argv, "--price-in", "2.5"]) == 2
        assert "--price-in and --price-out go together" in capsys.readouterr().err
        assert endpoint.num_requests == 0


@pytest.mark.parametrize(("said", "requests"), [("y", 12), ("", 0), ("no", 0)])
def test_a_person_is_asked(said: str, requests: int, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: said)
    with FakeEndpoint(longer_wins) as endpoint:
        assert main(vicuna(files, "--base-url", endpoint.base_url, "--model", "m")) == 0
        assert endpoint.num_requests == requests


def test_the_rubric_takes_conversations_as_they_are(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    def rate(body: dict[str, Any]) -> str:
        user = body["messages"][1]["content"]
        [name], [number] = re.findall(r"([a-z]+): \[\[rating", user), re.findall(r"Hello (\d)", user)
        return f"{name}: [[{int(number) % 5}]]"

    with FakeEndpoint(rate) as endpoint:
        argv = ["judge", "--protocol", "rubric", "--attributes", "oasst", "--answers", files["chats"], "--yes"]
        assert main([*argv, "--out", files["out"], "--base-url", endpoint.base_url, "--model", "m"]) == 0
        assert endpoint.num_requests == 6 * 4
    humor = results_of(files)["attributes"]["chats"]["humor"]
    assert (humor["value"], humor["n"]) == (pytest.approx((1 + 2 + 3 + 4 + 0 + 1) / 6), 6)
    assert "level on the attribute's scale" in capsys.readouterr().out


def test_the_rubric_says_how_often_each_category_was_given(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    schema = tmp_path / "schema.yaml"
    schema.write_text(json.dumps([{"name": "humor"}, {"name": "tone", "categories": ["dry", "warm", "rude"]}]))

    def rate(body: dict[str, Any]) -> str:
        user = body["messages"][1]["content"]
        said = "2" if "humor: [[" in user else "rude" if "Hello 1" in user else "warm"
        return f"{'humor' if said == '2' else 'tone'}: [[{said}]]"

    with FakeEndpoint(rate) as endpoint:
        argv = ["judge", "--protocol", "rubric", "--attributes", str(schema), "--answers", files["chats"], "--yes"]
        assert main([*argv, "--out", files["out"], "--base-url", endpoint.base_url, "--model", "m"]) == 0
    results = results_of(files)
    assert list(results["attributes"]["chats"]) == ["humor"]
    shares = results["categories"]["tone"]["chats"]
    assert {name: share["value"] for name, share in shares.items()} == {
        "dry": 0,
        "warm": pytest.approx(5 / 6),
        "rude": pytest.approx(1 / 6),
    }
    printed = capsys.readouterr().out
    assert "tone: share of each category, %" in printed
    assert "83.3" in printed
    again = tmp_path / "again"
    assert main(["judge", "--reviews", f"{files['out']}/judgements.jsonl", "--out", str(again)]) == 0
    assert json.loads((again / "results.json").read_text())["categories"] == results["categories"]


def test_stored_judgements_are_analysed_without_an_endpoint(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeEndpoint(longer_wins) as endpoint:
        assert main(vicuna(files, "--base-url", endpoint.base_url, "--model", "m", "--yes")) == 0
    first = results_of(files)
    answers = ["--answers", f"long={files['long']}", "--answers", f"short={files['short']}"]
    reviews = sorted(str(path) for path in (Path(files["out"]) / "reviews").iterdir())
    for stored in ([f"{files['out']}/judgements.jsonl"], reviews):
        again = tmp_path / "again"
        assert main(["judge", "--reviews", *stored, *answers, "--out", str(again)]) == 0
        results = json.loads((again / "results.json").read_text())
        for key in ("counts", "pairs", "scores"):
            assert results[key] == first[key]
        assert results["differences"] == {"read_only_by_us": 0, "read_only_by_them": 0, "read_differently": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--out"], "--out is missing"),
        (["--protocol"], "give --protocol and --answers"),
        (["--answers"], "vicuna compares systems"),
        (["--questions"], "neither a question_id nor"),
        (["--model"], "STEERLM_JUDGE_MODEL"),
        (["--base-url"], "OPENAI_API_KEY"),
        (["--baseline", "lon"], "unknown system 'lon': did you mean 'long'?"),
        (["--answers", "long=other.jsonl"], "'long' stands twice"),
        (["--protocol", "rubric"], "--attributes is missing"),
    ],
)
def test_mistakes_name_the_fix(
    change: list[str], words: str, files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    argv = vicuna(files, "--base-url", "http://127.0.0.1:9/v1", "--model", "m")
    if len(change) == 1:
        if change == ["--questions"]:
            argv[argv.index("--questions") + 1] = files["bad"] = files["out"] + "-q.jsonl"
            Path(files["bad"]).write_text('{"text": "no id"}\n')
        else:
            at = argv.index(change[0])
            del argv[at : at + 2]
    else:
        argv += change
    assert main(argv) == 2
    assert words in capsys.readouterr().err


# Against what was published


def test_stored_reviews_replayed_through_the_endpoint_give_the_published_figures(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fake endpoint says what GPT-4 said about these answers: Guanaco-65B 96.7 / 101.9, mean 99.3 % of ChatGPT.

    That the questions find their reviews shows that prompts and answers are put together as they were then.
    """
    monkeypatch.setenv("COLUMNS", "200")
    vicuna = shared_data / "vicuna"
    guanaco = "65b-guanaco-vicuna-generations-topp0.9-temp0.7"
    systems = {"guanaco": f"{guanaco}.jsonl", "chatgpt": "answer_gpt35.jsonl"}
    answers = [word for name, file in systems.items() for word in ("--answers", f"{name}={vicuna}/generations/{file}")]
    stored = [
        vicuna / "ratings/relative" / name
        for name in (f"{guanaco}-vs-gpt-3.5-gpt4-reviewer.jsonl", f"gpt-3.5-vs-{guanaco}-gpt4-reviewer.jsonl")
    ]
    texts = {}
    for path in stored:
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            texts[row["question_id"], row["answer1_id"], row["reviewer_id"]] = row["text"]
    lookup = _asked_reviews(vicuna, systems)

    def replay(body: dict[str, Any]) -> str:
        return texts[lookup[body["messages"][1]["content"]]]

    with FakeEndpoint(replay) as endpoint:
        questions = ["--questions", str(vicuna / "prompts/vicuna_questions.jsonl")]
        more = ["--base-url", endpoint.base_url, "--model", "gpt-4", "--baseline", "chatgpt", "--yes"]
        argv = ["judge", "--protocol", "vicuna", *questions, *answers, "--out", str(tmp_path / "out"), *more]
        assert main(argv) == 0
        assert endpoint.num_requests == 160
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    share = results["scores"]["guanaco"]["share_of_baseline"]
    published = {"baseline_first": 96.7, "system_first": 101.9, "pooled": 99.3}
    assert {key: round(100 * share[key]["value"], 1) for key in share} == published
    assert "160 of 160 have a verdict" in capsys.readouterr().out


def _asked_reviews(vicuna: Path, systems: dict[str, str]) -> dict[str, tuple[int, str, int]]:
    """Return user prompt -> (question, id of the answer shown first, reviewer), built without our protocol code."""
    from steerlm.studies.judge.formats import answer_id

    rows = {
        name: list(map(json.loads, (vicuna / "generations" / file).read_text(encoding="utf-8").splitlines()))
        for name, file in systems.items()
    }
    text = {
        name: {r["question_id"]: r.get("generation_truncated", r.get("generation", r["text"])) for r in of}
        for name, of in rows.items()
    }
    ids = {
        name: {r["question_id"]: r.get("answer_id") or answer_id(text[name][r["question_id"]]) for r in of}
        for name, of in rows.items()
    }
    prompts = list(map(json.loads, (vicuna / "prompts/vicuna_prompt_relative.jsonl").read_text().splitlines()))
    asked = {}
    for line in (vicuna / "prompts/vicuna_questions.jsonl").read_text().splitlines():
        question = json.loads(line)
        of_category = [prompt for prompt in prompts if prompt["category"] == question["category"]]
        prompt = (of_category or prompts)[0]
        number = question["question_id"]
        for first, second in (("guanaco", "chatgpt"), ("chatgpt", "guanaco")):
            user = prompt["prompt_template"].format(
                question=question["text"],
                answer_1=text[first][number],
                answer_2=text[second][number],
                **prompt["defaults"],
            )
            asked[user] = (number, ids[first][number], prompt["prompt_id"])
    return asked


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    client = JudgeClient(Endpoint("http://127.0.0.1:9/v1", "m", "k"), tmp_path / "replies.jsonl")
    with pytest.raises(UserError, match=re.escape("pip install 'steerlm[judge]'")):
        judge(single_asks(QUESTIONS, LONG), client, tmp_path / "out.jsonl")


def test_control_c_keeps_what_was_answered(files: dict[str, str]) -> None:
    with FakeEndpoint(longer_wins, delay_s=0.3) as endpoint:
        argv = vicuna(files, "--base-url", endpoint.base_url, "--model", "m", "--yes", "--max-in-flight", "1")
        child = subprocess.Popen(
            [sys.executable, "-m", "steerlm", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # a shell's background job ignores Ctrl-C, and its children inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 60
        while endpoint.num_requests < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=120)
        assert child.returncode == 130
        assert errors.strip() == "steerlm: interrupted; the same command goes on where it stopped"
        assert len(read_replies(Path(files["out"]) / "replies.jsonl")) >= 3
        assert not (Path(files["out"]) / "results.json").exists()


def test_judging_needs_no_torch() -> None:
    code = (
        "import sys, steerlm.commands.judge, steerlm.studies.judge.study, steerlm.studies.judge.printing\n"
        "heavy = {'torch', 'transformers', 'openai'} & set(sys.modules)\nassert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_judge_without_a_single_verdict_is_an_error(files: dict[str, str]) -> None:
    with FakeEndpoint(lambda body: "Lovely answers!") as endpoint:
        assert main(vicuna(files, "--base-url", endpoint.base_url, "--model", "m", "--yes")) == 1
    results = results_of(files)
    assert results["counts"] == {"asked": 12, "parsed": 0, "unparsed": 12, "failed": 0}
    assert results["pairs"]["position_bias"]["value"] is None
