"""Texts as vectors, for finding training answers to prompts like one: by their letters, or by an encoder.

Letters (Cavnar and Trenkle 1994) need no model and no language: runs of three to five characters within words, hashed
to a fixed width and weighted by how rare they are. An encoder of sentences knows synonyms as well.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from steerlm.errors import UserError

Vectors = npt.NDArray[np.float32]

_WIDTH = 1024
_RUNS = (3, 4, 5)
_BATCH = 32


class TextEmbedder(Protocol):
    """Whatever turns texts into vectors of length 1."""

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors (N, D); a text that says nothing has zeros."""
        ...


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


class EncoderEmbedder:
    """The mean of an encoder's last hidden states.

    Args:
        folder: a Hugging Face encoder, local or by id.

    Raises:
        UserError: no such model, or none of this form.
    """

    def __init__(self, folder: str | Path) -> None:
        from steerlm.checkpoint.models import is_encoder, load_encoder, load_tokenizer

        if not is_encoder(folder):
            raise UserError(f"{folder} is no encoder of texts; give one, for example all-MiniLM-L6-v2")
        self._model, self._tokenizer = load_encoder(folder).eval(), load_tokenizer(folder)

    def __call__(self, texts: Sequence[str]) -> Vectors:
        import torch

        rows = []
        for start in range(0, len(texts), _BATCH):
            batch = self._tokenizer(
                list(texts[start : start + _BATCH]), return_tensors="pt", padding=True, truncation=True, max_length=512
            )
            with torch.inference_mode():
                hidden_B_T_H = self._model(**batch).last_hidden_state.float()
            mask_B_T_1 = batch["attention_mask"].unsqueeze(-1).float()
            rows.append(((hidden_B_T_H * mask_B_T_1).sum(1) / mask_B_T_1.sum(1).clamp(min=1)).numpy())
        return _normalised(np.concatenate(rows)) if rows else np.zeros((0, 1), dtype=np.float32)
