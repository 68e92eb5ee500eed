"""vLLM in the server's own process in place of the built-in engine, for throughput on GPUs.

    steerlm serve MODEL --engine vllm

vLLM gets token ids that no user's text can forge and gives token ids back, which are decoded here; it neither loads the
tokenizer nor sees any text. Every sample is a request of its own with a seed of its own, the one that it has in
`bootstrap` and `evaluate`; the prefix cache computes its prompt once. One that is finished here or given up is aborted
there. Guidance and levels between levels mix logits, which vLLM does not: they are refused.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import multiprocessing
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from steerlm.errors import needs_extra
from steerlm.generation.detokenizing import TokenTexts
from steerlm.generation.prompting import Prompting
from steerlm.generation.requests import Draw, LogProb
from steerlm.generation.vllm import sampling_parameters, vllm_start
from steerlm.server.backend import Encoding, Places, Plan, Reader, TaskGeneration, check_room
from steerlm.server.errors import ApiError, model_stopped
from steerlm.server.guard import Guard
from steerlm.server.metrics import Metrics

_GPU_SHARE = 0.9
"""Of the memory that is free: the attribute model lies there already, and needs room to compute."""
_LOG = logging.getLogger(__name__)


class _Start(NamedTuple):
    draw: Draw
    parameters: Any


class VllmBackend:
    """A `Backend` on vLLM's asynchronous engine."""

    cannot_mix = "vLLM"
    num_waiting = 0  # where samples wait vLLM knows; here they all count as being drawn

    def __init__(
        self, llm: Any, prompting: Prompting, most_samples: int, metrics: Metrics, guard: Guard | None = None
    ) -> None:
        """Wrap a started engine."""
        self.prompting, self.encoder, self.context = prompting, prompting.encoder, prompting.context
        self.encoding = Encoding()
        self._llm, self._guard = llm, guard
        self._places = Places(most_samples, metrics)
        self._texts = TokenTexts(prompting.encoder)
        self._numbers = itertools.count()
        self._closed = False

    @property
    def running(self) -> bool:
        return not self._closed and not self._llm.errored

    @property
    def num_running(self) -> int:
        return self._places.taken

    async def start(self, plan: Plan) -> TaskGeneration:
        started = await self.encoding(self._starts, plan)
        if not self.running:
            raise model_stopped()
        self._places.take(len(started))
        readers = [Reader(draw, self.encoder, self._texts, plan) for draw, _ in started]
        draws = [
            functools.partial(self._draw, draw, parameters, reader)
            for (draw, parameters), reader in zip(started, readers, strict=True)
        ]
        prompt_tokens = len(started[0].draw.lanes[0].prompt)
        return TaskGeneration([reader.answer for reader in readers], draws, prompt_tokens, self._places)

    def _starts(self, plan: Plan) -> list[_Start]:
        """Return the samples and how vLLM draws them."""
        from vllm.sampling_params import RequestOutputKind

        [lane] = self.prompting.lanes(plan.request)
        parameters = sampling_parameters(self.prompting, len(lane.prompt), plan.request, plan.sampling)
        grows = plan.every_step or bool(plan.stop)
        for each in parameters:
            each.logprobs = plan.num_logprobs
            each.output_kind = RequestOutputKind.DELTA if grows else RequestOutputKind.FINAL_ONLY
        draws = self.prompting.draws(plan.request, plan.sampling, None, 1, plan.num_logprobs)
        return [_Start(draw, each) for draw, each in zip(draws, parameters, strict=True)]

    async def _draw(self, draw: Draw, parameters: Any, reader: Reader, grown: Callable[[], None]) -> None:
        # whatever ends the loop early closes the generator, and that aborts the request
        async with contextlib.aclosing(self._outputs(draw.lanes[0].prompt, parameters)) as outputs:
            async for output in outputs:
                [completion] = output.outputs
                _take(draw, completion)
                reader.look()
                grown()
                if reader.answer.finish_reason is not None and not draw.done:
                    return  # a stop string

    async def read(self, ids: Sequence[int], num_top: int) -> list[LogProb]:
        from vllm import SamplingParams

        check_room(self.prompting.room(len(ids)) - 1, len(ids))  # vLLM draws a token whatever it is asked for
        if not self.running:
            raise model_stopped()
        parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=num_top, detokenize=False)
        found: list[LogProb] = []
        self._places.take(1)
        try:
            async with contextlib.aclosing(self._outputs(ids, parameters)) as outputs:
                async for output in outputs:
                    for token, position in zip(ids[1:], (output.prompt_logprobs or [None])[1:], strict=False):
                        found.append(_log_prob(token, position, num_top))
                    if found:
                        return found
            return found
        finally:
            self._places.free(1)

    async def _outputs(self, ids: Sequence[int], parameters: Any) -> AsyncGenerator[Any]:
        """Yield what vLLM says of one request."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        prompt, name = {"prompt_token_ids": list(ids)}, f"steerlm-{next(self._numbers)}"
        try:
            async with contextlib.aclosing(self._llm.generate(prompt, parameters, name)) as outputs:
                async for output in outputs:
                    yield output
        except EngineDeadError:
            raise model_stopped() from None
        except EngineGenerateError as error:
            _LOG.error("vLLM: %s", error.__cause__ or error)
            raise _failed() from None

    async def close(self) -> None:
        self._closed = True
        self.encoding.close()
        self._llm.shutdown()
        if self._guard is not None:
            self._guard.close()


def _take(draw: Draw, completion: Any) -> None:
    """Add a `vllm.CompletionOutput` to what has been drawn."""
    tokens, reason = list(completion.token_ids), completion.finish_reason
    if reason not in (None, "stop", "length"):  # nothing that we have asked for
        _LOG.error("vLLM has ended a sample for the reason %r", reason)
        raise _failed()
    if draw.num_logprobs is not None:
        for token, position in zip(tokens, completion.logprobs, strict=True):
            draw.logprobs.append(_log_prob(token, position, draw.num_logprobs))
    draw.tokens += tokens
    draw.stopped = reason == "stop"


def _log_prob(token: int, position: Mapping[int, Any], num_top: int) -> LogProb:
    values = {other: float(entry.logprob) for other, entry in position.items()}
    return LogProb(values[token], sorted(values.items(), key=lambda item: -item[1])[:num_top])


def _failed() -> ApiError:
    return ApiError("model_failed", "the model could not draw this answer; try again")


def load_vllm_backend(path: Path, batch_size: int, most_samples: int, metrics: Metrics) -> VllmBackend:
    """Start vLLM on a steerable checkpoint, with most of the GPU memory that is free.

    Raises:
        UserError: vLLM is not installed, or as `load_engine`.
    """
    with needs_extra("vllm", "the engine vllm"):
        from vllm import AsyncEngineArgs, AsyncLLMEngine
    settings, prompting = vllm_start(path, "auto", batch_size)
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        settings["gpu_memory_utilization"] = _GPU_SHARE * free / total
    others = set(multiprocessing.active_children())
    # its statistics would go to the log every few seconds; `/metrics` has ours
    llm = AsyncLLMEngine.from_engine_args(AsyncEngineArgs(**settings, disable_log_stats=True))
    started = [child.pid for child in multiprocessing.active_children() if child not in others]
    # they do not end with us, and its workers take long to notice that it has ended
    guard = Guard(_with_children(pid for pid in started if pid is not None)) if sys.platform == "linux" else None
    return VllmBackend(llm, prompting, most_samples, metrics, guard)


def _with_children(pids: Iterable[int]) -> list[int]:
    found = []
    for pid in pids:
        found += [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return found
