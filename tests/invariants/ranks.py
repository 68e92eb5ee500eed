"""One rank of a distributed training; run by torchrun in `test_distributed.py`.

torchrun --nproc-per-node 2 -m tests.invariants.ranks OUT ACCUMULATION EPOCHS
"""

from __future__ import annotations

import sys
from pathlib import Path

from steerlm.batching import EncodedExamples
from steerlm.config import TrainingSection
from tests.small_training import language_model, run, section, token_examples


def settings(accumulation: int, epochs: int) -> TrainingSection:
    return section(epochs=epochs, tokens_per_batch=128, gradient_accumulation_steps=accumulation, learning_rate=2e-4)


def examples() -> EncodedExamples:
    """Return data that makes three batches: with two ranks, one of them has none left at the end of an epoch."""
    return token_examples(10)


if __name__ == "__main__":
    run(settings(int(sys.argv[2]), int(sys.argv[3])), language_model(), examples(), Path(sys.argv[1]))
