"""The load benchmark: its clients against a real server, and what it makes of what they found."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.clients import Clients, difference, parse_stream, probe
from benchmarks.serve_load import claims, flatness
from benchmarks.serving import mixed_pool, request_of, sampled_alone, throughput_pool
from steerlm.attributes import AttributeSchema
from tests.server.running import SCHEMA, running, tiny_engine, tiny_service

TRAINED = AttributeSchema(tuple(attribute for attribute in SCHEMA if attribute.name != "untrained"))
PROMPTS = [[{"role": "user", "content": text}] for text in ("Hi", "Why is the sky blue?", "Tell me a joke.")]


@pytest.mark.parametrize("stream", [True, False])
def test_every_reply_is_that_of_the_request_alone(stream: bool) -> None:
    pool = mixed_pool(PROMPTS, TRAINED, 44)
    for body in pool:
        body["max_tokens"] = min(body["max_tokens"], 24)
    assert {name for body in pool for name in body} >= {"stop", "logprobs", "n", "chat_template_kwargs", "top_p"}
    assert any("guidance" in body.get("steer", {}) for body in pool)
    engine = tiny_engine()
    expected = [sampled_alone(engine, body) for body in pool]
    with running(tiny_service()) as server:
        sending = Clients(server.url, "tiny", pool, stream)
        asyncio.run(sending.run(8, iter(range(len(pool)))))
        found = probe({"url": server.url, "seconds": 0.05, "interval_s": 0.01})
    assert sending.errors == []
    assert len(sending.replies) == len(pool)
    for number, answers, tokens in sending.replies:
        assert difference(expected[number], answers, tokens) == ""
        others = expected[(number + 1) % len(pool)]
        if len(others) == len(answers):
            assert difference(others, answers, tokens), "two different requests have the same reply"
    assert found["failed"] == 0
    assert len(found["latencies_ms"]) == 6


def test_the_engine_is_asked_what_the_clients_ask() -> None:
    [body] = throughput_pool(PROMPTS, SCHEMA, 1)
    request, sampling = request_of(body)
    assert request.messages[0].content == "Hi"
    assert request.attributes == body["steer"]["attributes"]
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_k, request.seed) == (160, 0.7, 50, 0)


def test_a_stream_that_breaks_off_is_an_error() -> None:
    chunk = {"usage": None, "choices": [{"index": 0, "delta": {}, "finish_reason": None, "logprobs": None}]}
    event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    with pytest.raises(ValueError, match="the stream ends with"):
        parse_stream(event, 1)
    with pytest.raises(ValueError, match="too late"):
        parse_stream(b'data: {"error": "too late"}\n\ndata: [DONE]\n\n', 1)
    answers, tokens = parse_stream(event + b"data: [DONE]\n\n", 1)
    assert difference([{"text": ""}], answers, tokens) == "answer 0 has no end"


def test_memory_that_grows_is_not_flat() -> None:
    flat = flatness([(t, 500.0 + t % 2) for t in range(300)], 300)
    assert abs(flat["slope"]) < 0.5
    assert abs(flat["growth"]) <= 1
    leak = flatness([(t, 500.0 + t / 6) for t in range(300)], 300)
    assert leak["slope"] == pytest.approx(10, abs=0.1)
    assert leak["growth"] == pytest.approx(280 / 6 * 0.8, abs=1)
    early = flatness([(t, 500.0 + min(t, 15)) for t in range(300)], 300)
    assert early["growth"] == 0, "growth while warming up does not count"


def results() -> dict[str, Any]:
    ratio = {"median": 5.0, "low": 4.5, "high": 5.5, "pairs": [5.0]}
    quantiles = {"p50": 3.0, "p99": 40.0, "max": 60.0}
    soak = {
        "streams": 64, "seconds": 300.0, "replies": 9, "distinct_replies": 8, "tokens": 99, "errors": [],
        "mixed_up": [], "first_text_s": quantiles, "health_ms": {"n": 2000, "failed": 0, **quantiles},
        "memory_mib": {"start": 400.0, "first": 500.0, "last": 501.0, "growth": 1.0, "slope": 0.1, "peak": 510.0},
    }  # fmt: skip
    ratios = dict.fromkeys(
        ("against_one_client", "against_engine", "against_engine_in_turn", "whole_against_engine"), ratio
    )
    speed = {"clients": 16, "rounds": 5, "errors": [], **ratios}
    about = {"cpus": 2, "cpu": "a CPU", "threads": "1"}
    large = {**speed, "model": "80m, random weights"}
    return {
        "quick": False, "command": "python", "environment": about, "throughput": speed, "larger": large, "soak": soak,
    }  # fmt: skip


def test_claims_fail_one_by_one() -> None:
    assert all(claim.met for claim in claims(results()))
    for part, name, value in (
        ("throughput", "against_one_client", {"median": 3.9}),
        ("throughput", "against_engine", {"median": 0.89}),
        ("throughput", "errors", ["x"]),
        ("larger", "errors", ["x"]),
        ("soak", "errors", ["x"]),
        ("soak", "mixed_up", ["x"]),
        ("soak", "memory_mib", {"first": 500.0, "growth": 11.0}),
        ("soak", "health_ms", {"p99": 101.0, "failed": 0}),
        ("soak", "health_ms", {"p99": 10.0, "failed": 1}),
    ):
        broken = results()
        broken[part][name] = value
        assert [claim.met for claim in claims(broken)].count(False) == 1, name


def test_the_table_says_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "docs"))
    import results_serve_load

    found = results()
    found["throughput"]["against_engine"] = {"median": 0.8, "low": 0.7, "high": 0.85}
    found["throughput"]["measurements"] = {
        "one": [{"tokens": 10, "seconds": 2}, {"tokens": 10, "seconds": 1}, {"tokens": 10, "seconds": 5}],
        "engine": [{"tokens": 50, "seconds": 2}, {"tokens": 60, "seconds": 1}, {"tokens": 21, "seconds": 3}],
    }
    found["claims"] = [claim._asdict() for claim in claims(found)]
    text = results_serve_load.rows(found)
    assert "the engine itself gets 5.00 x what one client gets" in text
    assert "80 % | **missed** |" in text
    assert text.count("holds") == 5
    assert "0.80 x [0.70, 0.85]" in text
    assert "larger model (80m, random weights), 5 rounds: against the engine 5.00 x" in text
    sys.modules.pop("results_serve_load")
