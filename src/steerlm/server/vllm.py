"""vLLM in the server's own process in place of the built-in engine, for throughput on GPUs.

    steerlm serve MODEL --engine vllm

vLLM gets token ids that no user's text can forge and gives token ids back, which are decoded here; it neither loads the
tokenizer nor sees any text. Every sample is a request of its own with a seed of its own, the one that it has in
`bootstrap` and `evaluate`; the prefix cache computes its prompt once. One that is finished here or given up is aborted
there. Guidance and levels between levels mix logits, which vLLM does not: they are refused.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from steerlm.errors import needs_extra
from steerlm.generation.prompting import Prompting
from steerlm.generation.rows import LogProb
from steerlm.generation.vllm import sampling_parameters, vllm_start
from steerlm.server.backend import Order
from steerlm.server.encoding import Encoding
from steerlm.server.errors import ApiError, model_stopped
from steerlm.server.guard import Guard
from steerlm.server.metrics import Metrics
from steerlm.server.reading import Reader
from steerlm.server.samples import Places, TaskGeneration, mixes_logits

_GPU_SHARE = 0.9
"""Of the memory that is free: the attribute model lies there already, and needs room to compute."""
_LOG = logging.getLogger(__name__)


class _Prompt(NamedTuple):
    ids: tuple[int, ...]
    parameters: list[Any]


class VllmBackend:
    """A `Backend` on vLLM's asynchronous engine."""

    guides = False
    num_waiting = 0  # where samples wait vLLM knows; here they all count as being drawn

    def __init__(
        self, llm: Any, prompting: Prompting, most_samples: int, metrics: Metrics, guard: Guard | None = None
    ) -> None:
        """Wrap a started engine.

        Args:
            llm: a `vllm.AsyncLLMEngine`, started with `skip_tokenizer_init`.
            prompting: builds its prompts.
            most_samples: at the same time.
            metrics: counts what was stopped early.
            guard: watches over the engine's processes.
        """
        self.prompting, self.encoder = prompting, prompting.encoder
        self._llm, self._guard = llm, guard
        self._places = Places(most_samples, metrics)
        self._numbers = itertools.count()
        self._closed = False
        self._encoding = Encoding()

    @property
    def running(self) -> bool:
        """See `Backend.running`."""
        return not self._closed and not self._llm.errored

    @property
    def num_running(self) -> int:
        """See `Backend.num_running`."""
        return self._places.taken

    async def start(self, order: Order) -> TaskGeneration:
        """See `Backend.start`."""
        prompt = await self._encoding(self._prompt, order)
        if not self.running:
            raise model_stopped()
        self._places.take(order.request.num_samples)
        samples = [self._sample(prompt.ids, parameters, order) for parameters in prompt.parameters]
        answers, draws = [sample.reader.answer for sample in samples], [sample.draw for sample in samples]
        return TaskGeneration(answers, draws, len(prompt.ids), self._places)

    def _prompt(self, order: Order) -> _Prompt:
        """Return the prompt and how its samples are drawn.

        Raises:
            ApiError: the setting needs several prompts.
            UserError: as `Prompting.lanes` and `Prompting.limit`.
        """
        from vllm.sampling_params import RequestOutputKind

        lanes = self.prompting.lanes(order.request)
        if len(lanes) > 1:
            raise mixes_logits("vLLM")
        ids = lanes[0].prompt
        parameters = sampling_parameters(self.prompting, len(ids), order.request, order.sampling)
        grows = order.every_step or bool(order.stop)
        for each in parameters:
            each.logprobs = order.num_logprobs
            each.output_kind = RequestOutputKind.DELTA if grows else RequestOutputKind.FINAL_ONLY
        return _Prompt(ids, parameters)

    def _sample(self, ids: tuple[int, ...], parameters: Any, order: Order) -> _Sample:
        drawn = _Drawn(order.num_logprobs)
        reader = Reader(drawn, self.encoder, order.stop)
        return _Sample(self._llm, f"steerlm-{next(self._numbers)}", list(ids), parameters, drawn, reader)

    async def close(self) -> None:
        """See `Backend.close`."""
        self._closed = True
        self._encoding.close()
        self._llm.shutdown()
        if self._guard is not None:
            self._guard.close()


@dataclass
class _Drawn:
    """What vLLM has drawn of a sample; see `steerlm.server.reading.Drawn`."""

    num_logprobs: int | None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[LogProb] = field(default_factory=list)
    stopped: bool = False
    done: bool = False

    def take(self, completion: Any) -> None:
        """Add a `vllm.CompletionOutput`.

        Raises:
            ApiError: vLLM has given it up.
        """
        tokens, reason = list(completion.token_ids), completion.finish_reason
        if reason not in (None, "stop", "length"):  # nothing that we have asked for
            _LOG.error("vLLM has ended a sample for the reason %r", reason)
            raise _failed()
        self.tokens += tokens
        if self.num_logprobs is not None:
            for token, position in zip(tokens, completion.logprobs, strict=True):
                values = {other: entry.logprob for other, entry in position.items()}
                top = sorted(values.items(), key=lambda item: -item[1])[: self.num_logprobs]
                self.logprobs.append(LogProb(values[token], top))
        self.stopped, self.done = reason == "stop", reason is not None


class _Sample(NamedTuple):
    """One sample, drawn by vLLM."""

    llm: Any
    name: str
    ids: list[int]
    parameters: Any
    drawn: _Drawn
    reader: Reader

    async def draw(self, grown: Callable[[], None]) -> None:
        """See `steerlm.server.samples.Draw`."""
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        outputs = self.llm.generate({"prompt_token_ids": self.ids}, self.parameters, self.name)
        try:
            # whatever ends the loop early closes the generator, and that aborts the request
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    [completion] = output.outputs
                    self.drawn.take(completion)
                    self.reader.look()
                    grown()
                    if self.reader.answer.finish_reason is not None and not self.drawn.done:
                        return  # a stop string
        except EngineDeadError:
            raise model_stopped() from None
        except EngineGenerateError as error:
            _LOG.error("vLLM: %s", error.__cause__ or error)
            raise _failed() from None


def _failed() -> ApiError:
    return ApiError(503, "the model could not draw this answer; try again", "model_failed")


def load_vllm_backend(path: Path, batch_size: int, most_samples: int, metrics: Metrics) -> VllmBackend:
    """Start vLLM on a steerable checkpoint, with most of the GPU memory that is free.

    Args:
        path: folder written by `train-sft` or `bootstrap`.
        batch_size: most samples decoded together.
        most_samples: at the same time, those that wait included.
        metrics: counts what was stopped early.

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
