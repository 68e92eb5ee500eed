"""A local OpenAI-compatible endpoint with fault injection, on the loopback interface."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeEndpoint:
    """Answers chat completions; faults are used up one per request, in order, before it answers well.

    Args:
        answer: from the request's body to the text of the reply.
        faults: each `down`, `slow`, `garbage`, `half`, `cut`, `html`, `empty_choices`, `null`, `length`, or a status
            with headers `(429, {"Retry-After": "1"})` and, third, more of the error.
        delay_s: time that every good answer takes.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], str] = lambda body: "8 6\nfine",
        faults: list[Any] | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.answer = answer
        self.faults = list(faults or [])
        self.delay_s = delay_s
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.released = threading.Event()  # ends slow answers at the end of the test

    def __enter__(self) -> FakeEndpoint:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                endpoint.handle(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @property
    def num_requests(self) -> int:
        return len(self.bodies)

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self.lock:
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            fault = self.faults.pop(0) if self.faults else None
        try:
            self.reply(request, body, fault)
        finally:
            with self.lock:
                self.in_flight -= 1

    def reply(self, request: BaseHTTPRequestHandler, body: dict[str, Any], fault: Any) -> None:
        if fault == "down":
            request.close_connection = True
            return
        if fault == "slow":
            self.released.wait(30)
            return
        if isinstance(fault, tuple):
            error = {"message": "as asked", **(fault[2] if len(fault) > 2 else {})}
            send(request, fault[0], json.dumps({"error": error}), fault[1])
            return
        time.sleep(self.delay_s)
        choice = {"index": 0, "message": {"role": "assistant", "content": self.answer(body)}, "finish_reason": "stop"}
        if fault == "length":
            choice["finish_reason"] = "length"
        if fault == "null":
            choice["message"] = {"role": "assistant", "content": None}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        text = json.dumps(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 1,
                "model": body["model"],
                "choices": [] if fault == "empty_choices" else [choice],
                "usage": usage,
            }
        )
        if fault == "garbage":
            send(request, 200, "\x00 all work and no play \x7f")
        elif fault == "half":
            send(request, 200, text[: len(text) // 2])
        elif fault == "cut":
            send(request, 200, text[: len(text) // 2], {"Content-Length": str(len(text))})
        elif fault == "html":
            send(request, 200, "<html><body>Please log in</body></html>", {"Content-Type": "text/html"})
        else:
            send(request, 200, text)


def send(request: BaseHTTPRequestHandler, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    data = text.encode()
    request.send_response(status)
    for name, value in {
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        **(headers or {}),
    }.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(data)
    request.close_connection = True
