"""Ways to teach a header that are no options of `train-sft`, put in place for `results_header`.

Each is a context that gives how often a record may occur in an epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from steerlm.batching.shared_prompts import IntArray
from steerlm.native import RECORD
from steerlm.training import new_rows
from steerlm.training.conditioning import ConditionedExamples
from steerlm.training.losses import Loss
from steerlm.training.trainer import SteerTrainer

_MOST_COPIES = 4


@contextlib.contextmanager
def rows_at(factor: float) -> Iterator[int]:
    """Let the rows of new tokens learn so much faster than everything else."""
    with mock.patch.object(new_rows, "FASTER", factor):
        yield 1


@contextlib.contextmanager
def balanced() -> Iterator[int]:
    """Draw records so that every level of every attribute is seen equally often, as far as records are seldom drawn
    more than `_MOST_COPIES` times."""
    original = ConditionedExamples.draw

    def draw(self: ConditionedExamples, epoch: int) -> IntArray:
        if self._draws.repeats < _MOST_COPIES:
            return original(self, epoch)
        records = np.unique(original(self, epoch) % len(self))
        codes_N_K = np.array([self.turns(record)[-1].codes for record in records.tolist()])
        weights_N = np.zeros(len(records))
        for codes_N in codes_N_K.T:
            weights_N += 1.0 / np.bincount(codes_N + 1)[codes_N + 1]
        expected_N = np.minimum(weights_N / weights_N.mean(), _MOST_COPIES - 1)
        copies_N = np.floor(expected_N + np.random.default_rng(epoch).random(len(records))).astype(np.int64)
        return np.concatenate([records[copies_N > copy] + copy * len(self) for copy in range(_MOST_COPIES)])

    with mock.patch.object(ConditionedExamples, "draw", draw):
        yield _MOST_COPIES


@contextlib.contextmanager
def heavy_ends(first: int, factor: float) -> Iterator[int]:
    """Weigh the first tokens of an answer, and its last one, more than the others; their sum stays what it was."""

    def loss(trainer: SteerTrainer, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        losses_N = _losses(trainer, model, inputs)
        response_N = _responses(inputs["positions"])
        counts_R = torch.bincount(response_N)
        place_N = torch.arange(len(response_N)) - (counts_R.cumsum(0) - counts_R)[response_N]
        heavy_N = (place_N < first) | (place_N == counts_R[response_N] - 1)
        weights_N = torch.where(heavy_N, factor, 1.0)
        return (losses_N * weights_N).sum() * (len(weights_N) / weights_N.sum())

    with _training_loss(loss):
        yield 1


@contextlib.contextmanager
def against_another(weight: float) -> Iterator[int]:
    """Add a term that falls as an answer gets likelier behind its own header than behind one with other levels."""
    generators: dict[int, torch.Generator] = {}

    def loss(trainer: SteerTrainer, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        drawn = generators.setdefault(id(trainer), torch.Generator().manual_seed(trainer.args.seed))
        others = _other_levels(trainer, inputs["input_ids"], drawn)
        right_N = _losses(trainer, model, inputs)
        other_N = _losses(trainer, model, {**inputs, "input_ids": others})
        response_N = _responses(inputs["positions"])
        lead_R = torch.zeros(int(response_N[-1]) + 1).index_add(0, response_N, other_N - right_N)
        return right_N.sum() + weight * functional.softplus(-lead_R).sum()

    with _training_loss(loss):
        yield 1


@contextlib.contextmanager
def _training_loss(loss: Any) -> Iterator[None]:
    """Train with another sum of losses; validate with the usual one."""
    original = SteerTrainer.loss_sum

    def loss_sum(self: SteerTrainer, model: Any, inputs: dict[str, Tensor]) -> Loss:
        if not model.training:
            return original(self, model, inputs)
        return Loss(loss(self, model, inputs), len(inputs["targets"]))

    with mock.patch.object(SteerTrainer, "loss_sum", loss_sum):
        yield


def _losses(trainer: SteerTrainer, model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the loss of every trained token (N,)."""
    return trainer.response_losses(model, inputs, apart=True)[: len(inputs["targets"])]


def _responses(positions_N: Tensor) -> Tensor:
    """Return the number of the response that a trained token is of."""
    begins_N = torch.ones_like(positions_N)
    begins_N[1:] = positions_N[1:] != positions_N[:-1] + 1
    return begins_N.cumsum(0) - 1


def _other_levels(trainer: SteerTrainer, ids: Tensor, drawn: torch.Generator) -> Tensor:
    """Return ids in which about half of the levels are other ones of the same attribute."""
    tokenizer: Any = trainer.processing_class
    levels: dict[str, list[int]] = {}
    for token, (attribute, *_) in tokenizer.init_kwargs[RECORD]["levels"].items():
        levels.setdefault(attribute, []).append(tokenizer.convert_tokens_to_ids(token))
    for own in map(torch.tensor, levels.values()):
        where = (ids[..., None] == own).any(-1) & (torch.rand(ids.shape, generator=drawn) < 0.5)
        level = (ids[..., None] == own).int().argmax(-1)
        shift = torch.randint(1, len(own), ids.shape, generator=drawn)
        ids = torch.where(where, own[(level + shift) % len(own)], ids)
    return ids


_OWN_TEMPLATE = """\
{%- for message in messages %}{{ '<s>' + message.role + '\n' + message.content + '</s>' }}{% endfor -%}
{%- if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif -%}
"""


def with_own_template(base: Path, out: Path) -> Path:
    """Write a base model with a chat template of its own and two tokens in reserve, as instruct models have them."""
    from steerlm.checkpoint.models import load_causal_lm, load_tokenizer, resize_embeddings

    model, tokenizer = load_causal_lm(base), load_tokenizer(base)
    tokenizer.chat_template = _OWN_TEMPLATE
    resize_embeddings(model, tokenizer, tokenizer.add_tokens(["<unused0>", "<unused1>"], special_tokens=True))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


TRIES: dict[str, Callable[[], AbstractContextManager[int]]] = {
    "new rows at the common rate": lambda: rows_at(1.0),
    "new rows at 30 times the rate": lambda: rows_at(30.0),
    "levels balanced": balanced,
    # what dropout leaves of a header differs
    "every answer twice, a third of its header left out": lambda: contextlib.nullcontext(2),
    "an answer's first 8 tokens and its end three times": lambda: heavy_ends(8, 3.0),
    "right header against another": lambda: against_another(1.0),
    "right header against another, as much computing": lambda: against_another(1.0),
}
"""By the name of the option in `results_header`."""
