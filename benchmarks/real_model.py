"""The real model of the benchmarks: google/gemma-3-270m, from the hub or from the folder `STEERLM_GEMMA` names.

268 M parameters, a vocabulary of 262,144 tokens. Its conversations are cut from the text of this project's
documentation, 190 tokens on average, half of them the assistant's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.harness import ROOT
from steerlm.attributes import AttributeSchema
from steerlm.conversation import Conversation, Message

BASE = os.environ.get("STEERLM_GEMMA", "google/gemma-3-270m")
DESCRIPTION = "268 M parameters, vocabulary 262 k"
TOKENS, SPREAD = 190, 0.6


class _Text:
    """Pieces of the documentation of any number of tokens."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, schema: AttributeSchema, seed: int):
        pages = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
        self._tokenizer = tokenizer
        self._schema = schema
        prose = re.sub(r"[|`*#<>\[\]_-]+", " ", pages)
        self._ids = tokenizer(" ".join(prose.split()), add_special_tokens=False)["input_ids"]
        self._generator = np.random.default_rng(seed)

    def of(self, mean: float) -> str:
        """Return text whose length in tokens is log-normal around `mean`."""
        length = max(4, round(mean * min(self._generator.lognormal(-(SPREAD**2) / 2, SPREAD), 3.4)))
        start = int(self._generator.integers(len(self._ids) - length))
        return str(self._tokenizer.decode(self._ids[start : start + length])).strip() or "Yes."

    def labels(self) -> dict[str, float]:
        return {a.name: a.levels[int(self._generator.integers(len(a.levels)))] for a in self._schema}


def conversations(
    tokenizer: PreTrainedTokenizerBase, schema: AttributeSchema, prompts: int, responses: int, seed: int = 0
) -> Iterator[Conversation]:
    """Yield `responses` conversations for each of `prompts` prompts, with labels drawn at random."""
    text = _Text(tokenizer, schema, seed)
    header = 4 * len(schema) + 8
    for p in range(prompts):
        question = Message("user", text.of(TOKENS / 2 - header))
        for r in range(responses):
            answer = Message("assistant", text.of(TOKENS / 2), attributes=text.labels())
            yield Conversation(id=f"{p}-{r}", source="docs", messages=(question, answer), group=str(p))


def save_checkpoint(folder: Path, schema: AttributeSchema, kind: str) -> PreTrainedTokenizerBase:
    """Write the model as `train-sft` (kind sft) or `train-attribute-model` (regression, a random head) would.

    Returns:
        Its tokenizer, with the template of `schema`.
    """
    # not above: what `large_vocabulary` measures us against is older, imports this file, and has no such modules
    from steerlm.checkpoint.info import CheckpointInfo
    from steerlm.checkpoint.models import (
        load_causal_lm,
        load_sequence_classifier,
        load_tokenizer,
        resize_embeddings,
        save_model,
    )
    from steerlm.template.installing import install_template

    torch.manual_seed(0)
    tokenizer = load_tokenizer(BASE)
    known = len(tokenizer)
    install_template(tokenizer, "steerlm", schema)
    model = load_causal_lm(BASE) if kind == "sft" else load_sequence_classifier(BASE, schema)
    resize_embeddings(model, tokenizer, len(tokenizer) - known)
    if kind == "regression":
        # the head is random: differences between precisions are told in levels, so it should say some
        with torch.no_grad():
            model.score.weight.mul_(1 / 64)
    info = CheckpointInfo(
        kind=kind, schema=schema, template="steerlm", conditioning=kind == "sft", provenance={"max_length": 2048}
    )
    save_model(folder, model, tokenizer, info, "For measuring speed.\n")
    return tokenizer
