"""vLLM as an engine: for throughput on GPUs (and on CPUs where a CPU build of vLLM is installed).

Prompts go in as ids and responses come out as ids, so vLLM neither loads the tokenizer nor sees any text. Every sample
is a request of its own with its own seed: with the prefix cache its prompt is computed once all the same, and sample i
is the same whatever else is asked for. Texts differ from those of the in-process engine, whose random numbers are
others, except with temperature 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import Precision, load_config, load_tokenizer
from steerlm.checkpoint.served import vllm_settings
from steerlm.checkpoint.weights import check_weights
from steerlm.errors import needs_extra
from steerlm.generation.engine import steerable
from steerlm.generation.prompting import Prompting
from steerlm.generation.requests import Request, Sample, Sampling
from steerlm.generation.sampling import sample_key

_SEED_BITS = (1 << 63) - 1


class VllmEngine:
    """Samples with vLLM.

    Attributes:
        schema: the attributes the model was trained with.
    """

    def __init__(self, llm: Any, prompting: Prompting) -> None:
        """Wrap a started `vllm.LLM`."""
        self.schema: AttributeSchema = prompting.schema
        self._llm = llm
        self._prompting = prompting
        self._numbers = itertools.count()

    def room(self, request: Request) -> int:
        return self._prompting.room(len(self._prompting.single(request, "vllm")))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        """See `Engine.generate`.

        Raises:
            UserError: as there; or a request with guidance or a value between two levels.
        """
        prompts: list[Any] = []
        parameters: list[Any] = []
        for request in requests:
            ids = self._prompting.single(request, "vllm")
            wanted = sampling_parameters(self._prompting, len(ids), request, sampling)
            prompts += [{"prompt_token_ids": list(ids)} for _ in wanted]
            parameters += wanted
        outputs = iter(self._llm.generate(prompts, parameters, use_tqdm=False) if prompts else [])
        return [[self._sample(next(outputs)) for _ in range(request.num_samples)] for request in requests]

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str]:
        ids = self._prompting.single(request, "vllm")
        parameters, *_ = sampling_parameters(self._prompting, len(ids), request, sampling)
        yield from self._prompting.pieces(self._states(list(ids), parameters))

    def _states(self, ids: list[int], parameters: Any) -> Iterator[tuple[list[int], bool]]:
        engine = self._llm.llm_engine
        name = f"stream-{next(self._numbers)}"
        engine.add_request(name, {"prompt_token_ids": ids}, parameters)
        try:
            while engine.has_unfinished_requests():
                for output in engine.step():
                    yield list(output.outputs[0].token_ids), output.finished
        finally:  # a reader that has enough closes the generator
            if engine.has_unfinished_requests():
                engine.abort_request([name])

    def _sample(self, output: Any) -> Sample:
        [completion] = output.outputs
        return self._prompting.sample(list(completion.token_ids), completion.finish_reason == "stop")


def sampling_parameters(prompting: Prompting, length: int, request: Request, sampling: Sampling) -> list[Any]:
    """Return the `vllm.SamplingParams` of a request's samples.

    Raises:
        UserError: the prompt leaves no room.
    """
    from vllm import SamplingParams

    limit = prompting.limit(length, sampling)
    return [
        SamplingParams(
            n=1,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            seed=sample_key(request.seed, number) & _SEED_BITS,
            max_tokens=limit,
            # our own ids end a response, and nothing else does
            stop_token_ids=sorted(prompting.stop_ids),
            ignore_eos=True,
            detokenize=False,
        )
        for number in range(request.num_samples)
    ]


class Start(NamedTuple):
    """What vLLM is started with: its settings, and what builds the prompts."""

    settings: dict[str, object]
    prompting: Prompting


def vllm_start(path: str | Path, precision: Precision, batch_size: int, devices: int = 1) -> Start:
    """Return what to start vLLM with on a steerable checkpoint; see `load_vllm_engine`."""
    path = Path(path)
    info = steerable(path)
    check_weights(path)
    prompting = Prompting(load_tokenizer(path), info.schema, load_config(path))
    settings = {
        **vllm_settings(path, precision, prompting.context, devices),
        "max_num_seqs": batch_size,
        "generation_config": "vllm",
    }
    return Start(settings, prompting)


def load_vllm_engine(
    path: str | Path, precision: Precision = "auto", batch_size: int = 64, devices: int = 1
) -> VllmEngine:
    """Start vLLM on a steerable checkpoint.

    Args:
        path: folder written by `train-sft` or `bootstrap`.
        batch_size: most responses decoded together.
        devices: of this machine that share the model.

    Raises:
        UserError: vLLM is not installed, or as `load_engine`.
    """
    with needs_extra("vllm", "the engine vllm"):
        from vllm import LLM
    settings, prompting = vllm_start(path, precision, batch_size, devices)
    return VllmEngine(LLM(**settings), prompting)
