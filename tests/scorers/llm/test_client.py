from __future__ import annotations

import email.utils
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from steerlm.errors import UserError
from steerlm.scorers.llm import client
from steerlm.scorers.llm.cache import Reply, read_replies
from steerlm.scorers.llm.client import Endpoint, JudgeClient
from steerlm.scorers.llm.protocols import JudgeRequest
from tests.studies.judge.fake_endpoint import FakeEndpoint

SECRET = "sk-very-secret"


def prompts(count: int) -> list[JudgeRequest]:
    return [JudgeRequest("You judge.", f"question {i}", 64) for i in range(count)]


def client_of(endpoint: FakeEndpoint, folder: Path, **settings: Any) -> JudgeClient:
    defaults: dict[str, Any] = {"timeout_s": 5.0}
    return JudgeClient(Endpoint(endpoint.base_url, "judge-1", SECRET), folder / "replies.jsonl", **defaults | settings)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official client waits half a second and more where the endpoint names no pause."""
    from openai import _base_client

    monkeypatch.setattr(_base_client, "INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(client, "_MALFORMED_PAUSE_S", 0.001)


def echo(body: dict[str, Any]) -> str:
    return f"you said {body['messages'][1]['content']}"


def test_replies_come_in_the_order_of_the_prompts_and_equal_ones_are_sent_once(tmp_path: Path) -> None:
    with FakeEndpoint(echo) as endpoint:
        asked = [*prompts(5), *prompts(3)]
        replies = client_of(endpoint, tmp_path).complete(asked)
        assert [reply.text for reply in replies] == [f"you said {prompt.user}" for prompt in asked]
        assert endpoint.num_requests == 5
    assert replies[0].prompt_tokens == 100
    assert {
        "model": "judge-1",
        "messages": [{"role": "system", "content": "You judge."}, {"role": "user", "content": "question 0"}],
        "temperature": 0.0,
        "max_tokens": 64,
    } in endpoint.bodies


def test_reasoning_models_get_room_to_think_and_no_temperature(tmp_path: Path) -> None:
    with FakeEndpoint() as endpoint:
        client_of(endpoint, tmp_path, reasoning=True).complete(prompts(1))
        client_of(endpoint, tmp_path, reasoning=True, max_tokens=100).complete(prompts(1))
    assert set(endpoint.bodies[0]) == {"model", "messages", "max_completion_tokens"}
    assert [body["max_completion_tokens"] for body in endpoint.bodies] == [64 + 8192, 100]


def test_no_more_requests_are_in_flight_than_allowed(tmp_path: Path) -> None:
    with FakeEndpoint(delay_s=0.02) as endpoint:
        client_of(endpoint, tmp_path, max_in_flight=3).complete(prompts(15))
        assert endpoint.most_in_flight == 3


@pytest.mark.parametrize(
    "fault",
    ["down", "garbage", "half", "cut", "html", "empty_choices", (500, {}), (503, {}), (429, {}), (408, {})],
    ids=str,
)
def test_a_passing_fault_is_tried_again(fault: Any, tmp_path: Path) -> None:
    with FakeEndpoint(echo, faults=[fault, fault]) as endpoint:
        [reply] = client_of(endpoint, tmp_path).complete(prompts(1))
        assert reply.text == "you said question 0"
        assert endpoint.num_requests == 3


def test_a_slow_endpoint_runs_into_the_timeout_and_is_asked_again(tmp_path: Path) -> None:
    with FakeEndpoint(echo, faults=["slow"]) as endpoint:
        [reply] = client_of(endpoint, tmp_path, timeout_s=0.3).complete(prompts(1))
        assert reply.text == "you said question 0"
        assert endpoint.num_requests == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_kept_to_by_all_requests(form: str, tmp_path: Path) -> None:
    # a date has whole seconds, so a pause of two may be one
    header = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    with FakeEndpoint(echo, faults=[(429, {"Retry-After": header})]) as endpoint:
        replies = client_of(endpoint, tmp_path, max_in_flight=1).complete(prompts(3))
        assert all(reply.text for reply in replies)
        assert endpoint.times[1] - endpoint.times[0] > 0.9
        assert endpoint.num_requests == 4


def test_no_credit_ends_the_run_at_once(tmp_path: Path) -> None:
    empty = (429, {"Retry-After": "0", "x-should-retry": "false"}, {"code": "insufficient_quota"})
    with FakeEndpoint(faults=[empty] * 9) as endpoint, pytest.raises(UserError, match=r"status 429: .*OPENAI_API_KEY"):
        client_of(endpoint, tmp_path, max_in_flight=1).complete(prompts(9))
    assert endpoint.num_requests == 1


def test_a_busy_endpoint_ends_the_run_after_all_attempts(tmp_path: Path) -> None:
    with (
        FakeEndpoint(faults=[(429, {})] * 50) as endpoint,
        pytest.raises(UserError, match=r"status 429: .*stopped after 0 of 9 requests.*same command goes on"),
    ):
        client_of(endpoint, tmp_path, max_in_flight=1, retries=1).complete(prompts(9))
    assert endpoint.num_requests == 5 * 2


def test_prompts_that_are_refused_end_no_run_that_has_answers(tmp_path: Path) -> None:
    """Six refusals in a row, at the end of one run and alone in the next: no run gets stuck on them."""

    def answer(body: dict[str, Any]) -> str:
        return echo(body)

    with FakeEndpoint(answer, faults=[None, *[(400, {})] * 6]) as endpoint:
        judge = client_of(endpoint, tmp_path, max_in_flight=1)
        assert sum(bool(reply.failure) for reply in judge.complete(prompts(7))) == 6
        endpoint.faults = [(400, {})] * 6
        assert sum(bool(reply.failure) for reply in judge.complete(prompts(7))) == 6


def test_an_endpoint_that_refuses_everything_ends_the_run(tmp_path: Path) -> None:
    with (
        FakeEndpoint(
            faults=[(400, {}, {"message": "Unsupported parameter: use 'max_completion_tokens'"})] * 50
        ) as endpoint,
        pytest.raises(UserError, match=r"status 400: .*give --reasoning.*stopped after 0 of 20"),
    ):
        client_of(endpoint, tmp_path, max_in_flight=1).complete(prompts(20))
    assert endpoint.num_requests == 5


def test_one_bad_request_fails_alone_and_is_asked_again_by_the_next_run(tmp_path: Path) -> None:
    with FakeEndpoint(echo, faults=[(400, {})]) as endpoint:
        judge = client_of(endpoint, tmp_path, max_in_flight=1)
        replies = judge.complete(prompts(3))
        assert [bool(reply.failure) for reply in replies] == [True, False, False]
        assert replies[0].failure.startswith("status 400: ")
        assert endpoint.num_requests == 3
        assert not any(reply.failure for reply in judge.complete(prompts(3)))
        assert endpoint.num_requests == 4


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_address_ends_the_run_at_once(status: int, tmp_path: Path) -> None:
    with FakeEndpoint(faults=[(status, {})] * 50) as endpoint:
        with pytest.raises(
            UserError, match=rf"status {status}: .*check the base URL, the model \('judge-1'\)"
        ) as error:
            client_of(endpoint, tmp_path, max_in_flight=2).complete(prompts(20))
        assert endpoint.num_requests <= 2
    assert SECRET not in str(error.value)


def test_a_dead_endpoint_ends_the_run_instead_of_failing_every_request(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        judge = JudgeClient(Endpoint(url, "m", "k"), tmp_path / "replies.jsonl", retries=1)
        with pytest.raises(UserError, match=r"no connection.*stopped after 0 of 1000 requests"):
            judge.complete(prompts(1000))


def test_persistent_garbage_is_shown(tmp_path: Path) -> None:
    message = "the reply is no chat completion: '<html><body>Please log in"
    with FakeEndpoint(faults=["html"] * 4) as endpoint, pytest.raises(UserError, match=message):
        client_of(endpoint, tmp_path).complete(prompts(1))
    assert endpoint.num_requests == 4


def test_a_reply_without_text_is_kept_as_it_is(tmp_path: Path) -> None:
    with FakeEndpoint(faults=["null"]) as endpoint:
        judge = client_of(endpoint, tmp_path)
        assert judge.complete(prompts(1))[0].text == ""
        judge.complete(prompts(1))
        assert endpoint.num_requests == 1


def test_a_second_run_pays_for_nothing_and_needs_no_endpoint(tmp_path: Path) -> None:
    with FakeEndpoint(echo) as endpoint:
        judge = client_of(endpoint, tmp_path)
        first = judge.complete(prompts(4))
    assert judge.complete(prompts(4)) == first
    assert endpoint.num_requests == 4


def test_any_change_of_the_request_is_a_new_request(tmp_path: Path) -> None:
    with FakeEndpoint(echo) as endpoint:
        base = client_of(endpoint, tmp_path)
        variants = [
            base,
            client_of(endpoint, tmp_path, temperature=0.5),
            client_of(endpoint, tmp_path, reasoning=True),
            JudgeClient(Endpoint(base.endpoint.base_url, "judge-2", SECRET), base.cache),
            JudgeClient(Endpoint("http://other/v1", "judge-1", SECRET), base.cache),
        ]
        keys = [variant.key(prompt) for variant in variants for prompt in prompts(2)]
        keys.append(base.key(JudgeRequest("You judge.", "question 0", 65)))
        assert len(set(keys)) == len(keys)
        # how the request is sent does not matter
        assert client_of(endpoint, tmp_path, max_in_flight=1, timeout_s=9).key(prompts(1)[0]) == keys[0]


def test_an_interrupted_run_pays_only_for_the_rest(tmp_path: Path) -> None:
    with FakeEndpoint(echo, faults=[*[None] * 6, *[(401, {})] * 2]) as endpoint:
        judge = client_of(endpoint, tmp_path, max_in_flight=2)
        with pytest.raises(UserError):
            judge.complete(prompts(10))
        paid = len(read_replies(judge.cache))
        assert paid == 6  # a good reply that is still on its way when the run ends is waited for
        before = endpoint.num_requests
        endpoint.faults.clear()
        assert all(reply.text for reply in judge.complete(prompts(10)))
        assert endpoint.num_requests - before == 10 - paid


def test_a_torn_last_line_costs_one_request(tmp_path: Path) -> None:
    with FakeEndpoint(echo) as endpoint:
        judge = client_of(endpoint, tmp_path)
        judge.complete(prompts(3))
        whole = judge.cache.read_bytes()
        judge.cache.write_bytes(whole[:-20])
        assert [reply.text for reply in judge.complete(prompts(3))] == [f"you said question {i}" for i in range(3)]
        assert endpoint.num_requests == 4
        assert len(read_replies(judge.cache)) == 3


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_kill_loses_at_most_what_is_in_flight(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from steerlm.scorers.llm.client import Endpoint, JudgeClient\n"
        "from steerlm.scorers.llm.protocols import JudgeRequest\n"
        "client = JudgeClient(Endpoint(sys.argv[1], 'judge-1', 'k'), Path(sys.argv[2]), max_in_flight=2)\n"
        "client.complete([JudgeRequest('You judge.', f'question {i}', 64) for i in range(60)])\n"
    )
    with FakeEndpoint(echo, delay_s=0.05) as endpoint:
        cache = tmp_path / "replies.jsonl"
        child = subprocess.Popen([sys.executable, "-c", code, endpoint.base_url, str(cache)])
        deadline = time.monotonic() + 60
        while endpoint.num_requests < 9 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        time.sleep(0.1)
        sent = endpoint.num_requests
        assert sent >= 9
        assert sent - len(read_replies(cache)) <= 2
        judge = JudgeClient(Endpoint(endpoint.base_url, "judge-1", "k"), cache, max_in_flight=8)
        judge.complete(prompts(60))
        assert endpoint.num_requests <= 60 + 2


def test_two_processes_do_not_pay_for_the_same_requests(tmp_path: Path) -> None:
    from steerlm.scorers.llm.cache import open_cache

    with FakeEndpoint() as endpoint:
        judge = client_of(endpoint, tmp_path)
        with open_cache(judge.cache), pytest.raises(UserError, match="another process is judging into"):
            judge.complete(prompts(1))


def test_the_estimate_counts_only_what_is_not_stored(tmp_path: Path) -> None:
    with FakeEndpoint() as endpoint:
        judge = client_of(endpoint, tmp_path)
        judge.complete(prompts(3))
        cost = judge.estimate([*prompts(10), *prompts(10)])
        assert endpoint.num_requests == 3
    assert (cost.requests, cost.stored, cost.max_completion_tokens) == (7, 3, 7 * 64)
    assert cost.prompt_tokens == 7 * (20 // 4 + 8)
    least, most = cost.money(price_in=2.0, price_out=10.0)
    assert least == pytest.approx(7 * 13 * 2e-6)
    assert most == pytest.approx(least + 7 * 64 * 1e-5)


def test_the_key_is_stored_and_printed_nowhere(tmp_path: Path) -> None:
    with FakeEndpoint() as endpoint:
        judge = client_of(endpoint, tmp_path)
        judge.complete(prompts(1))
    assert SECRET not in repr(judge)
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_the_endpoint_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "STEERLM_JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match=r"STEERLM_JUDGE_MODEL.*--set label\.model=NAME.*--model"):
        Endpoint.from_environment()
    monkeypatch.setenv("STEERLM_JUDGE_MODEL", "m")
    with pytest.raises(UserError, match=r"OPENAI_API_KEY.*label\.base_url"):
        Endpoint.from_environment()
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert Endpoint.from_environment() == Endpoint("https://api.openai.com/v1", "m", SECRET)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1/v1/")
    assert Endpoint.from_environment(model="n") == Endpoint("http://localhost:1/v1", "n", SECRET)
    with pytest.raises(UserError, match=re.escape("'localhost:1' does not begin with http")):
        Endpoint.from_environment(base_url="localhost:1")


def completion(content: Any, **message: Any) -> bytes:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": "stop"}
    return orjson.dumps({"choices": [choice]})


@pytest.mark.parametrize(
    ("content", "text", "thought"),
    [
        ("[[A]]", "[[A]]", False),
        (None, "", False),
        ([{"type": "text", "text": "Dry.\n"}, {"type": "text", "text": "[[1]]"}], "Dry.\n[[1]]", False),
        ([{"type": "output_text", "text": "[[1]]"}], "[[1]]", False),
        ([{"type": "text", "text": {"value": "[[1]]", "annotations": []}}], "[[1]]", False),
        (["[[1]]"], "[[1]]", False),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "[[4]]"}]},
                {"type": "text", "text": "[[1]]"},
            ],
            "[[1]]",
            True,
        ),
        ([{"type": "reasoning", "text": "[[4]]"}], "", True),
    ],
)
def test_content_in_parts_is_read_without_its_thinking(content: Any, text: str, thought: bool) -> None:
    reply = client._read(completion(content))
    assert reply is not None
    assert (reply.text, reply.thought) == (text, thought)


def test_thinking_in_a_field_of_its_own_is_no_text() -> None:
    for name in ("reasoning_content", "reasoning"):
        reply = client._read(completion("", **{name: "[[A]]"}))
        assert reply is not None
        assert (reply.text, reply.thought) == ("", True)


@pytest.mark.parametrize("content", [5, {"text": "[[A]]"}, [5], [{"type": "text"}], [{"type": "text", "text": None}]])
def test_content_of_an_unknown_form_is_no_completion(content: Any) -> None:
    assert client._read(completion(content)) is None


def test_a_refusal_is_named() -> None:
    reply = client._read(completion(None, refusal="I cannot."))
    assert reply is not None
    assert (reply.text, reply.finish_reason) == ("", "refusal")


def test_replies_stored_by_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_text('{"key":"k","text":"t","finish_reason":"stop","prompt_tokens":1,"completion_tokens":2}\n')
    assert read_replies(path)["k"] == Reply("t", "stop", 1, 2)
