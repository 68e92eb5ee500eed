"""Who gets in, and how much one request may use: keys, hosts, limits, clients that are slow or vanish."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from steerlm.__main__ import main
from steerlm.errors import UserError
from steerlm.server.gate import Keys, load_keys
from steerlm.server.page import PAGE_ROUTES
from steerlm.server.run import check_exposure, is_loopback, served_names
from tests.server.running import Running, eventually, running, tiny_service

KEYS = {"a": "key-a-0123456789abc", "b": "key-b-0123456789abc"}
HI = [{"role": "user", "content": "Hi"}]
LIMITS = {
    "max_body_bytes": 4000,
    "max_messages": 5,
    "max_new_tokens": 400,
    "max_samples": 4,
    "max_requests_per_key": 3,
    "max_waiting": 4,
    "body_timeout_s": 0.5,
    "write_timeout_s": 1.0,
}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def body(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": HI, "max_tokens": 2, **more}


@pytest.fixture(scope="module")
def closed() -> Iterator[Running]:
    with running(tiny_service({}, list(KEYS)), KEYS) as started:
        yield started


@pytest.fixture(scope="module")
def narrow() -> Iterator[Running]:
    """A server with small limits, a long context and two places in the batch."""
    with running(tiny_service({"limits": LIMITS}, batch_size=2, context=4096)) as started:
        yield started


def test_every_route_but_health_and_the_page_s_files_needs_a_key(closed: Running) -> None:
    routes = [route for route in closed.app.routes if isinstance(route, Route)]
    # FastAPI's own kind of route is one too
    assert {"/v1/chat/completions", "/metrics", "/openapi.json"} <= {route.path for route in routes}
    assert len(routes) == len(closed.app.routes), "a mount or websocket: this test must learn to call it"
    for route in routes:
        for method in route.methods or {"GET"}:
            url = closed.url + route.path.replace("{model:path}", "tiny")
            for headers in (
                {},
                bearer("wrong-key-0123456789"),
                {"authorization": "Bearer"},
                {"authorization": "Basic x"},
            ):
                status = httpx.request(method, url, headers=headers, json=body()).status_code
                if route.path == "/health" or route.path in PAGE_ROUTES:
                    assert status == 200
                else:
                    assert status == 401, (route.path, method)
    for path in ("/nope", "/v1/", "//health", "/health/", "/HEALTH", "/v1/chat/completions/", "/page/../v1/models"):
        assert httpx.get(closed.url + path).status_code == 401, path


def test_open_routes_hold_no_data_of_the_deployment(closed: Running) -> None:
    assert httpx.get(f"{closed.url}/health").json() == {"status": "ok"}
    for route in PAGE_ROUTES:
        text = httpx.get(closed.url + route).text
        assert KEYS["a"] not in text
        assert "humor" not in text
        assert "tiny" not in text


def test_each_key_opens(closed: Running) -> None:
    for key in KEYS.values():
        assert httpx.get(f"{closed.url}/v1/models", headers=bearer(key)).status_code == 200
        basic = base64.b64encode(f"any:{key}".encode()).decode()
        assert httpx.get(f"{closed.url}/v1/models", headers={"authorization": f"Basic {basic}"}).status_code == 200
    assert httpx.get(f"{closed.url}/v1/models", headers={"authorization": KEYS["a"]}).status_code == 401
    error = httpx.get(f"{closed.url}/v1/models").json()["error"]
    assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


def test_every_key_is_compared_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(first: bytes, second: bytes) -> bool:
        compared.append((len(first), len(second)))
        return first == second

    monkeypatch.setattr("steerlm.server.gate.hmac.compare_digest", compare)
    keys = Keys({"a": "x" * 20, "b": "y" * 20, "c": "z" * 20})
    assert [keys.find(f"Bearer {c * 20}") for c in "xyzw"] == ["a", "b", "c", None]
    assert compared == [(32, 32)] * 12


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    lines = ["# ours", "team-a  0123456789abcdef"]
    lines += ["team-b fedcba9876543210 # theirs", "", "team-c 0123456789abcdef#0123"]
    path.write_text("\n".join(lines), encoding="utf-8-sig")  # as Windows' editors write it
    keys = load_keys(path)
    assert keys.names == ["team-a", "team-b", "team-c"]
    assert keys.find("Bearer fedcba9876543210") == "team-b"
    assert keys.find("Bearer 0123456789abcdef#0123") == "team-c"
    for text, message in (
        ("", "holds no key"),
        ("a b c\n", ":1: a line is a name and a key"),
        ("a short\n", "fewer than 16"),
        ("a 0123456789abcdef\na 1123456789abcdef\n", ":2: the name 'a' or its key stands twice"),
        ("a 0123456789abcdef\nb 0123456789abcdef\n", "stands twice"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            load_keys(path)


def test_other_machines_need_keys() -> None:
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert is_loopback(host)
        check_exposure(host, Keys({}))
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", ""):
        with pytest.raises(UserError, match="--api-key-file"):
            check_exposure(host, Keys({}))
        check_exposure(host, Keys(KEYS))


def test_names_of_models(tmp_path: Path) -> None:
    assert served_names(Path("/runs/playground/bootstrap/model")) == ("bootstrap",)
    assert served_names(Path("/models/my@model")) == ("my-model",)
    (tmp_path / "run" / "bootstrap" / "model").mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").write_text("name: my@run\n", encoding="utf-8")
    assert served_names(tmp_path / "run" / "bootstrap" / "model") == ("my-run", "bootstrap")


def test_a_name_with_a_setting_s_sign_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "nowhere", "--name", "my@model"]) == 2
    assert "--name my@model: what follows an @ is a setting" in capsys.readouterr().err


def test_another_site_gets_no_answer(server: Running, closed: Running) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", ""):
        assert httpx.get(f"{server.url}/v1/models", headers={"host": host}).status_code in (400, 403), host
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
        assert httpx.get(f"{server.url}/v1/models", headers={"host": host}).status_code == 200, host
    # a form or text/plain needs no permission of the browser; JSON does, and is refused it
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        reply = httpx.post(
            f"{server.url}/v1/chat/completions", content=json.dumps(body()), headers={"content-type": content_type}
        )
        assert reply.status_code == 415
    reply = httpx.options(f"{server.url}/v1/chat/completions", headers={"origin": "https://evil.example"})
    assert reply.status_code == 405
    assert not [name for name in reply.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("request_body", "status", "code"),
    [
        (body(messages=[{"role": "user", "content": "x" * 5000}]), 413, "body_too_large"),
        (body(messages=HI * 6), 400, "too_many_messages"),
        (body(max_tokens=401), 400, "too_many_tokens"),
        (body(n=5), 400, "too_many_samples"),
        (body(steer={"best_of": 5}), 400, "too_many_samples"),
    ],
)
def test_limits_on_one_request(narrow: Running, request_body: Any, status: int, code: str) -> None:
    reply = httpx.post(f"{narrow.url}/v1/chat/completions", json=request_body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_too_many_tokens_are_told_of_the_limit_that_was_sent(narrow: Running, name: str) -> None:
    reply = httpx.post(f"{narrow.url}/v1/chat/completions", json={"model": "tiny", "messages": HI, name: 401})
    assert reply.json()["error"]["param"] == name


def raw(server: Running, head: str, content: bytes = b"") -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode() + content)
    return connection


def first_line(connection: socket.socket) -> bytes:
    with connection, connection.makefile("rb") as file:
        return file.readline()


def test_a_body_without_a_length_is_counted(narrow: Running) -> None:
    head = "Content-Type: application/json\r\nTransfer-Encoding: chunked"
    connection = raw(narrow, head, b"1000\r\n" + b" " * 4096 + b"\r\n")
    assert b" 413 " in first_line(connection)


def test_a_body_that_does_not_come_is_given_up(narrow: Running) -> None:
    connection = raw(narrow, "Content-Type: application/json\r\nContent-Length: 100", b"{")
    assert b" 408 " in first_line(connection)


def busy(server: Running, count: int, tokens: int = 400) -> list[socket.socket]:
    """Start streams and do not read them."""
    request = json.dumps({"model": "tiny", "messages": HI, "max_tokens": tokens, "stream": True, "n": 1}).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(request)}"
    return [raw(server, head, request) for _ in range(count)]


def slow_down(server: Running, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Make every step take a while, and no answer end by itself; returns the times of the steps, which grow."""
    decoder = server.engine.latest
    step = decoder.step
    steps: list[float] = []

    def slow() -> Any:
        time.sleep(0.02)
        steps.append(time.monotonic())
        return step()

    monkeypatch.setattr(decoder, "step", slow)
    monkeypatch.setattr(decoder, "_stop_ids", frozenset())
    return steps


