"""OpenVINO GenAI as an engine: for throughput on CPUs.

The checkpoint is converted once, by the exporter of transformers, into a folder beside it. Prompts go in as ids and
responses come out as ids, so no tokenizer is converted and OpenVINO sees no text. Every sample is a request of its own
with its own seed, so sample i is the same whatever else is asked for; it enters when the prompt it shares with others
has been computed, and then finds it in the prefix cache. Texts differ from those of the in-process engine, whose random
numbers are others, except with temperature 0.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import Precision, inference_dtype, load_config, load_tokenizer
from steerlm.errors import needs_extra
from steerlm.generation.engine import steerable
from steerlm.generation.openvino_conversion import converted
from steerlm.generation.prompting import Prompting
from steerlm.generation.requests import Request, Sample, Sampling, said
from steerlm.generation.sampling import sample_key

_SEED_BITS = (1 << 32) - 1
_BATCHED_TOKENS = 2048
"""Tokens of prompts and samples computed in one pass."""


@dataclass
class _Task:
    """One sample.

    Attributes:
        settings: OpenVINO's generation configuration.
        followers: samples that wait until this one's prompt is in the prefix cache.
        handle: what OpenVINO gives for a request that was added.
        tokens: drawn so far.
        stopped: the last one ends the response.
    """

    prompt: tuple[int, ...]
    settings: Any
    followers: list[_Task] = field(default_factory=list)
    handle: Any = None
    tokens: list[int] = field(default_factory=list)
    stopped: bool = False
    done: bool = False

    def collect(self) -> None:
        """Take the tokens that have been drawn since the last time."""
        from openvino_genai import GenerationFinishReason, GenerationStatus

        while self.handle.can_read():
            for output in self.handle.read().values():
                self.tokens += output.generated_ids
                self.stopped = output.finish_reason == GenerationFinishReason.STOP
        status = self.handle.get_status()
        assert status != GenerationStatus.IGNORED, "OpenVINO refused a request: its cache cannot hold the prompt"
        self.done = status == GenerationStatus.FINISHED and not self.handle.can_read()


class OpenVINOEngine:
    """Samples with OpenVINO GenAI's continuous batching.

    Attributes:
        schema: the attributes the model was trained with.
    """

    def __init__(self, pipeline: Any, prompting: Prompting, vocabulary: int) -> None:
        """Wrap a loaded `openvino_genai.ContinuousBatchingPipeline`."""
        self.schema: AttributeSchema = prompting.schema
        self._pipeline = pipeline
        self._prompting = prompting
        self._vocabulary = vocabulary
        self._numbers = itertools.count()

    def room(self, request: Request) -> int:
        return self._prompting.room(len(self._prompting.single(request, "openvino")))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        """See `Engine.generate`.

        Raises:
            UserError: as there; or a request with guidance or a value between two levels.
        """
        groups = [self._tasks(request, sampling) for request in requests]
        for _ in self._run(_wait_for_prompts([said(request.messages) for request in requests], groups)):
            pass
        return [[self._prompting.sample(task.tokens, task.stopped) for task in group] for group in groups]

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str]:
        [task, *_] = self._tasks(request, sampling)
        yield from self._prompting.pieces((task.tokens, task.done) for _ in self._run([task]))

    def _run(self, tasks: Sequence[_Task]) -> Iterator[None]:
        """Draw all samples; yields after every step."""
        running = deque(tasks)
        for task in running:
            self._add(task)
        try:
            while running:
                self._pipeline.step()
                for _ in range(len(running)):
                    task = running.popleft()
                    task.collect()
                    if task.tokens:
                        for follower in task.followers:
                            self._add(follower)
                            running.append(follower)
                        task.followers = []
                    if not task.done:
                        running.append(task)
                yield
        finally:  # a reader that has enough closes the generator
            for task in running:
                task.handle.cancel()
            while self._pipeline.has_non_finished_requests():
                self._pipeline.step()

    def _add(self, task: _Task) -> None:
        import openvino

        ids = openvino.Tensor(np.array([task.prompt], dtype=np.int64))
        task.handle = self._pipeline.add_request(next(self._numbers), ids, task.settings)

    def _tasks(self, request: Request, sampling: Sampling) -> list[_Task]:
        prompt = self._prompting.single(request, "openvino")
        limit = self._prompting.limit(len(prompt), sampling)
        return [
            _Task(prompt, self._settings(limit, sample_key(request.seed, number), sampling))
            for number in range(request.num_samples)
        ]

    def _settings(self, limit: int, key: int, sampling: Sampling) -> Any:
        from openvino_genai import GenerationConfig

        settings = GenerationConfig()
        settings.max_new_tokens = limit
        settings.stop_token_ids = set(self._prompting.stop_ids)
        settings.eos_token_id = min(self._prompting.stop_ids)  # without one, OpenVINO refuses the settings
        if sampling.temperature > 0:
            settings.do_sample = True
            settings.temperature = sampling.temperature
            settings.top_k = min(sampling.top_k or self._vocabulary, self._vocabulary)
            settings.top_p = sampling.top_p
            settings.rng_seed = key & _SEED_BITS
        return settings


def _wait_for_prompts(conversations: Sequence[Hashable], groups: Sequence[list[_Task]]) -> list[_Task]:
    """Let samples follow the first one with their prompt, and that the first one of their conversation."""
    first_of_conversation: dict[Hashable, _Task] = {}
    first_of_prompt: dict[tuple[int, ...], _Task] = {}
    leaders = []
    for conversation, group in zip(conversations, groups, strict=True):
        for task in group:
            leader = first_of_prompt.setdefault(task.prompt, task)
            if leader is task:
                leader = first_of_conversation.setdefault(conversation, task)
            if leader is task:
                leaders.append(task)
            else:
                leader.followers.append(task)
    return leaders


def load_openvino_engine(path: str | Path, precision: Precision = "auto", batch_size: int = 64) -> OpenVINOEngine:
    """Load a steerable checkpoint into OpenVINO, on the CPU; converts it where that has not been done.

    Raises:
        UserError: OpenVINO is not installed, it cannot run this kind of model, or as `load_engine`.
    """
    with needs_extra("openvino", "the engine openvino"):
        from openvino_genai import ContinuousBatchingPipeline, SchedulerConfig
    path = Path(path)
    info = steerable(path)
    precision = "bf16" if precision == "bf16" and inference_dtype(precision) == torch.bfloat16 else "fp32"
    with converted(path, precision) as folder:
        config = load_config(folder)
        scheduler = SchedulerConfig()
        scheduler.max_num_seqs = batch_size
        scheduler.max_num_batched_tokens = max(_BATCHED_TOKENS, batch_size)
        scheduler.enable_prefix_caching = True
        kind = {"bf16": "bf16", "fp32": "f32"}[precision]
        properties = {"INFERENCE_PRECISION_HINT": kind, "KV_CACHE_PRECISION": kind}
        pipeline = ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties)
    prompting = Prompting(load_tokenizer(path), info.schema, config)
    return OpenVINOEngine(pipeline, prompting, config.get_text_config().vocab_size)
