"""Clients of a server that check what they get, for `serve_load`; free of torch, so that they start at once.

    python -m benchmarks.clients ROLE JOB.json      (run by `serve_load`; writes its answer to standard output)

Roles: `clients` sends requests, each client one after the other, and reads the answers; `probe` asks for the
server's health at fixed intervals.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

Body = dict[str, Any]


class Clients:
    """Clients that each send one request after the other and read the answers, streamed or whole.

    Attributes:
        errors: what went wrong, in words.
        replies: number of the request, its answers (text, finish reason, tokens where logprobs were asked for) and
            their tokens in all.
        first_text_s: time to the first piece of every reply.
    """

    def __init__(self, url: str, model: str, pool: Sequence[Body], stream: bool) -> None:
        self._url, self._model, self._pool, self._stream = url, model, pool, stream
        self.errors: list[str] = []
        self.replies: list[tuple[int, list[dict[str, Any]], int]] = []
        self.first_text_s: list[float] = []

    async def run(self, count: int, order: Iterator[int], until: float | None = None) -> float:
        """Let `count` clients share the requests of `order`, until a time if one is given; returns the seconds."""
        limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
        async with httpx.AsyncClient(limits=limits, timeout=120, trust_env=False) as session:

            async def client() -> None:
                for number in order:
                    if until is not None and time.monotonic() >= until:
                        return
                    await self._ask(session, number)

            began = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(count)))
            return time.perf_counter() - began

    async def _ask(self, session: httpx.AsyncClient, number: int) -> None:
        body = {**self._pool[number], "model": self._model}
        if self._stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        began = time.perf_counter()
        pieces: list[bytes] = []
        try:
            async with session.stream("POST", f"{self._url}/v1/chat/completions", json=body) as response:
                async for piece in response.aiter_raw():
                    pieces.append(piece)
                    if len(pieces) == 2:
                        self.first_text_s.append(time.perf_counter() - began)
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}: {b''.join(pieces)[:200]!r}")
            whole = b"".join(pieces)
            answers, tokens = parse_stream(whole, body.get("n", 1)) if self._stream else parse_reply(whole)
            self.replies.append((number, answers, tokens))
        except (httpx.HTTPError, ValueError, KeyError) as error:
            self.errors.append(f"request {number}: {type(error).__name__}: {error}")


def parse_stream(raw: bytes, count: int) -> tuple[list[dict[str, Any]], int]:
    """Return the answers in a stream of server-sent events, and how many tokens they have together.

    Raises:
        ValueError: it is cut off, or an error ends it.
    """
    *events, last = [
        event.removeprefix(b"data: ") for event in raw.split(b"\n\n") if event and not event.startswith(b":")
    ]
    if last != b"[DONE]":
        raise ValueError(f"the stream ends with {last[:200]!r}")
    answers: list[dict[str, Any]] = [{"text": "", "finish_reason": None, "tokens": None} for _ in range(count)]
    tokens = 0
    for event in map(json.loads, events):
        if "error" in event:
            raise ValueError(event["error"])
        if event["usage"] is not None:
            tokens = event["usage"]["completion_tokens"]
        for choice in event["choices"]:
            answer = answers[choice["index"]]
            if answer["finish_reason"] is not None:
                raise ValueError("text after the end of an answer")
            answer["text"] += choice["delta"].get("content", "")
            answer["finish_reason"] = choice["finish_reason"]
            if choice["logprobs"] is not None:
                answer["tokens"] = (answer["tokens"] or []) + _spoken(choice["logprobs"])
    return answers, tokens


def parse_reply(raw: bytes) -> tuple[list[dict[str, Any]], int]:
    """Return the answers of a reply that is not streamed, and how many tokens they have together."""
    reply = json.loads(raw)
    answers = []
    for choice in sorted(reply["choices"], key=lambda choice: int(choice["index"])):
        logprobs = choice["logprobs"]
        tokens = None if logprobs is None else _spoken(logprobs)
        text, reason = choice["message"]["content"], choice["finish_reason"]
        answers.append({"text": text, "finish_reason": reason, "tokens": tokens})
    return answers, reply["usage"]["completion_tokens"]


def _spoken(logprobs: Mapping[str, Any]) -> list[str]:
    """Return the tokens as text; a reply spells parts of characters by their bytes."""
    rows = [(row["token"], row["bytes"]) for row in logprobs["content"]]
    return [token if known is None else bytes(known).decode(errors="replace") for token, known in rows]


def difference(expected: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]], tokens: int) -> str:
    """Say how a reply differs from the request sampled alone; empty where it does not."""
    for index, (alone, answer) in enumerate(zip(expected, answers, strict=True)):
        for name in ("text", "finish_reason", "tokens"):
            if name in alone and answer[name] is not None and answer[name] != alone[name]:
                return f"{name} of answer {index}: {answer[name]!r} in place of {alone[name]!r}"
        if answer["finish_reason"] is None:
            return f"answer {index} has no end"
    if all("num_tokens" in alone for alone in expected):
        wanted = sum(alone["num_tokens"] for alone in expected)
        return "" if tokens == wanted else f"{tokens} tokens in place of {wanted}"
    return ""


def clients(job: Mapping[str, Any]) -> Any:
    """Send requests: all of the pool once, or for some minutes in random order with every reply checked."""
    pool = job["pool"]
    sending = Clients(job["url"], job["name"], pool, job.get("stream", True))
    seconds = job.get("seconds")
    if seconds is None:
        order: Iterator[int] = iter(range(len(pool)))
        took = asyncio.run(sending.run(job["clients"], order))
    else:
        draw = random.Random(0)
        order = (draw.randrange(len(pool)) for _ in itertools.count())
        took = asyncio.run(sending.run(job["clients"], order, time.monotonic() + seconds))
    found: dict[str, Any] = {
        "seconds": took,
        "cpu_seconds": time.process_time(),
        "tokens": sum(tokens for _, _, tokens in sending.replies),
        "replies": len(sending.replies),
        "errors": sending.errors,
        "first_text_s": sending.first_text_s,
    }
    if "expected" in job:
        wrong = [(n, difference(job["expected"][n], answers, tokens)) for n, answers, tokens in sending.replies]
        found["mixed_up"] = [f"request {number}: {what}" for number, what in wrong if what]
        found["distinct"] = len({number for number, _, _ in sending.replies})
    else:
        found["texts"] = [answers[0]["text"] for _, answers, _ in sorted(sending.replies, key=lambda reply: reply[0])]
    return found


def probe(job: Mapping[str, Any]) -> Any:
    """Ask for the server's health at fixed intervals, whether or not the last answer came late."""
    host, port = job["url"].removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    latencies, failed = [], 0
    began = time.perf_counter()
    for number in itertools.count():
        due = number * job["interval_s"]
        if due > job["seconds"]:
            break
        time.sleep(max(0.0, began + due - time.perf_counter()))
        asked = time.perf_counter()
        try:
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            failed += response.status != 200
        except (OSError, http.client.HTTPException):
            failed += 1
            connection.close()
        latencies.append(1e3 * (time.perf_counter() - asked))
    connection.close()
    return {"latencies_ms": latencies, "failed": failed}


ROLES = {"clients": clients, "probe": probe}

if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))))
