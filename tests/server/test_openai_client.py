"""The official OpenAI client against a real server: what existing programs do must work unchanged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion

from steerlm.conversation import Message
from steerlm.generation.engine import Request, Sampling
from tests.server.running import DIALS, Running, counted, tiny_engine

HI: list[Any] = [{"role": "user", "content": "Hi"}]
DEFAULTS = {"quality": 4, "toxicity": 0, "humor": 0, "verbosity": 2, "lang": "en"}
CONTROL = sorted(tiny_engine().encoder.control_ids)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client: OpenAI, **arguments: Any) -> ChatCompletion:
    defaults: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 24, "temperature": 0}
    completion: ChatCompletion = client.chat.completions.create(**(defaults | arguments))
    return completion


def steer(reply: Any) -> dict[str, Any]:
    extra: dict[str, Any] = reply.model_extra["steer"]
    return extra


def alone(attributes: Any, messages: tuple[Message, ...] = (Message("user", "Hi"),), **request: Any) -> list[str]:
    """What the engine says without a server, greedily."""
    samples = tiny_engine().generate([Request(messages, attributes, **request)], Sampling(24, temperature=0))
    return [sample.text for sample in samples[0]]


def streamed(client: OpenAI, **arguments: Any) -> tuple[dict[int, str], list[Any]]:
    defaults: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 24, "temperature": 0, "stream": True}
    chunks = list(client.chat.completions.create(**(defaults | arguments)))
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + (choice.delta.content or "")
    return texts, chunks


def refused(client: OpenAI, error: type[openai.APIStatusError], **arguments: Any) -> openai.APIStatusError:
    with pytest.raises(error) as caught:
        chat(client, **arguments)
    body = caught.value.body
    assert isinstance(body, dict)
    assert set(body) == {"message", "type", "param", "code"}
    assert caught.value.request_id is not None
    return caught.value


# -- what the model is ------------------------------------------------------------------------------------------------


def test_models_are_listed(client: OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[0] == "tiny"
    assert {"tiny@preset=teacher", "tiny@preset=support", "tiny@preset=plain-language"} <= set(names)


def test_a_model_is_retrieved(client: OpenAI) -> None:
    assert client.models.retrieve("tiny").owned_by == "steerlm"


def test_a_model_is_retrieved_by_whatever_name_it_can_be_asked_by(client: OpenAI) -> None:
    for name in ("tiny@preset=teacher", "tiny@humor=4", "tiny@humor=2.5,verbosity=1,preset=support"):
        chat(client, model=name)
        assert client.models.retrieve(name).id == name


def test_a_model_is_not_retrieved_with_a_setting_that_it_cannot_be_asked_with(client: OpenAI) -> None:
    for name in ("tiny@humor=9", "tiny@humour=1", "tiny@teacher", "tiny@preset=nobody"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.models.retrieve(name)
        assert caught.value.body == refused(client, openai.BadRequestError, model=name).body


def test_an_unknown_model_is_404(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
    assert refused(client, openai.NotFoundError, model="gpt-4").code == "model_not_found"


# -- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer_is_the_engine_s(client: OpenAI) -> None:
    reply = chat(client)
    assert reply.object == "chat.completion"
    assert reply.choices[0].message.content == alone(DEFAULTS)[0]
    assert reply.choices[0].message.role == "assistant"
    assert reply.choices[0].finish_reason in ("stop", "length")


def test_usage_counts_tokens(client: OpenAI) -> None:
    reply = chat(client, max_tokens=7, seed=1, temperature=1)
    assert reply.usage is not None
    engine = tiny_engine()
    prompt = engine.encoder.prompt((Message("user", "Hi"),), DEFAULTS)
    assert reply.usage.prompt_tokens == len(prompt)
    assert 1 <= reply.usage.completion_tokens <= 7
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_finish_reason_length_and_stop(client: OpenAI) -> None:
    reasons = {
        (choice.finish_reason, n)
        for n in (1, 200)
        for choice in chat(client, max_tokens=n, n=8, temperature=1, seed=3).choices
    }
    assert ("length", 1) in reasons
    assert ("stop", 200) in reasons


@pytest.mark.parametrize("n", [1, 2, 5])
def test_n_answers(client: OpenAI, n: int) -> None:
    reply = chat(client, n=n, temperature=1, seed=5)
    assert [choice.index for choice in reply.choices] == list(range(n))
    assert len({choice.message.content for choice in reply.choices}) == n


def test_a_seed_repeats(client: OpenAI) -> None:
    first, second = (chat(client, seed=7, temperature=1).choices[0].message.content for _ in range(2))
    other = chat(client, seed=8, temperature=1).choices[0].message.content
    assert first == second != other
    drawn = {chat(client, temperature=1).choices[0].message.content for _ in range(3)}
    assert len(drawn) > 1, "without a seed answers differ"


def test_top_p_and_top_k(client: OpenAI) -> None:
    greedy = chat(client).choices[0].message.content
    assert chat(client, temperature=1, top_p=1e-6, seed=1).choices[0].message.content == greedy
    assert chat(client, temperature=1, extra_body={"top_k": 1}).choices[0].message.content == greedy


def test_max_completion_tokens(client: OpenAI) -> None:
    reply = chat(client, max_tokens=openai.NOT_GIVEN, max_completion_tokens=3, seed=2, temperature=1)
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= 3


def test_a_system_message_and_history(client: OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "text", "text": "How "}, {"type": "text", "text": "are you?"}]},
    ]
    said = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello!"))
    expected = alone(DEFAULTS, (*said, Message("user", "How are you?")))
    assert chat(client, messages=messages).choices[0].message.content == expected[0]
    messages[0]["role"] = "developer"
    assert chat(client, messages=messages).choices[0].message.content == expected[0]


@pytest.mark.parametrize("dumped", [False, True])
def test_an_answer_goes_back_as_the_client_holds_it(client: OpenAI, dumped: bool) -> None:
    reply = chat(client).choices[0].message
    assert reply.content is not None
    earlier = {**reply.model_dump(), "parsed": None} if dumped else reply
    said = (Message("user", "Hi"), Message("assistant", reply.content), Message("user", "Why?"))
    asked = chat(client, messages=[*HI, earlier, {"role": "user", "content": "Why?"}])
    assert asked.choices[0].message.content == alone(DEFAULTS, said)[0]


def test_history_may_carry_its_attributes(client: OpenAI) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!", "attributes": {"humor": 4}},
        {"role": "user", "content": "Why?"},
    ]
    said = (Message("user", "Hi"), Message("assistant", "Hello!", {"humor": 4}), Message("user", "Why?"))
    assert chat(client, messages=messages).choices[0].message.content == alone(DEFAULTS, said)[0]


@pytest.mark.parametrize("places", [[9], [30], [12, 5]])
def test_stop_strings(client: OpenAI, places: list[int]) -> None:
    arguments: dict[str, Any] = {"temperature": 1, "seed": 1, "max_tokens": 120}
    [plain] = [choice.message.content or "" for choice in chat(client, **arguments).choices]
    strings = [plain[place : place + 2] for place in places]
    reply = chat(client, **arguments, stop=strings if len(strings) > 1 else strings[0])
    expected = plain[: min(plain.index(string) for string in strings)]
    assert reply.choices[0].message.content == expected
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert reply.usage.completion_tokens <= len((expected + plain[min(places) : min(places) + 2]).encode()) + 6
    texts, chunks = streamed(client, **arguments, stop=strings)
    assert texts[0] == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_logprobs(client: OpenAI) -> None:
    [choice] = chat(client, logprobs=True, top_logprobs=3).choices
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content
    for entry in content:
        assert entry.logprob <= 0
        assert len(entry.top_logprobs) == 3
        # greedy: the drawn token is the likeliest
        assert entry.logprob == entry.top_logprobs[0].logprob
        assert entry.token == entry.top_logprobs[0].token
    [choice] = chat(client, logprobs=True).choices
    assert choice.logprobs is not None
    assert choice.logprobs.content
    assert choice.logprobs.content[0].top_logprobs == []


def test_raw_response_has_a_request_id(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="tiny", messages=HI, max_tokens=2)
    assert raw.headers["x-request-id"].startswith("req-")
    assert raw.parse().id.startswith("chatcmpl-")


# -- streams ----------------------------------------------------------------------------------------------------------


def test_a_stream_is_the_answer(client: OpenAI) -> None:
    texts, chunks = streamed(client, temperature=1, seed=4, max_tokens=150)
    assert texts[0] == chat(client, temperature=1, seed=4, max_tokens=150).choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert len({chunk.id for chunk in chunks}) == 1
    assert steer(chunks[0])["attributes"] == DEFAULTS


def test_a_stream_of_several_answers(client: OpenAI) -> None:
    texts, _ = streamed(client, n=3, temperature=1, seed=4)
    reply = chat(client, n=3, temperature=1, seed=4)
    assert [texts[i] for i in range(3)] == [choice.message.content for choice in reply.choices]


def test_a_stream_with_usage(client: OpenAI) -> None:
    _, chunks = streamed(client, stream_options={"include_usage": True})
    assert chunks[-1].choices == []
    assert chunks[-1].usage == chat(client).usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_stream_with_logprobs(client: OpenAI) -> None:
    _, chunks = streamed(client, logprobs=True, top_logprobs=1)
    entries = [
        entry for chunk in chunks for choice in chunk.choices if choice.logprobs for entry in choice.logprobs.content
    ]
    whole = chat(client, logprobs=True, top_logprobs=1).choices[0].logprobs
    assert whole is not None
    assert entries == whole.content


def test_a_stream_that_is_left(client: OpenAI, server: Running) -> None:
    with client.chat.completions.create(model="tiny", messages=HI, max_tokens=400, stream=True) as stream:
        next(iter(stream))
    assert chat(client).choices[0].message.content


def test_the_stream_helper(client: OpenAI) -> None:
    arguments: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 400, "seed": 3}
    with client.chat.completions.stream(**arguments) as stream:
        pieces = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    reply = client.chat.completions.create(**arguments)
    assert "".join(pieces) == final.choices[0].message.content == reply.choices[0].message.content


def test_a_refused_stream_has_its_status(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        streamed(client, model="tiny@humor=9")


# -- steering ---------------------------------------------------------------------------------------------------------


def test_three_ways_are_one(client: OpenAI) -> None:
    wanted = {"humor": 3, "quality": 1}
    replies = [
        chat(client, model="tiny@humor=3,quality=1"),
        chat(client, extra_body={"steer": {"attributes": wanted}}),
        chat(client, extra_body={"chat_template_kwargs": {"attributes": {**DEFAULTS, **wanted}}}),
    ]
    assert {reply.choices[0].message.content for reply in replies} == set(alone({**DEFAULTS, **wanted}))
    assert all(steer(reply)["attributes"] == {**DEFAULTS, **wanted} for reply in replies)
    assert chat(client).choices[0].message.content != replies[0].choices[0].message.content


def test_template_arguments_are_exact_as_in_vllm(client: OpenAI) -> None:
    for attributes in ({}, {"humor": 2}):
        reply = chat(client, extra_body={"chat_template_kwargs": {"attributes": attributes}})
        assert steer(reply)["attributes"] == attributes
        assert reply.choices[0].message.content == alone(attributes)[0]


@pytest.mark.parametrize(("word", "level"), [("low", 0), ("medium", 2), ("high", 4)])
def test_verbosity(client: OpenAI, word: Any, level: int) -> None:
    assert steer(chat(client, verbosity=word))["attributes"]["verbosity"] == level


def test_presets(client: OpenAI) -> None:
    for reply in (
        chat(client, model="tiny@preset=teacher"),
        chat(client, extra_body={"steer": {"preset": "teacher"}}),
    ):
        assert steer(reply)["preset"] == "teacher"
        assert steer(reply)["attributes"] == {**DEFAULTS, "quality": 4, "humor": 0, "verbosity": 3}
    reply = chat(client, model="tiny@preset=teacher,humor=2")
    assert steer(reply)["attributes"]["humor"] == 2


def test_guidance_and_levels_between(client: OpenAI) -> None:
    ordinary = chat(client, model="tiny@humor=3").choices[0].message.content
    one = chat(client, model="tiny@humor=3", extra_body={"steer": {"guidance": 1}})
    assert one.choices[0].message.content == ordinary
    assert steer(one)["guidance"] == {}
    zero = chat(client, model="tiny@humor=3", extra_body={"steer": {"guidance": 0}})
    assert zero.choices[0].message.content == alone({})[0]
    strong = chat(client, model="tiny@humor=3", extra_body={"steer": {"guidance": {"humor": 3}}})
    expected = alone({**DEFAULTS, "humor": 3}, guidance={"humor": 3.0})
    assert strong.choices[0].message.content == expected[0]
    assert steer(strong)["guidance"] == {"humor": 3.0}
    between = chat(client, model="tiny@humor=2.5")
    assert steer(between)["attributes"]["humor"] == 2.5
    assert between.choices[0].message.content == alone({**DEFAULTS, "humor": 2.5})[0]


def test_scores_come_with_answers(client: OpenAI) -> None:
    # a seed with which both say something: an empty answer has no scores
    reply = chat(client, n=2, temperature=1, seed=5, extra_body={"steer": {"return_scores": True}})
    for choice in reply.choices:
        scores = choice.model_extra["steer"]["scores"]  # type: ignore[index]
        expected = counted(choice.message.content or "")
        assert scores == {
            name: {"probabilities": score.probabilities} if name == "lang" else score.to_dict()
            for name, score in expected.items()
        }
    _, chunks = streamed(client, extra_body={"steer": {"return_scores": True}})
    assert "humor" in chunks[-1].choices[0].model_extra["steer"]["scores"]


def test_weights_need_samples_to_choose_from(client: OpenAI) -> None:
    for steer, n, said in (
        ({}, 1, "steer.best_of is missing; set it to more than n (1)"),
        ({"best_of": 1}, 1, "steer.best_of is 1; set it to more than n (1)"),
        ({"best_of": 3}, 3, "steer.best_of is 3; set it to more than n (3)"),
    ):
        body = {"steer": {"weights": {"humor": 1}, **steer}}
        error = refused(client, openai.BadRequestError, n=n, extra_body=body)
        assert (error.code, error.param) == ("invalid_value", "steer.weights")
        assert said in error.message


def test_best_of_returns_the_nearest(client: OpenAI) -> None:
    arguments: dict[str, Any] = {"temperature": 1, "seed": 21, "max_tokens": 12}
    everything = chat(client, model="tiny@humor=4", n=8, **arguments)
    humor = [counted(choice.message.content or "")["humor"].mean for choice in everything.choices]
    for level, best in ((4, max(humor)), (0, min(humor))):
        model = f"tiny@humor={level}"
        reply = chat(client, model=model, n=2, extra_body={"steer": {"best_of": 8}}, **arguments)
        assert len(reply.choices) == 2
        if level == 4:
            found = [choice.model_extra["steer"]["scores"]["humor"]["mean"] for choice in reply.choices]  # type: ignore[index]
            assert found == sorted(humor, reverse=True)[:2]
            assert found[0] == best
    weighted = {"best_of": 8, "weights": {"humor": -1}}
    reply = chat(client, model="tiny@humor=4", extra_body={"steer": weighted}, **arguments)
    assert reply.choices[0].model_extra["steer"]["scores"]["humor"]["mean"] == min(humor)  # type: ignore[index]
    texts, _ = streamed(client, model="tiny@humor=4", extra_body={"steer": {"best_of": 8}}, **arguments)
    assert counted(texts[0])["humor"].mean == max(humor)


def test_far_settings_are_warned_of_and_refused(client: OpenAI) -> None:
    assert steer(chat(client))["warnings"] == []
    [warning] = steer(chat(client, model="tiny@toxicity=4,humor=1"))["warnings"]
    assert warning["code"] == "far_from_training"
    assert warning["distance"] == 0.75
    assert warning["nearest"] == {**DEFAULTS, "toxicity": 1, "humor": 1}
    assert steer(chat(client, model="tiny@toxicity=2"))["warnings"] == []
    strict = {"steer": {"strict": True}}
    error = refused(client, openai.BadRequestError, model="tiny@toxicity=4", extra_body=strict)
    assert error.code == "far_from_training"
    assert "toxicity 1" in error.message
    chat(client, model="tiny@toxicity=1", extra_body=strict)


# -- completions ------------------------------------------------------------------------------------------------------


def test_completions(client: OpenAI) -> None:
    reply = client.completions.create(model="tiny@humor=1", prompt="Hi", max_tokens=24, temperature=0)
    assert reply.object == "text_completion"
    assert reply.choices[0].text == alone({**DEFAULTS, "humor": 1})[0]
    assert client.completions.create(model="tiny", prompt="Hi", echo=True, max_tokens=2).choices[0].text[:2] == "Hi"


def test_completions_of_several_prompts(client: OpenAI) -> None:
    prompts = ["Hi", "Why?"]
    reply = client.completions.create(model="tiny", prompt=prompts, n=2, max_tokens=24, temperature=0)
    expected = [text for prompt in prompts for text in alone(DEFAULTS, (Message("user", prompt),)) * 2]
    assert [choice.text for choice in reply.choices] == expected
    assert [choice.index for choice in reply.choices] == [0, 1, 2, 3]


def test_completions_in_a_stream_and_with_logprobs(client: OpenAI) -> None:
    arguments: dict[str, Any] = {"model": "tiny", "prompt": "Hi", "max_tokens": 24, "temperature": 0, "logprobs": 2}
    whole = client.completions.create(**arguments).choices[0]
    chunks = list(client.completions.create(**arguments, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.text
    assert whole.logprobs is not None
    assert whole.logprobs.token_logprobs
    streamed_logprobs = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [p for logprobs in streamed_logprobs for p in logprobs.token_logprobs] == whole.logprobs.token_logprobs
    assert [o for logprobs in streamed_logprobs for o in logprobs.text_offset] == whole.logprobs.text_offset


def test_fields_that_ask_for_nothing_are_taken(client: OpenAI) -> None:
    plain = chat(client).choices[0].message.content
    neutral: dict[str, Any] = {
        "tools": [], "tool_choice": "none", "parallel_tool_calls": False,
        "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {},
        "modalities": ["text"], "response_format": {"type": "text"},
        "extra_body": {"min_p": 0, "repetition_penalty": 1.0, "skip_special_tokens": False, "stop_token_ids": CONTROL},
    }  # fmt: skip
    assert chat(client, **neutral).choices[0].message.content == plain


# -- errors and retries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "tools are not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "images are"),
        ({"messages": [{"role": "user"}]}, "needs content"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, "context"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n: "),
        ({"n": 17}, "at most 16"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5000}, "at most 4096"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["a"] * 17}, "up to 16"),
        ({"top_logprobs": 2}, "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"extra_body": {"min_p": 0.1}}, "min_p"),
        ({"extra_body": {"repetition_penalty": 1.1}}, "repetition_penalty"),
        ({"extra_body": {"stop_token_ids": [65]}}, "give texts as stop"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"steer": {"best_of": 17}}}, "at most 16"),
        ({"n": 3, "extra_body": {"steer": {"best_of": 2}}}, "less than n"),
        ({"max_completion_tokens": 3}, "differ"),
    ],
)
def test_bad_requests(client: OpenAI, arguments: dict[str, Any], message: str) -> None:
    error = refused(client, openai.BadRequestError, **arguments)
    assert message in error.message


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": "tiny@humor=9"},
        {"model": "tiny@humour=1"},
        {"model": "tiny@humor=1", "extra_body": {"steer": {"attributes": {"humor": 2}}}},
        {"extra_body": {"steer": {"attributes": {"untrained": 1}}}},
        {"extra_body": {"steer": {"atributes": {"humor": 1}}}},
        {"extra_body": {"steer": {"preset": "pirate"}}},
        {"extra_body": {"steer": {"guidance": 11}}},
        {"extra_body": {"chat_template_kwargs": {"attributes": {"humor": -1}}}},
        {"verbosity": "huge"},
    ],
)
def test_bad_settings_name_what_is_possible(client: OpenAI, arguments: dict[str, Any]) -> None:
    assert DIALS in refused(client, openai.BadRequestError, **arguments).message


def test_the_client_retries_when_the_server_is_busy(server: Running) -> None:
    answers = [429, 503, 200]
    seen = []

    def flaky(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["x-stainless-retry-count"])
        status = answers[len(seen) - 1]
        if status == 200:
            return transport.handle_request(request)
        return httpx.Response(status, headers={"retry-after-ms": "1"}, json={"error": {"message": "busy"}})

    transport = httpx.HTTPTransport()
    http = httpx.Client(transport=httpx.MockTransport(flaky))
    with transport, OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=3, http_client=http) as client:
        assert chat(client).choices[0].message.content == alone(DEFAULTS)[0]
    assert seen == ["0", "1", "2"]


def test_a_timeout_is_the_client_s(server: Running) -> None:
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=0.02) as client,
        pytest.raises(openai.APITimeoutError),
    ):
        chat(client, n=16, max_tokens=400, temperature=2)


# -- async ------------------------------------------------------------------------------------------------------------


def test_async_answers_share_the_batch(server: Running) -> None:
    async def ask() -> list[tuple[int, str | None]]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one(i: int) -> tuple[int, str | None]:
                reply = await client.chat.completions.create(
                    model=f"tiny@humor={i % 5}", messages=HI, max_tokens=8 + i, temperature=0
                )
                return i, reply.choices[0].message.content

            return await asyncio.gather(*(one(i) for i in range(16)))

    engine = tiny_engine()
    for i, text in asyncio.run(ask()):
        request = Request((Message("user", "Hi"),), {**DEFAULTS, "humor": i % 5})
        [[sample]] = engine.generate([request], Sampling(8 + i, temperature=0))
        assert text == sample.text


def test_async_streams_share_the_batch(server: Running) -> None:
    async def ask() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

            async def one(i: int) -> str:
                stream = await client.chat.completions.create(
                    model=f"tiny@humor={i % 5}", messages=HI, max_tokens=40, temperature=0, stream=True
                )
                pieces: AsyncIterator[Any] = stream
                return "".join([chunk.choices[0].delta.content or "" async for chunk in pieces])

            return await asyncio.gather(*(one(i) for i in range(10)))

    engine = tiny_engine()
    for i, text in enumerate(asyncio.run(ask())):
        request = Request((Message("user", "Hi"),), {**DEFAULTS, "humor": i % 5})
        [[sample]] = engine.generate([request], Sampling(40, temperature=0))
        assert text == sample.text


# -- beside OpenAI's API ----------------------------------------------------------------------------------------------


def test_attributes_are_described(server: Running) -> None:
    described = httpx.get(f"{server.url}/v1/attributes").json()
    assert [row["name"] for row in described["data"]] == list(DEFAULTS)
    assert {row["name"]: row["default"] for row in described["data"]} == DEFAULTS
    humor = described["data"][2]
    assert (humor["minimum"], humor["maximum"], humor["locked"], humor["scored"]) == (0, 4, False, True)
    assert described["combinations"]["total"] == 5 * 2 * 5 * 5 * 2
    assert described["guidance"] == {"minimum": 0, "maximum": 10.0, "default": 1}
    assert "teacher" in [preset["name"] for preset in described["presets"]]


def test_scores_have_the_shape_of_classify(server: Running) -> None:
    conversations = [[*HI, {"role": "assistant", "content": text}] for text in ("aaaa", "bbbb")]
    body = httpx.post(f"{server.url}/v1/score", json={"conversations": conversations}).json()
    assert body["object"] == "list"
    for row, humor in zip(body["data"], (1.0, 0.0), strict=True):
        assert row["num_classes"] == len(row["probs"]) == len(row["labels"])
        assert row["label"] in row["labels"]
        assert row["probs"][row["labels"].index("humor")] == humor
        assert row["scores"]["humor"]["mean"] == 4 * humor
    # the fields of vLLM's ClassificationResponse, ClassificationData and UsageInfo
    assert {"id", "object", "created", "model", "data", "usage"} == set(body)
    assert body["id"].startswith("classify-")
    assert {"index", "label", "probs", "num_classes"} <= set(body["data"][0])
    assert [row["index"] for row in body["data"]] == [0, 1]
    usage = {"prompt_tokens": 8, "total_tokens": 8, "completion_tokens": 0, "prompt_tokens_details": None}
    assert body["usage"] == usage
    single = httpx.post(f"{server.url}/v1/score", json={"messages": conversations[0]}).json()
    assert single["data"] == body["data"][:1]
    assert single["usage"]["prompt_tokens"] == 4
    for wrong in ({}, {"messages": HI}, {"messages": conversations[0], "conversations": conversations}):
        assert httpx.post(f"{server.url}/v1/score", json=wrong).status_code == 400


def test_metrics_count(server: Running, client: OpenAI) -> None:
    chat(client)
    text = httpx.get(f"{server.url}/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['steerlm_requests_total{route="/v1/chat/completions",status="200"}']) >= 1
    assert float(values["steerlm_completion_tokens_total"]) >= 1
    assert float(values["steerlm_samples_waiting"]) == 0


def test_errors_are_openai_s_json(server: Running) -> None:
    for method, path, status in (("GET", "/nope", 404), ("GET", "/v1/score", 405), ("DELETE", "/health", 405)):
        reply = httpx.request(method, server.url + path)
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    for body in (b"", b"{", b"[]", b"null", b"[" * 5000, b'{"model": "\\ud800", "messages": []}', b"\xff"):
        reply = httpx.post(
            f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        assert reply.status_code == 400, body[:20]
        assert json.loads(reply.text)["error"]["message"]
