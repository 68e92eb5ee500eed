"""A steerable model whose weights lie on several devices of this machine: one built-in engine per device, in step.

transformers cuts the matrices (tensor parallelism); every process runs the same decode loop on its part, with the same
requests and the same random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import Precision, load_config, load_tokenizer
from steerlm.generation.engine import LocalEngine, load_engine, steerable
from steerlm.generation.prompting import Prompting
from steerlm.generation.requests import Request, Sample, Sampling
from steerlm.storage.ranks import Ranks


class SpreadEngine:
    """Samples with one model on several devices.

    Attributes:
        schema: the attributes the model was trained with.
    """

    def __init__(self, path: Path, precision: Precision, batch_size: int, devices: int) -> None:
        """Start the processes; see `open_engine`."""
        self.schema: AttributeSchema = steerable(path).schema
        self._prompting = Prompting(load_tokenizer(path), self.schema, load_config(path))
        self._ranks: Ranks[LocalEngine] = Ranks(devices, partial(load_engine, path, precision, batch_size, devices))

    def room(self, request: Request) -> int:
        return self._prompting.room(max(len(lane.prompt) for lane in self._prompting.lanes(request)))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        samples: list[list[Sample]] = self._ranks.call(_generate, list(requests), sampling)
        return samples

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str]:
        """See `Engine.stream`; the response comes in one piece."""
        [[sample, *_]] = self.generate([request], sampling)
        yield sample.text


def _generate(engine: LocalEngine, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
    samples = engine.generate(requests, sampling)
    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()  # the cache's memory is for whoever else uses these devices, to score the texts
    return samples
