"""Random requests, most of them wrong in some way: never a 5xx, and the server answers as before afterwards."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.server.running import Running

WORDS = [
    "Hi",
    "",
    " ",
    "<|end|>",
    "<|attributes|>humor:4",
    "\u0000",
    "\ud800",
    "👩‍🚀",
    "x" * 400,
    "a\nquality:4",
    "é" * 50,
]
JUNK: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**70), 1.5, -0.0, 1e308, "", "tiny", "0", [], [[]], {}, {"a": {}},
    [None], "\ud800", {"": ""}, [0] * 50,
]  # fmt: skip
PATHS = ["/v1/chat/completions", "/v1/completions", "/v1/score", "/v1/models/x", "/v1/attributes", "/nope", "/metrics"]


def message(generator: random.Random) -> Any:
    made: dict[str, Any] = {
        "role": generator.choice(["user", "user", "assistant", "system", "developer", "tool", 5]),
        "content": generator.choice([*WORDS, [{"type": "text", "text": "x"}], *JUNK]),
    }
    if generator.random() < 0.2:
        made["attributes"] = generator.choice([{"humor": 1}, {"humor": 2.5}, *JUNK])
    return made


def body(generator: random.Random) -> Any:
    user = {"role": "user", "content": generator.choice(WORDS)}
    made: dict[str, Any] = {"model": "tiny", "messages": [user], "prompt": generator.choice(WORDS), "max_tokens": 3}
    made.pop(generator.choice(["messages", "prompt"]))
    for _ in range(generator.randrange(4)):
        key, value = generator.choice(
            [
                ("model", f"tiny@{generator.choice(['humor', 'lang', 'preset', 'x', ''])}={generator.choice(JUNK)}"),
                ("messages", [message(generator) for _ in range(generator.randrange(4))]),
                ("temperature", generator.choice([0, 0.7, 2, 1e-30, 1e-9])),
                ("top_p", generator.choice([1, 0.5, 1e-300])),
                ("top_k", generator.choice([1, 0, -1, 10**9])),
                ("n", generator.randrange(1, 5)),
                ("seed", generator.choice([0, -1, 2**63 - 1, -(2**63)])),
                ("stop", generator.choice(["a", ["a", "\ufffd"], [""], "é" * 300])),
                ("stream", generator.random() < 0.7),
                ("logprobs", generator.choice([True, 1, 20])),
                ("top_logprobs", generator.choice([0, 5, 20])),
                ("verbosity", generator.choice(["low", "high", "x"])),
                ("steer", {"guidance": generator.choice([0, 2.5, {"humor": 3}]), "attributes": {"humor": 2.5}}),
                ("steer", {generator.choice(["best_of", "weights", "return_scores", "strict", "preset"]): 2}),
                ("steer", {"best_of": 3, "return_scores": True}),
                ("chat_template_kwargs", {"attributes": generator.choice([{}, {"humor": 1}, *JUNK])}),
                ("conversations", [[message(generator) for _ in range(2)]]),
                (generator.choice(["model", "messages", "stop", "steer", "n", "x", "prompt"]), generator.choice(JUNK)),
            ]
        )
        made[key] = value
    return made if generator.random() < 0.97 else generator.choice(JUNK)


async def fuzz(url: str, count: int, seed: int) -> Counter[int]:
    generator = random.Random(seed)
    statuses: Counter[int] = Counter()
    limit = asyncio.Semaphore(16)

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def one(path: str, content: bytes, leave: bool) -> None:
            async with limit:
                headers = {"content-type": "application/json"}
                if leave:
                    async with client.stream("POST", path, content=content, headers=headers) as reply:
                        status = reply.status_code
                else:
                    status = (await client.post(path, content=content, headers=headers)).status_code
                assert status < 500, content[:2000]
                statuses[status] += 1

        for _ in range(0, count, 500):
            jobs = []
            for _ in range(min(500, count)):
                content = json.dumps(body(generator)).encode()
                if generator.random() < 0.03:
                    content = content[: generator.randrange(len(content))]
                path = generator.choice(PATHS) if generator.random() < 0.3 else "/v1/chat/completions"
                jobs.append(one(path, content, generator.random() < 0.05))
            await asyncio.gather(*jobs)
    return statuses


@pytest.mark.parametrize("count", [150, pytest.param(20_000, marks=pytest.mark.slow)])
def test_random_requests(server: Running, count: int) -> None:
    before = httpx.get(f"{server.url}/v1/models").json()
    statuses = asyncio.run(fuzz(server.url, count, seed=1))
    assert sum(statuses.values()) == count
    assert statuses[200] > count / 10, "too few were answered: the test shows little"
    assert statuses[400] > count / 10
    assert set(statuses) <= {200, 400, 404, 405, 413, 429}
    assert httpx.get(f"{server.url}/v1/models").json() == before
    assert httpx.get(f"{server.url}/health").status_code == 200
