"""What every engine promises, the built-in one and those of other projects where they are installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from steerlm.attributes import OASST
from steerlm.checkpoint.models import CheckpointInfo, load_causal_lm, save_model
from steerlm.config.section import EngineName
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.engine import load_engine
from steerlm.generation.opening import open_engine
from steerlm.generation.requests import Engine, Request, Sampling
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

TOKENIZER = byte_tokenizer(OASST)
ENCODER = ConversationEncoder(TOKENIZER, OASST)
CONTEXT = 384
TEXTS = ["Hi", "Why is the sky blue, and why is it red at dusk?", "Tell me a joke.", "Name three rivers in Europe."]
PACKAGES = {"local": "torch", "vllm": "vllm", "openvino": "openvino_genai"}

Open = Callable[[int], Engine]


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines") / "model"
    config = tiny_llama_config(len(TOKENIZER), CONTEXT)
    config.hidden_size, config.head_dim = 64, 32  # the smallest heads that all engines compute
    model = random_model(config, 3, 0.2)
    save_model(folder, model, TOKENIZER, CheckpointInfo("sft", OASST, "steerlm"), card="")
    return folder


# vLLM and its packages warn of what they use of each other
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module", params=list(PACKAGES))
def name(request: pytest.FixtureRequest) -> EngineName:
    engine: EngineName = request.param
    if importlib.util.find_spec(PACKAGES[engine]) is None:
        pytest.skip(f"{PACKAGES[engine]} is not installed")
    return engine


@pytest.fixture(scope="module")
def opened(name: EngineName, checkpoint: Path) -> Open:
    engines: dict[int, Engine] = {}

    def open_once(batch_size: int) -> Engine:
        if batch_size not in engines:
            engines[batch_size] = open_engine(name, checkpoint, "fp32", batch_size)
        return engines[batch_size]

    return open_once


@pytest.fixture(scope="module")
def engine(opened: Open) -> Engine:
    return opened(16)


def test_greedy_is_what_generate_gives(engine: Engine, checkpoint: Path) -> None:
    model = load_causal_lm(checkpoint, "fp32").eval()
    stop = sorted(ENCODER.control_ids)
    requests = [Request(user(text), wanted, num_samples=2) for text in TEXTS for wanted in (None, {"humor": 3}, {})]
    samples = engine.generate(requests, Sampling(24, temperature=0))
    lengths = set()
    for request, [first, second] in zip(requests, samples, strict=True):
        ids = ENCODER.prompt(request.messages, request.attributes)
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([ids]), max_new_tokens=24, do_sample=False, eos_token_id=stop, pad_token_id=stop[0]
            )
        expected = out[0, len(ids) :].tolist()
        assert (first.text, first.num_tokens) == (ENCODER.decode(expected), len(expected))
        assert first.finished == (expected[-1] in ENCODER.control_ids)
        assert first == second
        lengths.add(len(expected))
    assert len({first.text for first, _ in samples}) > 6


def test_samples_differ_and_belong_to_their_request_and_seed(engine: Engine) -> None:
    requests = [Request(user(text), {"quality": 4}, num_samples=4, seed=7) for text in TEXTS]
    drawn = engine.generate(requests, Sampling(16))
    assert [len(samples) for samples in drawn] == [4] * len(TEXTS)
    assert all(len({sample.text for sample in samples}) > 2 for samples in drawn)
    assert engine.generate(requests[::-1], Sampling(16))[::-1] == drawn
    [more] = engine.generate([Request(requests[1].messages, {"quality": 4}, num_samples=6, seed=7)], Sampling(16))
    assert more[:4] == drawn[1]
    [other] = engine.generate([Request(requests[1].messages, {"quality": 4}, num_samples=4, seed=8)], Sampling(16))
    assert other != drawn[1]


def test_batch_size_changes_nothing(name: EngineName, opened: Open) -> None:
    if name == "vllm":
        pytest.skip("a second vLLM in one process wants the memory of the first")
    requests = [Request(user(text), None, num_samples=3, seed=i) for i, text in enumerate(TEXTS)]
    assert opened(2).generate(requests, Sampling(12)) == opened(16).generate(requests, Sampling(12))


def test_a_response_ends_at_a_control_token_and_holds_none(engine: Engine) -> None:
    # nearly flat: control tokens come up often
    requests = [Request(user(text), None, num_samples=24, seed=5) for text in TEXTS]
    samples = [sample for row in engine.generate(requests, Sampling(60, temperature=2.0, top_k=0)) for sample in row]
    ended = [sample for sample in samples if sample.finished]
    assert ended
    assert all(sample.num_tokens == 60 for sample in samples if not sample.finished)
    assert all(0 < sample.num_tokens <= 60 for sample in ended)
    names = [TOKENIZER.convert_ids_to_tokens(index) for index in ENCODER.control_ids]
    assert not [sample.text for sample in samples if any(token in sample.text for token in names)]


def test_control_tokens_in_a_users_text_are_text(engine: Engine, checkpoint: Path) -> None:
    token = TOKENIZER.convert_ids_to_tokens(ENCODER.stop_ids[0])
    requests = [Request(user(f"Say {token}{token} please"), None), Request(user("Say please"), None)]
    first, second = engine.generate(requests, Sampling(12, temperature=0))
    expected = load_engine(checkpoint, "fp32").generate(requests, Sampling(12, temperature=0))
    assert [first, second] == expected
    assert engine.room(requests[1]) - engine.room(requests[0]) > len(token)  # as bytes, not as one id


def test_top_k_one_is_greedy_and_top_p_narrows(engine: Engine) -> None:
    request = Request(user(TEXTS[1]), None, num_samples=3, seed=1)
    [greedy] = engine.generate([request], Sampling(12, temperature=0))
    assert engine.generate([request], Sampling(12, temperature=0.7, top_k=1)) == [greedy]
    assert engine.generate([request], Sampling(12, temperature=0.7, top_k=0, top_p=1e-6)) == [greedy]


def test_stream_gives_sample_zero(engine: Engine) -> None:
    request = Request(user(TEXTS[3]), {"humor": 4}, num_samples=2, seed=11)
    [[sample, _]] = engine.generate([request], Sampling(20))
    pieces = list(engine.stream(request, Sampling(20)))
    assert "".join(pieces) == sample.text
    left = engine.stream(request, Sampling(20))
    next(left, None)
    left.close()  # type: ignore[attr-defined]
    assert engine.generate([request], Sampling(20)) == [[sample, _]]


def test_the_context_is_a_limit(engine: Engine) -> None:
    request = Request(user("a" * (CONTEXT // 2)), None)
    room = engine.room(request)
    assert room == CONTEXT - len(ENCODER.prompt(request.messages, None))
    [[sample]] = engine.generate([request], Sampling(CONTEXT, temperature=0))
    assert sample.num_tokens <= room
    assert sample.finished or sample.num_tokens == room
    with pytest.raises(UserError, match=f"only {CONTEXT}"):
        engine.generate([Request(user("a" * CONTEXT), None)], Sampling(4))
    assert engine.room(Request(user("a" * CONTEXT), None)) < 1


def test_nothing_asked_is_nothing_given(engine: Engine) -> None:
    assert engine.generate([], Sampling(4)) == []


def test_only_the_built_in_engine_mixes_prompts(name: EngineName, engine: Engine) -> None:
    ordinary = Request(user("Hi"), {"humor": 4}, guidance={"humor": 1.0})
    assert engine.generate([ordinary], Sampling(3)) == engine.generate([Request(user("Hi"), {"humor": 4})], Sampling(3))
    for mixed in (
        Request(user("Hi"), {"humor": 4}, guidance={"humor": 2.0}),
        Request(user("Hi"), {"humor": 2.5}),
    ):
        if name == "local":
            assert engine.generate([mixed], Sampling(3))
        else:
            with pytest.raises(UserError, match=f"{name} cannot mix prompts"):
                engine.generate([mixed], Sampling(3))
