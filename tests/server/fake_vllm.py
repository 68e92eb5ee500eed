"""vLLM as far as the backend needs it, where vLLM itself is not installed: our tiny engine behind `AsyncLLMEngine`.

Names and behaviour are those of vLLM 0.32: `generate` yields what is new (DELTA, several tokens where the reader is
slow) or everything at the end (FINAL_ONLY), and a reader that leaves aborts the request. The real one is asked the same
by the slow test beside `test_vllm_backend.py`.
"""

from __future__ import annotations

import asyncio
import enum
import multiprocessing
import multiprocessing.process
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from steerlm.generation.decoding import Decoder
from steerlm.generation.requests import Draw, Lane, LogProb
from steerlm.generation.sampling import Drawing
from tests.server.running import tiny_engine


class EngineDeadError(Exception):
    """The process that draws is gone."""


class EngineGenerateError(Exception):
    """One request failed."""


class RequestOutputKind(enum.Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 16
    stop_token_ids: list[int] = field(default_factory=list)
    ignore_eos: bool = False
    detokenize: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE

    def __post_init__(self) -> None:
        assert 0 <= self.temperature <= 2
        assert -(1 << 63) <= self.seed < 1 << 63


class FakeVllm:
    """A started engine.

    Attributes:
        asked: prompts and parameters, in order.
        aborted: requests that their readers left, by name.
        unfinished: requests that are being drawn, by name.
        fault: what goes wrong: one of `nothing`, `drip`, `dies`, `fails`, `error-reason`.
        errored: whether it is dead.
        closed: whether it was shut down.
        core: the process that `AsyncLLMEngine.from_engine_args` has started; it does nothing.
        worker: a process that `core` has started.
        hold: drawing waits while this is not set.
    """

    def __init__(self) -> None:
        self.engine = tiny_engine()
        self.asked: list[tuple[list[int], SamplingParams]] = []
        self.aborted: list[str] = []
        self.unfinished: set[str] = set()
        self.fault = "nothing"
        self.errored = self.closed = False
        self.core: multiprocessing.process.BaseProcess | None = None
        self.worker: psutil.Process | None = None
        self.hold = threading.Event()
        self.hold.set()

    def reset(self) -> None:
        """Forget what was asked."""
        assert not self.unfinished
        self.asked.clear()
        self.aborted.clear()
        self.fault, self.errored = "nothing", False

    def shutdown(self, timeout: float | None = None) -> None:
        self.closed = True

    async def generate(
        self, prompt: dict[str, list[int]], sampling_params: SamplingParams, request_id: str
    ) -> AsyncGenerator[Any, None]:
        assert list(prompt) == ["prompt_token_ids"]
        assert request_id not in self.unfinished, "names must differ"
        ids = prompt["prompt_token_ids"]
        assert len(ids) + sampling_params.max_tokens <= 512, "longer than max_model_len"
        self.asked.append((ids, sampling_params))
        if self.errored:
            raise EngineDeadError
        self.unfinished.add(request_id)
        try:
            if sampling_params.prompt_logprobs is not None:
                yield await asyncio.to_thread(self._read, ids, sampling_params.prompt_logprobs)
                return
            row = await asyncio.to_thread(self._decode, ids, sampling_params)
            async for output in self._outputs(row, sampling_params):
                yield output
        except (asyncio.CancelledError, GeneratorExit):
            self.aborted.append(request_id)
            raise
        finally:
            self.unfinished.discard(request_id)

    def _read(self, ids: list[int], count: int) -> Any:
        found = self.engine.decoder().read(ids, count)
        positions = [position(token, entry) for token, entry in zip(ids[1:], found, strict=True)]
        return SimpleNamespace(outputs=[], prompt_logprobs=[None, *positions], finished=True)

    def _decode(self, ids: list[int], parameters: SamplingParams) -> Draw:
        assert parameters.n == 1
        assert parameters.ignore_eos
        assert not parameters.detokenize
        assert self.hold.wait(20)
        drawing = Drawing(parameters.temperature, max(0, parameters.top_k), parameters.top_p)
        row = Draw((Lane(tuple(ids)),), 0, parameters.seed, parameters.max_tokens, drawing, parameters.logprobs)
        decoder = Decoder(self.engine._model, batch_size=1, stop_ids=frozenset(parameters.stop_token_ids))
        decoder.add([row])
        while decoder.busy:
            decoder.step()
        return row

    async def _outputs(self, row: Draw, parameters: SamplingParams) -> AsyncGenerator[Any, None]:
        step = 2 if parameters.output_kind is RequestOutputKind.DELTA else len(row.tokens)
        assert parameters.output_kind is not RequestOutputKind.CUMULATIVE
        for begin in range(0, len(row.tokens), step):
            if self.fault == "dies":
                self.errored = True
                raise EngineDeadError
            if self.fault == "fails" and begin:
                raise EngineGenerateError from ValueError("SECRET")
            end = begin + step
            reason = ("stop" if row.stopped else "length") if end >= len(row.tokens) else None
            logprobs = None
            if parameters.logprobs is not None:
                pairs = zip(row.tokens[begin:end], row.logprobs[begin:end], strict=True)
                logprobs = [position(token, logprob) for token, logprob in pairs]
            if self.fault == "error-reason" and begin:
                reason = "error"
            completion = SimpleNamespace(
                index=0, text="", token_ids=row.tokens[begin:end], logprobs=logprobs, finish_reason=reason
            )
            yield SimpleNamespace(outputs=[completion], finished=reason is not None)
            if reason is None:
                await asyncio.sleep(0.05 if self.fault == "drip" else 0)


def position(token: int, logprob: LogProb) -> dict[int, Any]:
    """One position of `CompletionOutput.logprobs`: the token that was drawn comes first, whatever its rank."""
    values = {token: logprob.drawn} | dict(logprob.top)
    return {index: SimpleNamespace(logprob=value, decoded_token=None) for index, value in values.items()}


@dataclass(frozen=True)
class AsyncEngineArgs:
    """What it was started with."""

    settings: dict[str, Any] = field(default_factory=dict)


def install(monkeypatch: pytest.MonkeyPatch, llm: FakeVllm) -> list[dict[str, Any]]:
    """Let `import vllm` find the stand-in; returns the settings of every engine that is started from now on."""
    started: list[dict[str, Any]] = []

    def from_engine_args(arguments: AsyncEngineArgs) -> FakeVllm:
        started.append(arguments.settings)
        context = multiprocessing.get_context("spawn")
        llm.core = context.Process(target=subprocess.run, args=([sys.executable, "-c", "import time; time.sleep(60)"],))
        llm.core.start()
        while not psutil.Process(llm.core.pid).children():
            time.sleep(0.01)
        [llm.worker] = psutil.Process(llm.core.pid).children()
        return llm

    contents: dict[str, dict[str, Any]] = {
        "vllm": {
            "SamplingParams": SamplingParams,
            "AsyncEngineArgs": lambda **settings: AsyncEngineArgs(settings),
            "AsyncLLMEngine": SimpleNamespace(from_engine_args=from_engine_args),
        },
        "vllm.sampling_params": {"RequestOutputKind": RequestOutputKind},
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.exceptions": {
            "EngineDeadError": EngineDeadError, "EngineGenerateError": EngineGenerateError,
        },
    }  # fmt: skip
    for name, members in contents.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return started
