"""Any Hugging Face language model as it is: prompted by its own chat template, or shown a transcript.

A push (`Push`) adds a vector to what a layer hands on, which is how activation vectors steer (mean difference, arXiv
2312.06681). That is a hook of a few lines here because the packages that have it cannot be installed beside this one:
steering-vectors wants transformers below 5, repeng numpy below 2.

The engine's own loop samples. What it cannot batch, transformers does: models that keep a recurrent state, and pushes,
of which every row has its own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LogitsProcessorList

from steerlm.checkpoint.models import (
    Precision,
    context_length,
    default_device,
    load_causal_lm,
    load_tokenizer,
    sampling_precision,
)
from steerlm.conversation import Message
from steerlm.generation.decoding import decode_within_memory
from steerlm.generation.requests import Draw, Lane, Sample, Sampling
from steerlm.generation.sampling import Drawing, next_tokens, sample_key
from steerlm.threads import thread_chooser

_NEXT_TURN = "\nUser:"
"""Where a transcript goes on without being asked to."""
_NEXT_TURN_TOKENS = 8
"""Last tokens of an answer in which it is looked for."""


class Push(NamedTuple):
    """What is added to the output of a layer at every position, one row per answer, shape (N, width)."""

    layer: int
    vectors: torch.Tensor


class PlainModel:
    """A loaded model.

    Attributes:
        has_template: whether its tokenizer has a chat template.
        num_layers: how many layers it has.
        context: most tokens of a prompt and its answer.
    """

    def __init__(self, where: str | Path, precision: Precision = "auto", batch_size: int = 64) -> None:
        """Load a model and its tokenizer.

        Raises:
            UserError: there is none, or it cannot be loaded.
        """
        self._tokenizer = load_tokenizer(where)
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = load_causal_lm(where, sampling_precision(precision, where)).to(default_device()).eval()
        self._batch_size = batch_size
        self._threads = thread_chooser(self._model, "sampling", "steps/s")
        self.has_template = self._tokenizer.chat_template is not None
        self.context = context_length(self._model.config, self._tokenizer)
        self.num_layers = int(self._model.config.get_text_config().num_hidden_layers)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the prompt of a conversation that ends with a user turn."""
        if self.has_template:
            turns = [message.to_dict() for message in messages]
            return list(self._tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False))
        lines = [f"{message.role.capitalize()}: {message.content}" for message in messages]
        return list(self._tokenizer("\n".join([*lines, "Assistant:"])).input_ids)

    def room(self, messages: Sequence[Message]) -> int:
        """Return how many tokens the context leaves for an answer."""
        return self.context - len(self.ids(messages))

    def answers(
        self,
        conversations: Sequence[Sequence[Message]],
        seeds: Sequence[int],
        sampling: Sampling,
        pushes: Sequence[Push] = (),
    ) -> list[Sample | None]:
        """Return an answer to each conversation; None where the prompt fills the context.

        Args:
            conversations: each ends with a user turn.
            seeds: one each, which alone its draws depend on.
            pushes: what to add to layers' outputs, a row per conversation.
        """
        ids = [self.ids(messages) for messages in conversations]
        if pushes or self._model._is_stateful:
            return self._generated(ids, seeds, sampling, pushes)
        rows = []
        for row, seed in zip(ids, seeds, strict=True):
            prompt, limit = tuple(row), min(self.context - len(row), sampling.max_new_tokens)
            rows.append(Draw((Lane(prompt),), prompt, sample_key(seed, 0), limit, sampling.drawing))
        return self._decoded(rows)

    def _decoded(self, rows: Sequence[Draw]) -> list[Sample | None]:
        fitting = [row for row in rows if row.limit > 0]
        stop_ids = self._end_ids()
        for running in decode_within_memory(
            self._model, fitting, batch_size=self._batch_size, stop_ids=stop_ids, threads=self._threads
        ):
            if not self.has_template:
                for row in running:
                    row.cancelled = _NEXT_TURN in self._tokenizer.decode(row.tokens[-_NEXT_TURN_TOKENS:])
        return [self._sample(row.tokens) if row.limit > 0 else None for row in rows]

    def _generated(
        self, ids: Sequence[list[int]], seeds: Sequence[int], sampling: Sampling, pushes: Sequence[Push]
    ) -> list[Sample | None]:
        answers: list[Sample | None] = [None] * len(ids)
        for batch in self._batches([self.context - len(row) for row in ids], sampling.max_new_tokens):
            keys = torch.tensor([sample_key(seeds[i], 0) for i in batch], device=self._model.device)
            with self._pushed([Push(layer, vectors[batch]) for layer, vectors in pushes]):
                samples = self._batch([ids[i] for i in batch], keys, sampling)
            for i, sample in zip(batch, samples, strict=True):
                answers[i] = sample
        return answers

    def _batches(self, rooms: Sequence[int], wanted: int) -> Iterator[list[int]]:
        """Yield the numbers of prompts that are answered together; one whose context is short is answered alone."""
        whole = [i for i, room in enumerate(rooms) if room >= wanted]
        yield from (whole[begin : begin + self._batch_size] for begin in range(0, len(whole), self._batch_size))
        yield from ([i] for i, room in enumerate(rooms) if 0 < room < wanted)

    def activations(self, messages: Sequence[Message], answer: str, layers: Sequence[int]) -> torch.Tensor:
        """Return the mean output of some layers over an answer's tokens, shape (layers, width)."""
        prompt = self.ids(messages)
        said = self._tokenizer(answer, add_special_tokens=False).input_ids[: max(1, self.context - len(prompt))]
        row = torch.tensor([[*prompt, *said]], device=self._model.device)
        with torch.no_grad():
            states = self._model(row, output_hidden_states=True).hidden_states
        return torch.stack([states[layer + 1][0, len(prompt) :].float().mean(dim=0) for layer in layers]).cpu()

    def _batch(self, ids: Sequence[list[int]], keys_B: torch.Tensor, sampling: Sampling) -> list[Sample]:
        padded = self._tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt").to(self._model.device)
        length = padded["input_ids"].shape[1]
        stop = {} if self.has_template else {"stop_strings": [_NEXT_TURN], "tokenizer": self._tokenizer}
        tokens = self._model.generate(
            **padded,
            max_new_tokens=min([sampling.max_new_tokens, *(self.context - len(row) for row in ids)]),
            pad_token_id=self._tokenizer.pad_token_id,
            do_sample=False,
            **dict.fromkeys(("temperature", "top_k", "top_p")),
            logits_processor=LogitsProcessorList([_Draws(keys_B, sampling.drawing, length)]),
            **stop,
        )[:, length:]
        return [self._sample(row) for row in tokens.tolist()]

    def _sample(self, row: list[int]) -> Sample:
        ends = self._end_ids()
        size = next((n for n, token in enumerate(row, 1) if token in ends), len(row))
        text = self._tokenizer.decode(row[:size], skip_special_tokens=True)
        finished = row[size - 1] in ends if size else True
        if not self.has_template:
            text, stopped, _ = text.partition(_NEXT_TURN)
            finished = finished or bool(stopped)
        return Sample(text.strip(), size, finished)

    def _end_ids(self) -> frozenset[int]:
        found = self._model.generation_config.eos_token_id
        found = found if isinstance(found, list) else [found]
        return frozenset(token for token in (*found, self._tokenizer.eos_token_id) if token is not None)

    @functools.cached_property
    def _layers(self) -> torch.nn.ModuleList:
        lists = (part for part in self._model.get_decoder().modules() if isinstance(part, torch.nn.ModuleList))
        return next(layers for layers in lists if len(layers) == self.num_layers)

    @contextlib.contextmanager
    def _pushed(self, pushes: Sequence[Push]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for layer, vectors in pushes:
                hook = _adder(vectors.to(self._model.device, self._model.dtype))
                stack.callback(self._layers[layer].register_forward_hook(hook).remove)
            yield


class _Draws:
    """A logits processor that leaves every row the token that its own key draws, whatever is in its batch."""

    def __init__(self, keys_B: torch.Tensor, drawing: Drawing, length: int) -> None:
        self._keys_B, self._drawing, self._length = keys_B, drawing, length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        steps_B = torch.full_like(self._keys_B, input_ids.shape[1] - self._length)
        tokens_B = next_tokens(scores.float(), self._keys_B, steps_B, self._drawing)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens_B[:, None], 0.0)


def _adder(vectors: torch.Tensor) -> Callable[[object, object, Any], Any]:
    """Return the hook that adds a row's vector to each of its positions."""

    def add(module: object, inputs: object, output: Any) -> Any:
        states = output[0] if isinstance(output, tuple) else output
        states = states + vectors[:, None, :]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return add


def add_pushes(pushes: Sequence[Push]) -> list[Push]:
    """Add up the pushes on each layer."""
    layers: dict[int, torch.Tensor] = {}
    for layer, vectors in pushes:
        layers[layer] = layers[layer] + vectors if layer in layers else vectors
    return [Push(layer, vectors) for layer, vectors in layers.items()]