def test_requests_of_one_key_are_counted(narrow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(narrow, monkeypatch)
    connections = busy(narrow, 3)
    eventually(lambda: narrow.service._running[None] == 3)
    reply = httpx.post(f"{narrow.url}/v1/chat/completions", json=body())
    assert (reply.status_code, reply.json()["error"]["code"]) == (429, "too_many_requests")
    assert reply.headers["retry-after"] == "1"
    assert httpx.get(f"{narrow.url}/health").status_code == 200
    for connection in connections:
        connection.close()
    eventually(lambda: narrow.service._running[None] == 0)
    assert httpx.post(f"{narrow.url}/v1/chat/completions", json=body()).status_code == 200


def test_the_queue_is_bounded(narrow: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    slow_down(narrow, monkeypatch)
    connections = busy(narrow, 2)
    eventually(lambda: narrow.local.scheduler.num_running == 2)
    with httpx.Client(base_url=narrow.url) as client:
        request = client.build_request("POST", "/v1/chat/completions", json=body(n=4, stream=True))
        waiting = client.send(request, stream=True)
        assert waiting.status_code == 200
        eventually(lambda: narrow.service._running[None] == 3)
        for connection in connections[:1]:
            connection.close()
        eventually(lambda: narrow.service._running[None] == 2)
        reply = client.post("/v1/chat/completions", json=body(n=4))
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
        waiting.close()
    for connection in connections[1:]:
        connection.close()
    eventually(lambda: narrow.local.scheduler.num_running == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_vanished_client_frees_its_place(narrow: Running, monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    steps = slow_down(narrow, monkeypatch)
    request = json.dumps(body(max_tokens=400, stream=stream)).encode()
    head = f"Content-Type: application/json\r\nContent-Length: {len(request)}"
    connection = raw(narrow, head, request)
    eventually(lambda: narrow.local.scheduler.num_running == 1)
    connection.close()
    eventually(lambda: narrow.local.scheduler.num_running == 0)
    assert len(steps) < 400, "it was written to its end for nobody"
    assert narrow.service._running[None] == 0


def test_time_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tiny_service({"limits": {"request_timeout_s": 0.3}}, context=4096)) as server:
        slow_down(server, monkeypatch)
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=body(max_tokens=2000))
        assert (reply.status_code, reply.json()["error"]["code"]) == (408, "request_timeout")
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=body(max_tokens=2000, stream=True))
        last = json.loads(reply.text.strip().splitlines()[-1].removeprefix("data: "))
        assert last["error"]["code"] == "request_timeout"
        eventually(lambda: server.local.scheduler.num_running == 0)


def test_a_stopped_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda raised: None)
    with running(tiny_service()) as server:

        def broken() -> Any:
            raise RuntimeError("the device is gone")

        monkeypatch.setattr(server.engine.latest, "step", broken)
        for _ in range(2):
            reply = httpx.post(f"{server.url}/v1/chat/completions", json=body())
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_stopped")
        assert httpx.get(f"{server.url}/health").status_code == 503
