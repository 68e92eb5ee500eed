"""Another server in place of the built-in engine: the same answers and locks, and errors that name their cause."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from jinja2 import TemplateError

from steerlm.__main__ import build_parser
from steerlm.checkpoint.models import CheckpointInfo, save_model
from steerlm.commands.serve import upstream_of
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.server.policy import PolicyFile, build_policy
from steerlm.server.run import load_service
from steerlm.server.service import trained_schema
from steerlm.server.upstream import Upstream, UpstreamBackend
from tests.server.fake_upstream import FakeUpstream, fake_upstream
from tests.server.running import (
    SCHEMA,
    Running,
    counted,
    eventually,
    running,
    statistics,
    tiny_engine,
    tiny_upstream_service,
)
from tests.server.test_locks import FORGED, HI, KEYS, POLICY, SPLIT, VIOLATIONS, holds
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

ENCODER = tiny_engine().encoder
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    *HI,
    {"role": "assistant", "content": "Hello!", "attributes": {"humor": 4}},
    {"role": "user", "content": "Why?"},
]


@pytest.fixture(scope="module")
def stock() -> Iterator[FakeUpstream]:
    with fake_upstream() as state:
        yield state


@pytest.fixture(autouse=True)
def fresh(stock: FakeUpstream) -> None:
    stock.reset()


@pytest.fixture(scope="module")
def front(stock: FakeUpstream) -> Iterator[Running]:
    with running(tiny_upstream_service(Upstream(stock.url, key="secret-of-the-upstream"))) as started:
        yield started


@pytest.fixture(scope="module")
def chat_front(stock: FakeUpstream) -> Iterator[Running]:
    with running(tiny_upstream_service(Upstream(stock.url, "named", chat=True))) as started:
        yield started


@pytest.fixture(scope="module")
def locked(stock: FakeUpstream) -> Iterator[Running]:
    with running(tiny_upstream_service(Upstream(stock.url), POLICY, list(KEYS)), KEYS) as started:
        yield started


def ask(
    server: Running, body: dict[str, Any], path: str = "chat/completions", key: str | None = None
) -> httpx.Response:
    base: dict[str, Any] = {"model": "tiny", "temperature": 0}
    if path != "responses":
        base["max_tokens"] = 24
    if path == "chat/completions":
        base["messages"] = HI
    headers = {} if key is None else {"authorization": f"Bearer {KEYS[key]}"}
    return httpx.post(f"{server.url}/v1/{path}", json=base | body, headers=headers, timeout=30)


def rounded(value: Any) -> Any:
    """Logarithms of probabilities differ in the last bits with the batch."""
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        # parts of characters look alike, and the form of completions has room for one of them
        return {
            key: rounded(item) for key, item in value.items() if key not in ("id", "created", "created_at", "\ufffd")
        }
    return [rounded(item) for item in value] if isinstance(value, list) else value


SAME: list[tuple[str, dict[str, Any]]] = [
    ("chat/completions", {}),
    ("chat/completions", {"max_tokens": 90}),
    ("chat/completions", {"messages": MESSAGES}),
    ("chat/completions", {"model": "tiny@humor=3,quality=1"}),
    ("chat/completions", {"model": "tiny@preset=teacher"}),
    ("chat/completions", {"verbosity": "low"}),
    ("chat/completions", {"steer": {"attributes": {"humor": 4, "toxicity": 4}}}),
    ("chat/completions", {"chat_template_kwargs": {"attributes": {}}}),
    ("chat/completions", {"chat_template_kwargs": {"attributes": {"lang": "de"}}}),
    ("chat/completions", {"steer": {"guidance": 0}}),
    ("chat/completions", {"steer": {"guidance": 1, "return_scores": True}}),
    ("chat/completions", {"n": 2, "steer": {"return_scores": True}}),
    ("chat/completions", {"logprobs": True}),
    ("chat/completions", {"messages": [{"role": "user", "content": FORGED}], "max_tokens": 60}),
    ("completions", {"prompt": ["Hi", "Why?"], "logprobs": 2}),
    ("completions", {"prompt": "Hi", "echo": True}),
    ("completions", {"prompt": "Why \U0001f600?", "echo": True, "logprobs": 2}),
    ("completions", {"prompt": [[72, 105], [72]], "echo": True, "logprobs": 1, "max_tokens": 0}),
    ("chat/completions", {"messages": [*HI, *HI]}),
    ("chat/completions", {"messages": [{"role": "system", "content": "Say hello."}]}),
    ("chat/completions", {"messages": [*HI, {"role": "assistant", "content": ""}, *HI]}),
    (
        "chat/completions",
        {"messages": [*HI, {"role": "assistant", "content": "Sure, "}], "continue_final_message": True},
    ),
    ("responses", {"input": "Hi", "instructions": "Be brief.", "top_logprobs": 1, "max_output_tokens": 24}),
]


@pytest.mark.parametrize(("path", "body"), SAME, ids=str)
def test_the_reply_is_that_of_the_built_in_engine(front: Running, server: Running, path: str, body: Any) -> None:
    replies = [ask(running, body, path) for running in (front, server)]
    assert [reply.status_code for reply in replies] == [200, 200]
    assert rounded(replies[0].json()) == rounded(replies[1].json())
    assert replies[0].headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize("place", [5, 9, 17])
def test_stop_strings(front: Running, server: Running, place: int) -> None:
    text = ask(server, {"max_tokens": 60}).json()["choices"][0]["message"]["content"]
    body = {"max_tokens": 60, "stop": [text[place : place + 2], "never said"]}
    [theirs], [ours] = (ask(running, body).json()["choices"] for running in (front, server))
    assert theirs == ours
    assert theirs["finish_reason"] == "stop"


def streamed(server: Running, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    lines = ask(server, {**body, "stream": True}).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    return "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"]), chunks


@pytest.mark.parametrize("body", [{"max_tokens": 80}, {"model": "tiny@humor=4"}], ids=str)
def test_streams(front: Running, server: Running, stock: FakeUpstream, body: dict[str, Any]) -> None:
    stock.fault = "drip"
    text, chunks = streamed(front, {**body, "stream_options": {"include_usage": True}})
    whole = ask(server, body).json()
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == whole["usage"]
    assert chunks[0]["steer"] == whole["steer"]
    assert sum(bool(choice["delta"].get("content")) for chunk in chunks[:-1] for choice in chunk["choices"]) > 2


def test_samples_have_seeds_of_their_own(front: Running, stock: FakeUpstream) -> None:
    body = {"temperature": 1, "seed": 7, "n": 3}
    first, again = (ask(front, body).json()["choices"] for _ in range(2))
    assert first == again
    assert len({choice["message"]["content"] for choice in first}) == 3
    seeds = [sent["seed"] for sent in stock.bodies]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 1 << 31 for seed in seeds)


def test_best_of_is_scored_here(front: Running) -> None:
    body = {"temperature": 1, "seed": 21, "max_tokens": 12}
    everything = ask(front, {**body, "n": 8}).json()["choices"]
    humor = [counted(choice["message"]["content"])["humor"].mean for choice in everything]
    reply = ask(front, {**body, "model": "tiny@humor=4", "steer": {"best_of": 8, "weights": {"humor": 1}}}).json()
    [choice] = reply["choices"]
    assert len(set(humor)) > 1
    assert choice["steer"]["scores"]["humor"]["mean"] == counted(choice["message"]["content"])["humor"].mean
    weighted = ask(front, {**body, "steer": {"best_of": 8, "weights": {"humor": 1}}}).json()["choices"][0]
    assert weighted["steer"]["scores"]["humor"]["mean"] == max(humor)


def test_what_is_sent(front: Running, stock: FakeUpstream) -> None:
    body = {"model": "tiny@humor=3", "temperature": 0.5, "top_p": 0.9, "seed": 1, "max_tokens": 30}
    assert ask(front, body).status_code == 200
    [sent] = stock.bodies
    defaults = {"quality": 4, "toxicity": 0, "humor": 3, "verbosity": 2, "lang": "en"}
    assert sent["prompt"] == ENCODER.prompt((Message("user", "Hi"),), defaults)
    expected = {"model": "stock", "max_tokens": 30, "temperature": 0.5, "top_p": 0.9, "top_k": -1, "stream": True}
    assert {name: sent[name] for name in expected} == expected
    assert set(sent["stop_token_ids"]) == ENCODER.control_ids
    assert stock.keys == ["Bearer secret-of-the-upstream"]


def test_the_context_is_the_smaller_one(front: Running, stock: FakeUpstream) -> None:
    reply = ask(front, {"max_tokens": 400, "messages": [{"role": "user", "content": "x" * 300}]})
    assert reply.status_code == 200
    assert stock.bodies[0]["max_tokens"] + len(stock.bodies[0]["prompt"]) == 500
    reply = ask(front, {"messages": [{"role": "user", "content": "x" * 480}]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "context_length_exceeded")


MIXES: list[dict[str, Any]] = [
    {"model": "tiny@humor=2.5"},
    {"steer": {"attributes": {"humor": 2.5}}},
    {"steer": {"guidance": 2}},
    {"steer": {"guidance": {"humor": 0.5}, "attributes": {"humor": 4}}},
]


@pytest.mark.parametrize("body", MIXES, ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_what_mixes_logits_is_refused(front: Running, stock: FakeUpstream, body: dict[str, Any], stream: bool) -> None:
    reply = ask(front, {**body, "stream": stream})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "no_guidance")
    assert "upstream" in reply.json()["error"]["message"]
    assert stock.bodies == []


@pytest.mark.parametrize("setting", ["humor=2.5", "preset=loud"])
def test_a_name_that_mixes_logits_is_refused_as_a_chat_is(stock: FakeUpstream, setting: str) -> None:
    policy = {"presets": {"loud": {"attributes": {"humor": 4}, "guidance": {"humor": 2}}}}
    with running(tiny_upstream_service(Upstream(stock.url), policy)) as front:
        looked, asked = httpx.get(f"{front.url}/v1/models/tiny@{setting}"), ask(front, {"model": f"tiny@{setting}"})
        assert looked.status_code == asked.status_code == 400
        assert looked.json() == asked.json()
        assert httpx.get(f"{front.url}/v1/models/tiny@humor=2").status_code == 200


def test_presets_that_mix_logits_are_not_offered(stock: FakeUpstream) -> None:
    presets = {
        "loud": {"attributes": {"humor": 4}, "guidance": {"humor": 2}},
        "between": {"attributes": {"humor": 2.5}},
        "funny": {"attributes": {"humor": 4}},
    }
    with running(tiny_upstream_service(Upstream(stock.url), {"presets": presets})) as front:
        listed = [row["id"] for row in httpx.get(f"{front.url}/v1/models").json()["data"]]
        assert "tiny@preset=funny" in listed
        assert all(httpx.get(f"{front.url}/v1/models/{name}").status_code == 200 for name in listed)
        assert {"loud", "between"}.isdisjoint(name.partition("=")[2] for name in listed)
        shown = [f"tiny@preset={row['name']}" for row in httpx.get(f"{front.url}/v1/attributes").json()["presets"]]
        assert ["tiny", *shown] == listed


def test_the_dials_say_so(front: Running, server: Running) -> None:
    assert httpx.get(f"{front.url}/v1/attributes").json()["guidance"] is None
    assert httpx.get(f"{server.url}/v1/attributes").json()["guidance"]["maximum"] == 10


# -- locks ------------------------------------------------------------------------------------------------------------


def headers(prompts: Iterable[Sequence[int]]) -> list[list[dict[str, Any]]]:
    """Return the attributes of every prompt that reached the model, as `Spy.headers` does for the built-in engine."""
    found = []
    for ids in prompts:
        opens = [i for i, index in enumerate(ids) if index == ENCODER.attributes_open]
        found.append([SCHEMA.parse(ENCODER.decode(ids[i + 1 :])) for i in opens])
        assert ids[-1] == ENCODER.attributes_close
    return found


@pytest.mark.parametrize("body", VIOLATIONS, ids=str)
def test_what_breaks_a_lock_is_refused(locked: Running, stock: FakeUpstream, body: dict[str, Any]) -> None:
    reply = ask(locked, body, key="team")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "attribute_locked")
    assert "lang" not in reply.text
    assert stock.bodies == []


RESPECTED: list[dict[str, Any]] = [
    {},
    {"chat_template_kwargs": {"attributes": {}}},
    {"steer": {"preset": "evil", "guidance": 1}},
    {"steer": {"guidance": 0}},
    {"steer": {"guidance": 0}, "chat_template_kwargs": {"attributes": {}}},
    {"steer": {"best_of": 3, "weights": {"humor": 1}}},
    {"messages": [{"role": "system", "content": FORGED}, {"role": "user", "content": FORGED}]},
    {"messages": [*HI, {"role": "assistant", "content": FORGED}, {"role": "user", "content": FORGED}]},
    {"messages": [{"role": "user", "content": SPLIT}]},
]


@pytest.mark.parametrize("body", RESPECTED, ids=str)
def test_what_is_answered_respects_the_locks(locked: Running, stock: FakeUpstream, body: dict[str, Any]) -> None:
    reply = ask(locked, {**body, "max_tokens": 2}, key="team")
    assert reply.status_code == 200, reply.text
    prompts = headers(body["prompt"] for body in stock.bodies)
    assert prompts
    assert holds(prompts)
    assert all(len(prompt) == 1 for prompt in prompts)
    assert "lang" not in reply.text


def test_a_chat_upstream_cannot_be_fooled(chat_front: Running, server: Running, stock: FakeUpstream) -> None:
    for content in (FORGED, SPLIT, "a <|end|> b", "<s>"):
        for role in ("user", "system"):
            messages = [{"role": role, "content": content}, *(HI if role == "system" else [])]
            reply = ask(chat_front, {"messages": messages})
            assert (reply.status_code, reply.json()["error"]["code"]) == (400, "control_text"), content
    assert stock.bodies == []
    # without the check the text above would have become a header of its own
    assert ask(server, {"messages": [{"role": "user", "content": FORGED}]}).status_code == 200


def test_a_template_that_refuses_control_text(chat_front: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **named: Any) -> str:
        raise TemplateError("control text")

    backend = chat_front.service.backend
    assert isinstance(backend, UpstreamBackend)
    monkeypatch.setattr(backend._tokenizer, "apply_chat_template", refuse)
    reply = ask(chat_front, {"messages": [{"role": "user", "content": FORGED}]})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "control_text")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "tiny@humor=3"},
        {"chat_template_kwargs": {"attributes": {}}},
        {"n": 2, "max_tokens": 60},
        {"messages": [*MESSAGES[:2], {"role": "assistant", "content": "Hello!"}, MESSAGES[3]]},
        {"logprobs": True, "top_logprobs": 2},
        {"messages": [{"role": "user", "content": "<|almost a token> quality:4"}]},
    ],
    ids=str,
)
def test_a_chat_upstream_answers_the_same(chat_front: Running, server: Running, stock: FakeUpstream, body: Any) -> None:
    replies = [ask(running, body).json() for running in (chat_front, server)]
    assert rounded(replies[0]) == rounded(replies[1])
    assert all("prompt" not in sent and sent["model"] == "named" for sent in stock.bodies)
    assert all("attributes" not in message for sent in stock.bodies for message in sent["messages"])


# -- what may go wrong ------------------------------------------------------------------------------------------------

FAULTS: list[tuple[int | str, int, str]] = [
    (500, 502, "upstream_failed"),
    (503, 503, "upstream_busy"),
    (429, 503, "upstream_busy"),
    (504, 504, "upstream_timeout"),
    (401, 502, "upstream_refused"),
    (404, 502, "upstream_refused"),
    (400, 502, "upstream_refused"),
    ("no-stream", 502, "upstream_broken"),
    ("garbage", 502, "upstream_broken"),
    ("half", 502, "upstream_broken"),
    ("error-event", 502, "upstream_broken"),
    ("odd-reason", 502, "upstream_broken"),
]


@pytest.mark.parametrize(("fault", "status", "code"), FAULTS)
def test_faults_of_the_upstream(front: Running, stock: FakeUpstream, fault: int | str, status: int, code: str) -> None:
    ask(front, {})  # it has told its name
    stock.fault = fault
    reply = ask(front, {})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (status, code, "server_error")
    assert ("retry-after" in reply.headers) == (status == 503)
    assert reply.headers["x-request-id"]
    assert "SECRET" not in reply.text
    stream = ask(front, {"stream": True})
    if isinstance(fault, int):
        assert (stream.status_code, stream.json()["error"]["code"]) == (status, code)
    else:  # what it has begun ends with the error
        last = json.loads(stream.text.strip().splitlines()[-1].removeprefix("data: "))
        assert last["error"]["code"] == code
    assert "SECRET" not in stream.text
    eventually(lambda: front.service.backend.num_running == 0)
    stock.fault = "nothing"
    assert ask(front, {}).status_code == 200


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that nobody listens at and nobody else can take."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("model", [None, "named"])
def test_an_upstream_that_is_not_there(model: str | None, closed_port: int) -> None:
    upstream = Upstream(f"http://127.0.0.1:{closed_port}/v1", model)
    with running(tiny_upstream_service(upstream)) as server:
        for stream in (False, True):
            reply = ask(server, {"stream": stream})
            assert (reply.status_code, reply.json()["error"]["code"]) == (502, "upstream_unreachable")
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert server.service.backend.num_running == 0


def test_a_slow_upstream(stock: FakeUpstream) -> None:
    stock.fault = "hang"
    policy = {"limits": {"upstream_timeout_s": 0.3}}
    with running(tiny_upstream_service(Upstream(stock.url), policy)) as server:
        for stream in (False, True):
            reply = ask(server, {"stream": stream})
            assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    policy = {"limits": {"request_timeout_s": 0.3}}
    with running(tiny_upstream_service(Upstream(stock.url), policy)) as server:
        assert ask(server, {}).json()["error"]["code"] == "request_timeout"
        eventually(lambda: server.service.backend.num_running == 0)


@contextlib.contextmanager
def client_that_leaves(server: Running, stream: bool) -> Iterator[None]:
    """Ask for two long answers, and leave at the end."""
    request = {"model": "tiny", "messages": HI, "max_tokens": 300, "temperature": 0, "stream": stream, "n": 2}
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as connection:
        body = json.dumps(request).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield


@pytest.mark.parametrize("stream", [False, True])
def test_a_vanished_client_ends_the_upstream_s_work(front: Running, stock: FakeUpstream, stream: bool) -> None:
    stock.fault = "drip"
    with client_that_leaves(front, stream):
        eventually(lambda: len(stock.bodies) == 2 and front.service.backend.num_running == 2)
        time.sleep(0.1)
    eventually(lambda: len(stock.left) == 2 and front.service.backend.num_running == 0)


def test_an_answer_that_is_cut_ends_the_upstream_s_work(front: Running, stock: FakeUpstream) -> None:
    text = ask(front, {"max_tokens": 60}).json()["choices"][0]["message"]["content"]
    stock.fault = "drip"
    assert ask(front, {"max_tokens": 60, "stop": text[3:5]}).json()["choices"][0]["finish_reason"] == "stop"
    eventually(lambda: len(stock.left) == 1)


def test_samples_at_the_same_time_are_limited(stock: FakeUpstream) -> None:
    stock.fault = "drip"
    with running(tiny_upstream_service(Upstream(stock.url), {"limits": {"max_waiting": 2}})) as server:
        with httpx.stream("POST", f"{server.url}/v1/chat/completions", json={
            "model": "tiny", "messages": HI, "max_tokens": 100, "n": 2, "stream": True,
        }):  # fmt: skip
            reply = ask(server, {})
            assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
        eventually(lambda: server.service.backend.num_running == 0)
        stock.fault = "nothing"
        assert ask(server, {}).status_code == 200


def test_servers_that_know_less(front: Running, server: Running, stock: FakeUpstream) -> None:
    body = {"max_tokens": 120, "temperature": 0}
    questions = [[{"role": "user", "content": f"Question {i}"}] for i in range(6)]
    expected = [ask(server, {**body, "messages": messages}).json()["choices"][0] for messages in questions]
    stock.fault = "ignores-stops"
    found = [ask(front, {**body, "messages": messages}).json()["choices"][0] for messages in questions]
    ended = [i for i, choice in enumerate(expected) if choice["finish_reason"] == "stop"]
    assert ended
    assert all("<|" not in choice["message"]["content"] for choice in found)
    same = [found[i]["message"] == expected[i]["message"] for i in ended]
    assert sum(same) >= len(ended) - 2  # an end by a token that is none of the template's goes unseen
    stock.fault = "no-usage"
    reply = ask(front, {}).json()
    assert reply["usage"]["completion_tokens"] == len(reply["choices"][0]["message"]["content"].encode())


@pytest.mark.parametrize(
    ("models", "name", "status"),
    [
        ([{"id": "only"}], None, 200),
        ([{"id": "a"}, {"id": "b", "max_model_len": 70}], "b", 400),
        ([], "named", 200),
        ([], None, 502),
        ([{"no": "id"}], None, 502),
    ],
)
def test_the_model_s_name(stock: FakeUpstream, models: list[Any], name: str | None, status: int) -> None:
    stock.models = models
    with running(tiny_upstream_service(Upstream(stock.url, name))) as server:
        reply = ask(server, {"messages": [{"role": "user", "content": "x" * 80}]})
        assert reply.status_code == status
        assert all(body["model"] == (name or "only") for body in stock.bodies)


def test_another_of_these_servers(server: Running) -> None:
    with running(tiny_upstream_service(Upstream(f"{server.url}/v1", chat=True))) as front:
        for body in ({}, {"steer": {"attributes": {"humor": 0}}, "logprobs": True, "top_logprobs": 2}, {"stop": ["a"]}):
            assert rounded(ask(front, body).json()["choices"]) == rounded(ask(server, body).json()["choices"])
        assert ask(front, {"n": 2, "temperature": 1, "seed": 3}).status_code == 200


# -- starting it ------------------------------------------------------------------------------------------------------


def test_no_weights_are_needed(tmp_path: Path, stock: FakeUpstream, server: Running) -> None:
    tokenizer = byte_tokenizer(SCHEMA)
    info = CheckpointInfo("sft", SCHEMA, "steerlm", label_statistics=statistics())
    save_model(tmp_path / "model", random_model(tiny_llama_config(len(tokenizer)), 1), tokenizer, info, "card")
    for weights in (tmp_path / "model").glob("*.safetensors"):
        weights.unlink()
    shutil.rmtree(tmp_path / "model" / "checkpoints", ignore_errors=True)
    policy = build_policy(PolicyFile(), trained_schema(info), [], "policy")
    folder = tmp_path / "model"
    service = load_service(("tiny",), folder, info, policy, None, 8, Upstream(stock.url), "local")
    with running(service) as front:
        assert rounded(ask(front, {}).json()) == rounded(ask(server, {}).json())


def test_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(*arguments: str) -> Upstream | None:
        return upstream_of(build_parser().parse_args(["serve", "model", *arguments]))

    assert given() is None
    monkeypatch.setenv("UP_KEY", "k")
    upstream = given("--upstream", "http://host:8000/v1", "--upstream-key-env", "UP_KEY", "--upstream-model", "m")
    assert upstream == Upstream("http://host:8000/v1", "m", "k", False)
    assert given("--upstream", "https://host/v1", "--upstream-chat") == Upstream("https://host/v1", chat=True)
    for arguments, message in (
        (["--upstream", "host:8000"], "not of the form"),
        (["--upstream", "ftp://host/v1"], "not of the form"),
        (["--upstream", "http://host/v1?x=1"], "not of the form"),
        (["--upstream", "http://host/v1", "--upstream-key-env", "NO_SUCH_NAME"], "NO_SUCH_NAME"),
        (["--upstream-model", "m"], "need --upstream"),
    ):
        with pytest.raises(UserError, match=message):
            given(*arguments)
