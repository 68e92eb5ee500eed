"""LiteLLM and LangChain drive a server with their defaults; `pip install litellm langchain-openai`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.running import Running, running, tiny_service

pytestmark = [
    pytest.mark.slow,
    # what these packages do to themselves on being imported
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would look for prices elsewhere


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(tiny_service()) as started:
        yield started


@pytest.mark.parametrize("prefix", ["openai", "litellm_proxy", "hosted_vllm"])
def test_litellm(server: Running, prefix: str) -> None:
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    arguments: dict[str, Any] = {
        "model": f"{prefix}/tiny@humor=3", "api_base": f"{server.url}/v1", "api_key": "none",
        "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 24, "temperature": 0,
    }  # fmt: skip
    text = litellm.completion(**arguments).choices[0].message.content
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**arguments, stream=True)]
    assert text
    assert "".join(pieces) == text
    conversation = [*arguments["messages"], {"role": "assistant", "content": text}, {"role": "user", "content": "Why?"}]
    assert litellm.completion(**{**arguments, "messages": conversation}).usage.completion_tokens > 0


def test_litellm_s_responses(server: Running) -> None:
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    arguments: dict[str, Any] = {
        "model": "openai/tiny",
        "api_base": f"{server.url}/v1",
        "api_key": "none",
        "input": "Hi",
    }
    arguments["temperature"] = 0
    reply = litellm.responses(**arguments, max_output_tokens=24)
    assert reply.output[0].content[0].text
    kinds = [event.type for event in litellm.responses(**arguments, max_output_tokens=24, stream=True)]
    assert kinds[-1] in ("response.completed", "response.incomplete")


@pytest.mark.parametrize("responses", [False, True])
def test_langchain(server: Running, responses: bool) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    model = langchain.ChatOpenAI(
        model="tiny@humor=3", base_url=f"{server.url}/v1", api_key="none", temperature=0, max_tokens=24,
        use_responses_api=responses,
    )  # fmt: skip
    reply = model.invoke([("system", "Be brief."), ("human", "Hi")])
    assert reply.text
    assert reply.usage_metadata["output_tokens"] > 0
    streamed = "".join(chunk.text for chunk in model.stream([("system", "Be brief."), ("human", "Hi")]))
    assert streamed == reply.text
    again = model.invoke([("human", "Hi"), reply, ("human", "Why?")])
    assert again.text
    steered = model.bind(extra_body={"steer": {"attributes": {"humor": 1}}})
    with pytest.raises(Exception, match="humor is set to 3 and to 1"):
        steered.invoke("Hi")
