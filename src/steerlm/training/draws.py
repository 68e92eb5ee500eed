"""Which records an epoch of conditioned fine-tuning draws, by the weights of their sources."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np

from steerlm.batching.shared_prompts import IntArray
from steerlm.config import SourceConfig


class Draws:
    """Which records occur in an epoch.

    Args:
        source: per record the number of its source.
        names: number by name.
        sources: weight and epochs by name.
        seed: of the order in which the records of a source take their turn.

    Attributes:
        repeats: how often a record can occur within an epoch, at most.
    """

    def __init__(self, source: IntArray, names: Mapping[str, int], sources: Sequence[SourceConfig], seed: int):
        self._num_records = len(source)
        self._members: list[tuple[IntArray, float, int]] = []
        given = {config.name: (config.weight, config.epochs) for config in sources}
        for name, number in names.items():
            weight, epochs = given.get(name, (1.0, 1))
            members = np.flatnonzero(source == number)
            if weight != 1.0:
                digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
                members = np.random.default_rng((seed, int.from_bytes(digest, "little"))).permutation(members)
            self._members.append((members, weight, epochs))
        self.repeats = max((math.ceil(weight) * epochs for _, weight, epochs in self._members), default=1)

    def draw(self, epoch: int) -> IntArray:
        """Return record + repeat * num_records for every occurrence; epochs take turns through a source, so that
        a weight of 0.1 has seen every record after ten of them."""
        drawn = []
        for members, weight, epochs in self._members:
            count = max(1, round(weight * len(members)))
            positions = np.arange(epoch * count, (epoch + 1) * count) % len(members)
            copies = np.arange(count) // len(members)
            for again in range(epochs):
                drawn.append(members[positions] + (copies * epochs + again) * self._num_records)
        return np.concatenate(drawn) if drawn else np.empty(0, dtype=np.int64)
