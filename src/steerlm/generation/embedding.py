"""Texts as vectors, for finding training answers to prompts like one: by their letters (Cavnar and Trenkle 1994).

That needs no model and no language: runs of three to five characters within words, hashed to a fixed width and weighted
by how rare they are.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

_WIDTH = 1024
_RUNS = (3, 4, 5)


class LetterEmbedder:
    """Hashed runs of letters, the rarer the heavier.

    Args:
        texts: whose runs say how rare each is.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        seen = np.zeros(_WIDTH)
        for text in texts:
            seen[list({place for place, _ in _runs(text)})] += 1
        self._weights = np.log((1 + len(texts)) / (1 + seen)) + 1

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors (N, D), of length 1; a text that says nothing has zeros."""
        vectors = np.zeros((len(texts), _WIDTH), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for (place, sign), count in Counter(_runs(text)).items():
                row[place] += sign * (1 + math.log(count))
        return _normalised(vectors * self._weights.astype(np.float32))


def _runs(text: str) -> list[tuple[int, int]]:
    """Return the place and the sign of every run of letters of a text."""
    found = []
    for word in re.findall(r"\w+", text.lower()):
        marked = f" {word} "
        for length in _RUNS:
            for start in range(max(1, len(marked) - length + 1)):
                number = zlib.crc32(marked[start : start + length].encode("utf-8", "surrogatepass"))
                found.append((number % _WIDTH, 1 if number & (1 << 31) else -1))
    return found


def _normalised(vectors: npt.NDArray[np.floating]) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
