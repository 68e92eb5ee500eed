"""One rank of a distributed training; run by torchrun in `test_distributed.py`.

torchrun --nproc-per-node 2 -m tests.invariants.ranks OUT ACCUMULATION EPOCHS KIND
"""

from __future__ import annotations

import sys
from pathlib import Path

from steerlm.config import TrainingSection
from steerlm.training.batching import EncodedExamples
from tests.small_training import language_model, run, section, token_examples


def settings(accumulation: int, epochs: int, fsdp: bool = False) -> TrainingSection:
    return section(
        epochs=epochs, tokens_per_batch=128, gradient_accumulation_steps=accumulation, learning_rate=2e-4, fsdp=fsdp
    )


def examples() -> EncodedExamples:
    """Return data that makes three batches: with two ranks, one of them has none left at the end of an epoch."""
    return token_examples(10)


def pretend_to_have_gpus() -> None:
    """Let accelerate shard on the CPU, which it refuses although FSDP2 itself works there."""
    from accelerate import DistributedType, PartialState

    original = PartialState.__init__

    def pretend(self: PartialState, *arguments: object, **options: object) -> None:
        original(self, *arguments, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU

    PartialState.__init__ = pretend


if __name__ == "__main__":
    out, accumulation, epochs, kind = sys.argv[1:]
    if kind == "fsdp":
        pretend_to_have_gpus()
    run(settings(int(accumulation), int(epochs), kind == "fsdp"), language_model(), examples(), Path(out))
