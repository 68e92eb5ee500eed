"""A thousand malformed attribute settings: all refused, each with the valid names and ranges."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.running import DIALS, Running

HI = [{"role": "user", "content": "Hi"}]
BAD_VALUES: list[Any] = [
    -1, 5, 4.5, -0.1, 1e308, -1e308, 10**40, True, False, None, "", "3", "4 ", "x", "\u0663", [], [1], {}, {"a": 1},
    "\u0000", "en,de", "0x1", "1e0", "NaN",
]  # fmt: skip
BAD_NAMES = [
    "humour",
    "Humor",
    "humor ",
    "",
    "untrained",
    "humor\u0000",
    "__class__",
    "a" * 300,
    "0",
    "quality,humor",
    "👍",
]


def settings(generator: random.Random) -> Iterator[Any]:
    """Yield settings that are no settings."""
    yield from (5, 1.5, "humor=1", [], ["humor"], True, [["humor", 1]])
    names = ["quality", "toxicity", "humor", "verbosity"]
    while True:
        good = {name: generator.randrange(5) for name in generator.sample(names, generator.randrange(3))}
        if generator.random() < 0.5:
            good.pop(name := generator.choice(names), None)
            yield {**good, name: generator.choice(BAD_VALUES)}
        elif generator.random() < 0.3:
            yield {**good, "lang": generator.choice([1, "fr", "EN", None, 0.5, ["en"], ""])}
        else:
            yield {**good, generator.choice(BAD_NAMES): generator.choice([0, 1, *BAD_VALUES])}


def in_some_way(setting: Any, generator: random.Random) -> dict[str, Any]:
    base: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 1}
    way = generator.randrange(4)
    if way == 0:
        return base | {"steer": {"attributes": setting}}
    if way == 1:
        return base | {"chat_template_kwargs": {"attributes": setting}}
    if way == 2:
        # what a name cannot spell differently from a good value is put in a list
        answer = {"role": "assistant", "content": "x", "attributes": setting}
        return base | {"messages": [*HI, answer, *HI]}
    return base | {"steer": {"guidance": {"humor": generator.choice([-1, 99, "x", None, [], {}, True])}}}


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_malformed_settings_are_refused_and_explained(server: Running, count: int) -> None:
    generator = random.Random(0)
    seen = 0
    with httpx.Client(base_url=server.url) as client:
        for setting in settings(generator):
            reply = client.post("/v1/chat/completions", json=in_some_way(setting, generator))
            assert reply.status_code == 400, setting
            error = reply.json()["error"]
            assert DIALS in error["message"], setting
            assert len(error["message"]) < 1000
            seen += 1
            if seen == count:
                break
    assert seen == count


@pytest.mark.parametrize(
    "suffix",
    [
        "@", "@humor", "@humor=", "@=1", "@humor=1,", "@,", "@humor=1,humor=2", "@humor=1,humor=1", "@humor=5",
        "@humor=-1", "@humor=1;quality=2", "@humor==1", "@humor=1=2", "@humour=1", "@humor=nan", "@humor=inf",
        "@humor=1e999", "@humor=true", "@humor=\u0661", "@lang=fr", "@lang=", "@untrained=1", "@preset=",
        "@preset=pirate", "@preset=teacher,preset=support", "@humor=" + "9" * 5000, "@" * 50,
        "@humor=0x1", "@humor=1 1",
    ],
)  # fmt: skip
def test_malformed_model_names(server: Running, suffix: str) -> None:
    reply = httpx.post(f"{server.url}/v1/chat/completions", json={"model": f"tiny{suffix}", "messages": HI})
    assert reply.status_code == 400
    assert DIALS in reply.json()["error"]["message"]
