"""What other clients and servers send, and what they must get: requests, addresses, streams, log-probabilities."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from openai import OpenAI
from starlette.routing import Route

from steerlm.conversation import Message
from steerlm.generation.detokenizing import ResponseText, TokenTexts
from steerlm.server.backend import Alternative, TokenLogProb
from steerlm.server.errors import ApiError
from steerlm.server.replies import chat_logprobs, completion_logprobs
from steerlm.server.service import alternating
from steerlm.server.upstream_events import read_events
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template
from tests.server.running import SCHEMA, Running, eventually, running, tiny_engine, tiny_service
from tests.tokenizer_families import FAMILIES

HI = [{"role": "user", "content": "Hi"}]


def ask(server: Running, body: dict[str, Any], path: str = "chat/completions", **more: Any) -> httpx.Response:
    base: dict[str, Any] = {"model": "tiny", "temperature": 0}
    if path != "responses":
        base["max_tokens"] = 8
    if path == "chat/completions":
        base["messages"] = HI
    return httpx.post(f"{server.url}/v1/{path}", json=base | body, **more)


def error(reply: httpx.Response) -> dict[str, Any]:
    found: dict[str, Any] = reply.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


# -- what an upstream's stream may hold -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=repr)
@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("separator", "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\x1f\x00\u200b\ufeff", ids=ascii)
def test_separators_in_an_upstream_s_stream_are_text(separator: str, size: int, end: str) -> None:
    text = f"{separator}one{separator}two\u2028"
    for field in ("data: ", "data:"):
        raw = json.dumps({"choices": [{"text": text}]}, ensure_ascii=False)
        raw = raw.replace(json.dumps(separator)[1:-1], separator)  # as it is, also where JSON would escape it
        assert asyncio.run(_read(raw, end, field, size)) == [text, ""]


async def _read(first: str, end: str, field: str, size: int) -> list[str]:
    last = json.dumps({"choices": [{"text": "", "finish_reason": "stop"}]})
    raw = "".join(f"{field}{data}{end}{end}" for data in (first, last, "[DONE]")).encode()

    async def parts() -> AsyncIterator[bytes]:
        yield f": comment{end}{end}".encode()
        for begin in range(0, len(raw), size):
            yield raw[begin : begin + size]

    reply = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=parts())
    return [event.text async for event in read_events(reply)]


# -- log-probabilities of a prompt ------------------------------------------------------------------------------------


def reference(ids: list[int]) -> torch.Tensor:
    """Log-probabilities of what follows each token, from the model itself."""
    model = tiny_engine()._model
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].float().log_softmax(-1)


@pytest.mark.parametrize("prompt", ["The capital is Berlin", "x", "a \U0001f600 b", "<|user|>quality:4"])
def test_echo_reports_the_prompt_s_log_probabilities(server: Running, prompt: str) -> None:
    [choice] = ask(server, {"prompt": prompt, "echo": True, "logprobs": 3, "max_tokens": 2}, "completions").json()[
        "choices"
    ]
    ids = tiny_engine().encoder.text_ids(prompt)
    logprobs = choice["logprobs"]
    assert choice["text"].startswith(prompt)
    assert len(logprobs["tokens"]) == len(ids) + 2
    assert logprobs["token_logprobs"][0] is logprobs["top_logprobs"][0] is None
    expected = reference(ids)
    for place, index in enumerate(ids[1:]):
        assert logprobs["token_logprobs"][place + 1] == pytest.approx(float(expected[place, index]), abs=1e-4)
        best = max(logprobs["top_logprobs"][place + 1].values())
        assert best == pytest.approx(float(expected[place].max()), abs=1e-4)
        assert len(logprobs["top_logprobs"][place + 1]) == 3
    offsets = logprobs["text_offset"]
    assert offsets[0] == 0
    assert offsets[len(ids)] == len(prompt)
    plain = prompt.isascii()
    assert not plain or offsets[: len(ids)] == list(range(len(ids)))
    assert not plain or "".join(logprobs["tokens"][: len(ids)]) == prompt


def test_a_harness_tells_continuations_apart(server: Running) -> None:
    """As lm-evaluation-harness does it: sums behind the context, without the token that was drawn."""
    encoder = tiny_engine().encoder
    context, sums = "The capital of Germany is", []
    for ending in (" Berlin", " zzqx"):
        ids = encoder.text_ids(context + ending)
        body = {"prompt": [ids], "max_tokens": 1, "logprobs": 1, "echo": True, "seed": 1}
        [choice] = ask(server, body, "completions").json()["choices"]
        sums.append(sum(choice["logprobs"]["token_logprobs"][len(encoder.text_ids(context)) : -1]))
        expected = reference(ids)
        start = len(encoder.text_ids(context))
        wanted = sum(float(expected[i - 1, ids[i]]) for i in range(start, len(ids)))
        assert sums[-1] == pytest.approx(wanted, abs=1e-3)
    assert sums[0] != sums[1]
    assert max(sums) < 0


def test_a_prompt_is_only_read_where_nothing_is_to_be_drawn(server: Running) -> None:
    reply = ask(server, {"prompt": ["ab", "cde"], "echo": True, "logprobs": 0, "max_tokens": 0}, "completions").json()
    assert [choice["text"] for choice in reply["choices"]] == ["ab", "cde"]
    assert [len(choice["logprobs"]["tokens"]) for choice in reply["choices"]] == [2, 3]
    assert reply["choices"][0]["logprobs"]["top_logprobs"] is None
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["length", "length"]
    assert reply["usage"] == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


def test_an_echo_is_streamed(server: Running) -> None:
    body = {"prompt": "a \U0001f600 b", "echo": True, "logprobs": 1, "stream": True}
    whole = ask(server, body | {"stream": False}, "completions").json()["choices"][0]
    lines = ask(server, body, "completions").text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines if "{" in line]
    assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
    for column in ("tokens", "token_logprobs", "text_offset"):
        told = [value for chunk in chunks if chunk["logprobs"] for value in chunk["logprobs"][column]]
        assert told == whole["logprobs"][column]


@pytest.mark.parametrize(
    ("prompt", "code"),
    [("", "invalid_value"), ("x" * 600, "context_length_exceeded"), ([[1, 10**6]], "invalid_value"),
     ([[]], "invalid_value"), ([1, -1], "invalid_value"), ("\ud800", "invalid_value")],
)  # fmt: skip
def test_prompts_that_cannot_be_read(server: Running, prompt: Any, code: str) -> None:
    body = json.dumps({"model": "tiny", "prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 0})
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{server.url}/v1/completions", content=body, headers=headers)
    assert (reply.status_code, error(reply)["code"]) == (400, code)
    assert error(reply)["param"] == "prompt"


# -- characters of several tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [False, True])
def test_offsets_count_characters(known: bool) -> None:
    pieces = [b"a", b" ", b"\xf0", b"\x9f", b"\x98", b"\x80", b" b", b"\xc3", b"\xa9", b"!"]
    entries = [TokenLogProb(p.decode(errors="replace"), -0.1, [], p if known else None) for p in pieces]
    answer: Any = SimpleNamespace(logprobs=entries)
    run: Any = SimpleNamespace(plan=SimpleNamespace(num_logprobs=0))
    told = completion_logprobs(answer, run, 0)
    assert told is not None
    assert told["text_offset"] == [0, 1, 2, 2, 2, 2, 3, 5, 5, 6]
    content: Any = chat_logprobs(answer, run, 0)
    raw = [entry["bytes"] for entry in content["content"]]
    assert raw == (
        [list(piece) for piece in pieces] if known else [*([97], [32]), *[None] * 4, [32, 98], None, None, [33]]
    )


def test_parts_of_characters_are_told_by_their_bytes(server: Running) -> None:
    [choice] = ask(server, {"logprobs": True, "top_logprobs": 20, "max_tokens": 30}).json()["choices"]
    entries = choice["logprobs"]["content"]
    assert any("\\x" in entry["token"] for entry in entries), "the random model writes parts of characters"
    for entry in entries:
        names = [other["token"] for other in entry["top_logprobs"] if other["bytes"]]
        assert len(set(names)) == len(names)
        assert all(other["bytes"] is not None for other in entry["top_logprobs"])
    raw = bytes(byte for entry in entries for byte in entry["bytes"])
    assert raw.decode(errors="replace").startswith(choice["message"]["content"])


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_texts_of_tokens_join(name: str) -> None:
    tokenizer = FAMILIES[name]()
    install_template(tokenizer, "steerlm", SCHEMA)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    texts = TokenTexts(encoder)
    for text in ("Why is the sky blue? Because", "caf\u00e9 \U0001f600 \u6f22\u5b57 end"):
        ids = encoder.text_ids(text)
        raw = [texts(index).bytes for index in ids]
        if None in raw or encoder.decode(ids).strip() != text:
            continue  # a tokenizer that does not know all characters
        assert b"".join(raw).decode().strip() == text  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_text_goes_on_where_it_was_left(name: str) -> None:
    tokenizer = FAMILIES[name]()
    install_template(tokenizer, "steerlm", SCHEMA)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    ids = encoder.text_ids("Why is the sky blue? Because the air")
    whole = encoder.decode(ids)
    for cut in range(1, len(ids)):
        growing = ResponseText(encoder, (), ids[:cut])
        for index in ids[cut:]:
            growing.push_all([index])
        assert encoder.decode(ids[:cut]) + growing.finish(ids[cut:]) == whole


# -- conversations ----------------------------------------------------------------------------------------------------

ODD = [
    ["user", "user"],
    ["system", "system", "user"],
    ["system", "developer", "user"],
    ["user", "assistant", "system", "user"],
    ["system"],
    ["assistant", "user"],
    ["user", "assistant"],
    ["user", "assistant", "assistant", "user"],
    ["assistant"],
]


@pytest.mark.parametrize("roles", ODD, ids="-".join)
def test_roles_may_follow_each_other_as_the_template_allows(server: Running, roles: list[str]) -> None:
    messages = [{"role": role, "content": f"text {number}"} for number, role in enumerate(roles)]
    encoder = tiny_engine().encoder
    reply = ask(server, {"messages": messages, "steer": {"best_of": 2}})
    assert reply.status_code == 200, reply.text
    said = [{**m, "role": "system" if m["role"] == "developer" else m["role"]} for m in messages]
    attributes = reply.json()["steer"]["attributes"]
    rendered = encoder._tokenizer.apply_chat_template(
        said, attributes=attributes, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert reply.json()["usage"]["prompt_tokens"] == len(rendered)


@pytest.mark.parametrize("content", ["", "  ", None, []])
def test_an_empty_answer_may_go_back(server: Running, content: Any) -> None:
    messages = [*HI, {"role": "assistant", "content": content}, {"role": "user", "content": "And?"}]
    assert ask(server, {"messages": messages}).status_code == 200
    without = {"role": "assistant", "tool_calls": []}
    assert ask(server, {"messages": [*HI, without, *HI]}).status_code == 200
    assert ask(server, {"messages": [{"role": "user", "content": None}]}).status_code == 400


def test_empty_answers_are_compared_with_others(server: Running) -> None:
    stop = [chr(code) for code in range(0x20, 0x7F)][:16]
    reply = ask(server, {"steer": {"best_of": 8}, "stop": stop, "temperature": 1, "seed": 3})
    assert reply.status_code == 200
    empty = ask(server, {"stop": ["\ufffd"], "steer": {"return_scores": True}}).json()["choices"][0]
    assert (empty["message"]["content"], empty["steer"]["scores"]) == ("", None)


def test_what_attribute_models_read() -> None:
    def conversation(*turns: str) -> list[Message]:
        roles = {"s": "system", "u": "user", "a": "assistant"}
        return [Message(roles[turn[0]], turn[1:]) for turn in turns]  # type: ignore[arg-type]

    for given, expected in (
        (("u1", "a2"), ("u1", "a2")),
        (("u1", "u2", "a3"), ("u1\n\n2", "a3")),
        (("s1", "u2", "a", "u3", "a4"), ("s1", "u2\n\n3", "a4")),
        (("a0", "u1", "s2", "a3"), ("s2", "u1", "a3")),
        (("s1", "a2"), ("u1", "a2")),
    ):
        assert alternating(conversation(*given)) == conversation(*expected)


def test_an_answer_goes_on(server: Running) -> None:
    [whole] = ask(server, {"max_tokens": 40}).json()["choices"]
    text = whole["message"]["content"]
    beginning = "Sure, here"
    messages = [*HI, {"role": "assistant", "content": beginning}]
    body = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False, "max_tokens": 20}
    reply = ask(server, body).json()
    engine = tiny_engine()
    prompt = engine.encoder.prompt((Message("user", "Hi"),), reply["steer"]["attributes"])
    assert reply["usage"]["prompt_tokens"] == len(prompt) + len(engine.encoder.text_ids(beginning))
    assert reply["choices"][0]["message"]["content"] != text[:20]
    lines = ask(server, body | {"stream": True}).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines if "{" in line]
    pieces = [chunk["delta"].get("content", "") for chunk in chunks]
    assert "".join(pieces) == reply["choices"][0]["message"]["content"]
    for wrong in (
        {"continue_final_message": True},
        {"messages": messages, "continue_final_message": True, "add_generation_prompt": True},
        {"add_generation_prompt": False},
        {"messages": [*HI, {**messages[1], "attributes": {"humor": 1}}], "continue_final_message": True},
    ):
        assert ask(server, wrong).status_code == 400


# -- fields -----------------------------------------------------------------------------------------------------------

NEUTRAL: list[tuple[str, Any]] = [
    ("reasoning_effort", None), ("audio", None), ("prediction", None), ("web_search_options", None), ("functions", []),
    ("function_call", None), ("function_call", "auto"), ("prompt_cache_retention", "24h"), ("tools", []),
    ("tool_choice", "auto"), ("presence_penalty", 0), ("frequency_penalty", 0.0), ("logit_bias", {}), ("store", False),
    ("response_format", {"type": "text"}), ("modalities", ["text"]), ("service_tier", "flex"), ("metadata", {}),
    ("stream_options", None), ("stop", None), ("stop", []), ("seed", None), ("n", None), ("user", "u"), ("min_p", 0),
    ("parallel_tool_calls", True), ("made_up_by_a_client", None), ("guided_json", None), ("steer", None),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), NEUTRAL, ids=str)
def test_neutral_fields_are_accepted(server: Running, name: str, value: Any) -> None:
    assert ask(server, {name: value}).status_code == 200


@pytest.mark.parametrize(
    "extra",
    [{"annotations": []}, {"tool_calls": []}, {"tool_calls": None}, {"refusal": None}, {"reasoning_content": None},
     {"reasoning_content": "Hm."}, {"audio": None}, {"function_call": None}, {"name": "x"}, {"id": None}],
    ids=str,
)  # fmt: skip
def test_answers_of_others_go_back(server: Running, extra: dict[str, Any]) -> None:
    messages = [*HI, {"role": "assistant", "content": "yo", **extra}, *HI]
    assert ask(server, {"messages": messages}).status_code == 200


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty", "presence_penalty is not supported"),
        ({"frequency_penalty": True}, "frequency_penalty", "not supported"),
        ({"tools": [{"type": "function"}]}, "tools", "tools are not supported"),
        ({"functions": [{"name": "f"}]}, "functions", "functions are not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"reasoning_effort": "high"}, "reasoning_effort", "not supported"),
        ({"modalities": ["text", "audio"]}, "modalities", "not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]},
         "messages.0.content.1", "images are not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.0.content.0", "audio"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages.0.content.0", "files are"),
        ({"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
         "messages.1.tool_calls", "tool_calls are not supported"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "tools are not supported"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_supported_is_named(server: Running, body: dict[str, Any], param: str, words: str) -> None:
    reply = ask(server, body)
    assert (reply.status_code, error(reply)["param"]) == (400, param)
    assert error(reply)["code"] == "unsupported_parameter"
    assert words in error(reply)["message"]


@pytest.mark.parametrize(
    ("content", "param", "message"),
    [
        (b'{"messages": [{"role": "user", "content": "my secret"}]}', "model", "model is missing"),
        (b'{"model": "tiny"}', "messages", "messages is missing"),
        (b'{"model": "tiny", "messages": [{"content": "x"}]}', "messages.0.role", "messages.0.role is missing"),
        (b'{"model": "tiny",\n "n": 1,}', None,
         "the body is not valid JSON: Expecting property name enclosed in double quotes at line 2, column 9"),
        (b"", None, "the body is missing"),
        (b"[1]", None, "the body must be a JSON object"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "temprature": 1}', "temprature",
         "unknown field temprature: did you mean temperature?"),
        (b'{"model": "tiny", "messages": [{"role": "user", "content": "x"}], "n": {"a": "my secret"}}', "n",
         "n: Input should be a valid integer"),
    ],
)  # fmt: skip
def test_errors_say_what_is_wrong(server: Running, content: bytes, param: str | None, message: str) -> None:
    headers = {"content-type": "application/json"}
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=content, headers=headers)
    assert (error(reply)["message"], error(reply)["param"]) == (message, param)
    assert error(reply)["code"] == "invalid_value"
    assert "secret" not in reply.text


@pytest.mark.parametrize(
    ("extra", "param", "words"),
    [
        ({"attributes": {"humor": 4}}, "attributes", "unknown field attributes: it belongs into steer"),
        ({"guidance": 2}, "guidance", "unknown field guidance: it belongs into steer"),
        ({"humor": 4}, "humor", "unknown field humor; a level of humor is set as steer.attributes.humor; attributes: "),
        ({"steer": {"humor": 4}}, "steer.humor", "a level of humor is set as steer.attributes.humor; attributes: "),
        ({"steer": {"temperature": 1}}, "steer.temperature", "unknown field steer.temperature; attributes: "),
    ],
)
def test_what_is_said_in_the_wrong_place_is_told_the_right_one(
    server: Running, extra: dict[str, object], param: str, words: str
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], **extra}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert (reply.status_code, error(reply)["param"]) == (400, param)
    assert words in error(reply)["message"]
    assert "did you mean" not in error(reply)["message"]


# -- HTTP -------------------------------------------------------------------------------------------------------------


def test_head_is_get_without_a_body(server: Running) -> None:
    for route in server.app.routes:
        assert isinstance(route, Route)
        if "GET" in (route.methods or ()):
            url = server.url + route.path.replace("{model:path}", "tiny")
            head, get = httpx.head(url), httpx.get(url)
            assert head.status_code == get.status_code == 200
            assert head.content == b""
            assert head.headers["content-type"] == get.headers["content-type"]
    assert httpx.head(f"{server.url}/nope").status_code == 404
    assert httpx.head(f"{server.url}/v1/chat/completions").status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "status", "hint"),
    [
        ("POST", "/chat/completions", 404, "under /v1: did you mean /v1/chat/completions?"),
        ("GET", "/models", 404, "/v1/models"),
        ("POST", "/v1/v1/chat/completions", 404, "did you mean /v1/chat/completions?"),
        ("POST", "//v1/chat/completions", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/chat/completions/", 404, "did you mean /v1/chat/completions?"),
        ("GET", "/v1/models/", 404, "did you mean /v1/models?"),
        ("POST", "/v1/Chat/Completions", 404, "did you mean /v1/chat/completions?"),
        ("POST", "/v1/chat/completion", 404, "did you mean '/v1/chat/completions'?"),
        ("POST", "/v1/embeddings", 404, "this server has /v1/"),
        ("POST", "/v1/messages", 404, "this server has /v1/"),
        ("GET", "/v1/chat/completions", 405, "use POST"),
        ("POST", "/v1/models", 405, "use GET"),
        ("DELETE", "/health", 405, "use GET"),
    ],
)
def test_wrong_addresses_are_told_the_right_one(
    server: Running, method: str, path: str, status: int, hint: str
) -> None:
    url = urllib.parse.urlsplit(server.url)
    with socket.create_connection((url.hostname, url.port)) as connection:  # httpx would clean the address
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: 2\r\nConnection: close\r\n\r\n{{}}".encode())
        whole = b"".join(iter(lambda: connection.recv(65536), b""))
    first, _, body = whole.partition(b"\r\n\r\n")
    assert first.split()[1] == str(status).encode()
    assert hint in json.loads(body)["error"]["message"]
    assert status == 404 or b"allow:" in first.lower()


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
def test_http_1_0_gets_no_chunks(server: Running, path: str) -> None:
    body = {"model": "tiny", "stream": True, "seed": 1}
    body |= {"chat/completions": {"messages": HI}, "completions": {"prompt": "Hi"}, "responses": {"input": "Hi"}}[path]
    content = json.dumps(body).encode()
    url = urllib.parse.urlsplit(server.url)
    with socket.create_connection((url.hostname, url.port)) as connection:
        head = f"POST /v1/{path} HTTP/1.0\r\nContent-Type: application/json\r\nHost: localhost\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        whole = b"".join(iter(lambda: connection.recv(65536), b""))
    first, _, got = whole.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in first.lower()
    assert f"content-length: {len(got)}".encode() in first.lower()
    events = [line for line in got.decode().split("\n\n") if line]
    assert all(event.startswith(("data: ", "event: ")) for event in events)
    assert ("[DONE]" in events[-1]) == (path != "responses")


def test_compressed_bodies_are_refused(server: Running) -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    reply = httpx.post(f"{server.url}/v1/chat/completions", content=b"x", headers=headers)
    assert (reply.status_code, error(reply)["code"]) == (415, "unsupported_media_type")


# -- pages of other origins -------------------------------------------------------------------------------------------

PAGE = "http://localhost:3000"
KEYS = {"team": "team-key-0123456789"}


@pytest.fixture(scope="module")
def open_to_a_page() -> Iterator[Running]:
    with running(tiny_service({"cors_origins": [PAGE]}, list(KEYS)), KEYS) as started:
        yield started


def test_another_origin_may_call(open_to_a_page: Running) -> None:
    asked = {"origin": PAGE, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "authorization,content-type,x-stainless-lang"
    preflight = httpx.options(f"{open_to_a_page.url}/v1/chat/completions", headers=asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == PAGE
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    key = {"authorization": f"Bearer {KEYS['team']}", "origin": PAGE}
    for path, headers, status in (("models", key, 200), ("models", {"origin": PAGE}, 401), ("nope", key, 404)):
        reply = httpx.get(f"{open_to_a_page.url}/v1/{path}", headers=headers)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (status, PAGE)
        assert "x-request-id" in reply.headers["access-control-expose-headers"]
    streamed = ask(open_to_a_page, {"stream": True}, headers=key)
    assert streamed.headers["access-control-allow-origin"] == PAGE


def test_others_may_not(open_to_a_page: Running, server: Running) -> None:
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    for started in (open_to_a_page, server):
        preflight = httpx.options(f"{started.url}/v1/chat/completions", headers=asked)
        assert preflight.status_code >= 400
        assert "access-control-allow-origin" not in preflight.headers
    assert "access-control-allow-origin" not in httpx.get(f"{server.url}/v1/models", headers={"origin": PAGE}).headers


# -- streams that wait ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [{}, {"steer": {"best_of": 3}}], ids=str)
@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_a_stream_that_waits_is_kept_alive(monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], path: str) -> None:
    monkeypatch.setattr("steerlm.server.streaming._PING_S", 0.05)
    with running(tiny_service()) as server:
        step = server.engine.latest.step

        def slow() -> Any:
            time.sleep(0.2)
            return step()

        monkeypatch.setattr(server.engine.latest, "step", slow)
        more = {"max_output_tokens": 3, "input": "Hi"} if path == "responses" else {"max_tokens": 3}
        text = ask(server, {**body, **more, "stream": True}, path).text
    first = text.index(": ping\n\n")
    assert text.index('"attributes"') < first
    assert 0 < first < text.rindex("data: ")
    blocks = [block for block in text.split("\n\n") if block]
    assert all(block == ": ping" or block.startswith(("data: ", "event: ")) for block in blocks)
    assert sum(block == ": ping" for block in blocks) >= 2


def test_a_stream_of_the_openai_client_lives_through_pings(monkeypatch: pytest.MonkeyPatch, server: Running) -> None:
    monkeypatch.setattr("steerlm.server.streaming._PING_S", 0.001)
    with OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        arguments: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 40, "temperature": 0}
        pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(**arguments, stream=True)]
        assert "".join(pieces) == client.chat.completions.create(**arguments).choices[0].message.content


# -- when to try again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "again"),
    [("model_stopped", False), ("upstream_refused", False), ("queue_full", True), ("model_failed", True)],
)
def test_what_is_over_is_not_tried_again(code: str, again: bool) -> None:
    headers = ApiError(code, "x").response().headers
    assert headers.get("retry-after") == ("1" if again else None)
    assert headers.get("x-should-retry") == (None if again else "false")


def test_a_dead_model_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda raised: None)
    with running(tiny_service()) as server:

        def broken() -> Any:
            raise RuntimeError("the device is gone")

        monkeypatch.setattr(server.engine.latest, "step", broken)
        assert ask(server, {}).status_code == 503
        eventually(lambda: not server.service.backend.running)
        for path, body in (("chat/completions", {}), ("completions", {"prompt": "a", "echo": True, "logprobs": 1})):
            reply = ask(server, body, path)
            assert (reply.status_code, error(reply)["code"]) == (503, "model_stopped")
            assert "retry-after" not in reply.headers
        asked = []
        http = httpx.Client(event_hooks={"request": [asked.append]})
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=http) as client, pytest.raises(Exception):
            client.chat.completions.create(model="tiny", messages=HI)
        assert len(asked) == 1, "the client's own retries"


# -- the Responses API ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_responses_are_the_chat_s_answers(client: OpenAI) -> None:
    arguments: dict[str, Any] = {"model": "tiny@humor=3", "temperature": 0}
    reply = client.responses.create(input="Hi", instructions="Be brief.", max_output_tokens=24, **arguments)
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, *HI]
    chat = client.chat.completions.create(messages=messages, max_tokens=24, **arguments)
    assert reply.output_text == chat.choices[0].message.content
    assert (reply.status, reply.error) == ("incomplete", None)
    assert reply.incomplete_details is not None
    assert reply.incomplete_details.reason == "max_output_tokens"
    assert reply.usage is not None
    assert chat.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )
    assert reply.model_extra is not None
    assert reply.model_extra["steer"]["attributes"]["humor"] == 3


def test_a_conversation_goes_on_by_its_own_items(client: OpenAI) -> None:
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    first = client.responses.create(model="tiny", input=items, temperature=0, max_output_tokens=12)
    items += [*(item.model_dump() for item in first.output), {"role": "user", "content": "Why?"}]
    second = client.responses.create(model="tiny", input=items, temperature=0, max_output_tokens=12)
    messages: list[Any] = [
        *HI,
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "Why?"},
    ]
    chat = client.chat.completions.create(model="tiny", messages=messages, max_tokens=12, temperature=0)
    assert second.output_text == chat.choices[0].message.content


@pytest.mark.parametrize("steer", [{}, {"best_of": 3, "return_scores": True}], ids=str)
def test_responses_are_streamed(client: OpenAI, steer: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"model": "tiny", "input": "Hi", "max_output_tokens": 40, "extra_body": {"seed": 3}}
    if steer:
        arguments["extra_body"]["steer"] = steer
    whole = client.responses.create(**arguments, include=["message.output_text.logprobs"])
    events = list(client.responses.create(**arguments, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert [event.sequence_number for event in events] == list(range(len(events)))
    last: Any = events[-1]
    assert last.type == f"response.{whole.status}"
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage
    with client.responses.stream(**arguments) as stream:
        assert stream.get_final_response().output_text == whole.output_text if whole.status == "completed" else True
    message: Any = whole.output[0]
    assert len(message.content[0].logprobs) > 0
    if steer:
        assert "humor" in message.model_extra["steer"]["scores"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", "send the whole conversation"),
        ({"conversation": "conv_1"}, "conversation", "send the whole conversation"),
        ({"tools": [{"type": "web_search"}]}, "tools", "not supported"),
        ({"background": True}, "background", "not supported"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format", "not supported"),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "not supported"),
        ({"input": [{"type": "function_call_output", "output": "1"}]}, "input.0", "tools are not supported"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0", "images"),
        ({"input": []}, "input", "at least 1 item"),
    ],
    ids=str,
)  # fmt: skip
def test_what_responses_have_not(server: Running, body: dict[str, Any], param: str, words: str) -> None:
    reply = ask(server, {"input": "Hi"} | body, "responses")
    assert (reply.status_code, error(reply)["param"]) == (400, param)
    assert words in error(reply)["message"]


def test_responses_respect_locks() -> None:
    with running(tiny_service({"attributes": {"toxicity": {"fixed": 0}}})) as server:
        assert ask(server, {"input": "Hi", "model": "tiny@toxicity=1"}, "responses").status_code == 403
        reply = ask(server, {"input": "Hi", "steer": {"attributes": {"humor": 1}}}, "responses")
        assert reply.json()["steer"]["attributes"] | {"toxicity": 0, "humor": 1} == reply.json()["steer"]["attributes"]
        quiet = ask(server, {"input": "Hi", "text": {"verbosity": "low"}}, "responses")
        assert quiet.json()["steer"]["attributes"]["verbosity"] == 0


def test_a_stream_of_responses_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tiny_service({"limits": {"request_timeout_s": 0.3}}, context=4096)) as server:
        monkeypatch.setattr(server.engine.latest, "_stop_ids", frozenset())
        text = ask(server, {"input": "Hi", "stream": True, "max_output_tokens": 4000}, "responses").text
    last = text.strip().split("\n\n")[-1]
    assert last.startswith("event: response.failed\ndata: ")
    assert "longer than 0.3 s" in json.loads(last.partition("data: ")[2])["response"]["error"]["message"]


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_model_answers_to_all_its_names() -> None:
    service = tiny_service()
    service.names = ("my-run", "bootstrap")
    with running(service) as server:
        assert ask(server, {"model": "my-run"}).status_code == 200
        assert ask(server, {"model": "bootstrap@humor=1"}).status_code == 200
        assert httpx.get(f"{server.url}/v1/models").json()["data"][0]["id"] == "my-run"
        assert "the model is 'my-run'" in error(ask(server, {"model": "tiny"}))["message"]


def test_alternatives_of_others_are_kept() -> None:
    entry = TokenLogProb("a", -0.1, [Alternative("a", -0.1), Alternative("\ufffd", -3.0, b"\xc3")], b"a")
    answer: Any = SimpleNamespace(logprobs=[entry])
    told = completion_logprobs(answer, SimpleNamespace(plan=SimpleNamespace(num_logprobs=2)), 0)  # type: ignore[arg-type]
    assert told is not None
    assert told["top_logprobs"] == [{"a": -0.1, "bytes:\\xc3": -3.0}]
