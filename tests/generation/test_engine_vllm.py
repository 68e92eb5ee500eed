"""What the vLLM engine asks of vLLM, where vLLM itself is not installed: a stand-in that checks and records the calls.

The signatures are those of vLLM 0.32 and 0.33; `test_engine_contract.py` runs against the real one where it is there.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from steerlm.attributes import OASST
from steerlm.checkpoint.models import CheckpointInfo, save_model
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.engine import strip_label_echo
from steerlm.generation.opening import open_engine
from steerlm.generation.requests import Engine, Request, Sampling
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

TOKENIZER = byte_tokenizer(OASST)
ENCODER = ConversationEncoder(TOKENIZER, OASST)
STOP = ENCODER.stop_ids[0]
HELLO = (Message("user", "Hello"),)


@dataclass(frozen=True)
class SamplingParams:
    n: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    max_tokens: int
    stop_token_ids: list[int]
    ignore_eos: bool
    detokenize: bool


@dataclass
class Core:
    """`LLM.llm_engine`: draws one byte per step, the seed's last letter, and a stop token after three."""

    waiting: dict[str, tuple[list[int], SamplingParams]] = field(default_factory=dict)
    drawn: dict[str, list[int]] = field(default_factory=dict)
    aborted: list[str] = field(default_factory=list)

    def add_request(self, request_id: str, prompt: dict[str, list[int]], params: SamplingParams) -> str:
        self.waiting[request_id] = (prompt["prompt_token_ids"], params)
        self.drawn[request_id] = []
        return request_id

    def has_unfinished_requests(self) -> bool:
        return bool(self.waiting)

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        for name in request_ids:
            self.aborted.append(name)
            del self.waiting[name]

    def step(self) -> list[Any]:
        outputs = []
        for name, (_, params) in list(self.waiting.items()):
            tokens = self.drawn[name]
            letter = TOKENIZER.convert_tokens_to_ids(chr(ord("a") + params.seed % 26))
            tokens.append(STOP if len(tokens) == 3 else letter)
            reason = "stop" if tokens[-1] in params.stop_token_ids else None
            reason = reason or ("length" if len(tokens) == params.max_tokens else None)
            if reason:
                del self.waiting[name]
            completion = SimpleNamespace(token_ids=tuple(tokens), finish_reason=reason)
            outputs.append(SimpleNamespace(request_id=name, outputs=[completion], finished=reason is not None))
        return outputs


class LLM:
    started: dict[str, Any]
    asked: list[tuple[list[int], SamplingParams]]

    def __init__(self, model: str, **settings: Any) -> None:
        LLM.started = {"model": model, **settings}
        LLM.asked = []
        self.llm_engine = Core()

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: list[SamplingParams], *, use_tqdm: bool
    ) -> list[Any]:
        assert len(prompts) == len(sampling_params)
        assert not use_tqdm
        finished = {}
        for number, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True)):
            LLM.asked.append((prompt["prompt_token_ids"], params))
            self.llm_engine.add_request(str(number), prompt, params)
        while self.llm_engine.has_unfinished_requests():
            finished.update({output.request_id: output for output in self.llm_engine.step() if output.finished})
        return [finished[str(number)] for number in range(len(prompts))]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = random_model(tiny_llama_config(len(TOKENIZER), 256))
    save_model(tmp_path / "model", model, TOKENIZER, CheckpointInfo("sft", OASST, "steerlm"), "card")
    return tmp_path / "model"


@pytest.fixture
def engine(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    return open_engine("vllm", checkpoint, "fp32", 32)


def test_vllm_is_started_without_tokenizer_or_remote_code(engine: Engine, checkpoint: Path) -> None:
    assert LLM.started == {
        "model": str(checkpoint), "skip_tokenizer_init": True, "trust_remote_code": False, "dtype": "float32",
        "max_num_seqs": 32, "max_model_len": 256, "enable_prefix_caching": True, "generation_config": "vllm", "seed": 0,
    }  # fmt: skip


def test_a_model_on_several_devices_is_cut_by_vllm(engine: Engine, checkpoint: Path) -> None:
    assert "tensor_parallel_size" not in LLM.started
    open_engine("vllm", checkpoint, "fp32", 32, devices=4)
    assert LLM.started["tensor_parallel_size"] == 4


def test_every_sample_is_a_request_with_ids_and_a_seed_of_its_own(engine: Engine) -> None:
    requests = [Request(HELLO, {"quality": 4}, num_samples=3, seed=5), Request(HELLO, {}, num_samples=1, seed=5)]
    samples = engine.generate(requests, Sampling(8, 0.7, 50, 0.9))
    prompts = [ENCODER.prompt(HELLO, {"quality": 4})] * 3 + [ENCODER.prompt(HELLO, {})]
    assert [ids for ids, _ in LLM.asked] == prompts
    asked = [params for _, params in LLM.asked]
    assert len({params.seed for params in asked}) == 3
    assert asked[0].seed == asked[3].seed  # sample 0 of equal seeds
    assert all(0 <= params.seed < 1 << 63 for params in asked)
    for params in asked:
        assert (params.n, params.temperature, params.top_k, params.top_p, params.max_tokens) == (1, 0.7, 50, 0.9, 8)
        assert set(params.stop_token_ids) == ENCODER.control_ids | set(ENCODER.stop_ids)
        assert params.ignore_eos
        assert not params.detokenize
    for sample, params in zip(samples[0], asked[:3], strict=True):
        assert (sample.text, sample.num_tokens, sample.finished) == (chr(ord("a") + params.seed % 26) * 3, 4, True)


def test_the_limit_is_what_the_context_leaves(engine: Engine) -> None:
    request = Request((Message("user", "a" * 150),), None)
    [[sample]] = engine.generate([request], Sampling(2))
    assert (sample.num_tokens, sample.finished) == (2, False)
    engine.generate([request], Sampling(500))
    assert LLM.asked[-1][1].max_tokens == engine.room(request) == 256 - len(ENCODER.prompt(request.messages, None))


def test_stream_and_a_reader_that_leaves(engine: Engine) -> None:
    request = Request(HELLO, None, seed=9)
    [[sample]] = engine.generate([request], Sampling(8))
    assert "".join(engine.stream(request, Sampling(8))) == sample.text == strip_label_echo(sample.text, OASST)
    left = engine.stream(request, Sampling(8))
    next(left)
    left.close()  # type: ignore[attr-defined]
    core: Core = engine._llm.llm_engine  # type: ignore[attr-defined]
    assert core.aborted == ["stream-1"]
    assert not core.waiting


def test_guidance_is_refused(engine: Engine) -> None:
    with pytest.raises(UserError, match="vllm cannot mix prompts"):
        engine.generate([Request(HELLO, {"humor": 2.5})], Sampling(4))


@pytest.mark.parametrize(("name", "package"), [("vllm", "vllm"), ("openvino", "openvino_genai")])
def test_a_missing_extra_names_itself(
    name: Any, package: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'steerlm\[{name}\]'"):
        open_engine(name, checkpoint)
