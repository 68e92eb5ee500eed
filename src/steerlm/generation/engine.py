"""Sampling from a steerable model (SteerLM, section 3.3): a conversation and attributes in, responses out.

    from steerlm import Message, Request, Sampling, load_engine
    engine = load_engine("runs/playground/bootstrap/model")
    request = Request((Message("user", "Why is the sky blue?"),), {"quality": 4, "humor": 3}, num_samples=4)
    [samples] = engine.generate([request], Sampling(max_new_tokens=256))

The in-process engine works on any Hugging Face causal language model with a key-value cache. A prompt is computed once
for all its samples, and what prompts share that differ in their attributes only, once as well. With fp32 weights a
sample depends on its request's seed and its number alone, not on what is sampled beside it. `steerlm.generation.online`
serves requests that come at any time with the same loop.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlm.attributes import AttributeSchema, Value
from steerlm.checkpoint.models import (
    Precision,
    default_device,
    load_causal_lm,
    load_info,
    load_tokenizer,
)
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.decoding import Decoder, Lane, Row, decode
from steerlm.generation.guidance import Wish, branches
from steerlm.generation.sampling import Drawing, sample_key
from steerlm.template import ConversationEncoder

_PROMPTS_REMEMBERED = 8192


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        max_new_tokens: longest response in tokens, its end token included; the model's context may end it earlier.
        temperature: 0 takes the likeliest token (greedy).
        top_k: draw from the k likeliest tokens; 0 = all. The paper uses 50.
        top_p: of those, from the smallest set whose probability reaches `top_p`.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if not 0 <= self.temperature < float("inf"):
            raise UserError(f"temperature must be 0 or a positive number, got {self.temperature}")
        if self.top_k < 0:
            raise UserError(f"top_k must be 0 (all tokens) or positive, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    @property
    def drawing(self) -> Drawing:
        """How one token is drawn."""
        return Drawing(self.temperature, self.top_k, self.top_p)


@dataclass(frozen=True)
class Request:
    """A conversation that wants a response.

    Attributes:
        messages: ends with a user turn; assistant turns before it carry the attributes they were written with.
        attributes: what to ask for, full or partial; None = the schema's defaults, {} = nothing (unconditional). A
            value of an ordinal attribute may lie between two levels.
        num_samples: how many responses.
        seed: sample i of equal requests with equal seeds is the same text.
        guidance: how strongly attributes count (see `steerlm.generation.guidance`); 1 where none is named.
    """

    messages: tuple[Message, ...]
    attributes: Mapping[str, Wish] | None
    num_samples: int = 1
    seed: int = 0
    guidance: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Sample:
    """A response.

    Attributes:
        text: without control tokens and without an attribute line that the model echoed at its end.
        num_tokens: tokens drawn, the end token included.
        finished: False where it was cut off by `max_new_tokens` or by the model's context.
    """

    text: str
    num_tokens: int
    finished: bool


class Engine(Protocol):
    """Whatever samples from a steerable model."""

    schema: AttributeSchema

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        """Return the samples of every request, in order.

        Raises:
            UserError: a prompt that leaves no room in the model's context, an unknown attribute, a value off its scale.
        """
        ...

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str]:
        """Yield sample 0 of the request in pieces as they are drawn; joined they are its text.

        Raises:
            UserError: as `generate`.
        """
        ...

    def room(self, request: Request) -> int:
        """Return how many tokens the model's context leaves for a response; 0 or less: the prompt is too long."""
        ...


class LocalEngine:
    """The in-process engine.

    Attributes:
        schema: the attributes the model was trained with.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        schema: AttributeSchema,
        batch_size: int = 64,
    ) -> None:
        """Wrap a loaded model.

        Args:
            model: a causal language model; used as it is, on its device and in its precision.
            tokenizer: with a steerlm chat template installed; its clean-up of spaces is switched off.
            schema: the attributes.
            batch_size: most responses decoded together.

        Raises:
            UserError: the tokenizer has no template of ours, or the model keeps a recurrent state.
        """
        if model._is_stateful:
            raise UserError(
                f"{model.name_or_path!r} keeps a recurrent state, which the in-process engine cannot batch; "
                "use a model with attention only"
            )
        # some tokenizers turn "do n't" into "don't": a later token would change text that was streamed already
        tokenizer.clean_up_tokenization_spaces = False
        self.schema = schema
        self._model = model.eval()
        self._encoder = ConversationEncoder(tokenizer, schema)
        self._batch_size = batch_size
        # whatever marks structure ends a response: no response in training contains it
        self._stop_ids = self._encoder.control_ids | frozenset(self._encoder.stop_ids)
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._context: int | None = context
        self._prompts: dict[tuple[object, ...], tuple[int, ...]] = {}

    @property
    def encoder(self) -> ConversationEncoder:
        """Builds the prompts and reads the responses."""
        return self._encoder

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt and its response; None where the model has no limit."""
        return self._context

    @property
    def batch_size(self) -> int:
        """Most responses decoded together."""
        return self._batch_size

    def decoder(self) -> Decoder:
        """Return a decoder for requests that come at any time."""
        return Decoder(self._model, batch_size=self._batch_size, stop_ids=self._stop_ids, online=True)

    def room(self, request: Request) -> int:
        """See `Engine.room`."""
        return self._room(max(len(lane.prompt) for lane in self._lanes(request)))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
        """See `Engine.generate`."""
        conversations: dict[tuple[object, ...], int] = {}
        groups = []
        for request in requests:
            number = conversations.setdefault(said(request.messages), len(conversations))
            groups.append(self.rows(request, sampling, number))
        for _ in self._decode([row for group in groups for row in group]):
            pass
        return [[self._sample(row) for row in group] for group in groups]

    def stream(self, request: Request, sampling: Sampling) -> Iterator[str]:
        """See `Engine.stream`."""
        [row, *_] = self.rows(request, sampling, 0)
        yielded = ""
        for _ in self._decode([row]):
            text = self._text(row) if row.done else settled(self._encoder.decode(row.tokens), self.schema)
            if len(text) > len(yielded):
                assert text.startswith(yielded), "the decoder changed text that was already streamed"
                yield text[len(yielded) :]
                yielded = text

    def rows(
        self, request: Request, sampling: Sampling, conversation: Hashable, num_logprobs: int | None = None
    ) -> list[Row]:
        """Return the samples of a request, not decoded yet.

        Args:
            request: the request.
            sampling: how to draw.
            conversation: equal for requests with the same messages.
            num_logprobs: as in `Row`.

        Raises:
            UserError: as `generate`; or a request that mixes more prompts than fit into a batch.
        """
        lanes = self._lanes(request)
        if len(lanes) > self._batch_size:
            raise UserError(f"the request mixes {len(lanes)} prompts, but only {self._batch_size} fit into a batch")
        length = max(len(lane.prompt) for lane in lanes)
        room = self._room(length)
        if room < 1:
            raise UserError(
                f"the prompt has {length} tokens and the model's context only {self._context}; "
                "shorten it or drop its oldest turns"
            )
        limit = min(sampling.max_new_tokens, room)
        return [
            Row(lanes, conversation, sample_key(request.seed, number), limit, sampling.drawing, num_logprobs)
            for number in range(request.num_samples)
        ]

    def _lanes(self, request: Request) -> tuple[Lane, ...]:
        wishes: Mapping[str, object] = self.schema.defaults if request.attributes is None else request.attributes
        mixture = branches(self.schema, wishes, request.guidance or {})
        return tuple(Lane(self._prompt(request.messages, branch.attributes), branch.weight) for branch in mixture)

    def _prompt(self, messages: Sequence[Message], attributes: Mapping[str, Value]) -> tuple[int, ...]:
        """Return the ids of a prompt; remembers the latest ones, as callers ask for `room` first."""
        key = (said(messages), tuple(attributes.items()))
        prompt = self._prompts.get(key)
        if prompt is None:
            prompt = tuple(self._encoder.prompt(messages, attributes))
            if len(self._prompts) >= _PROMPTS_REMEMBERED:
                self._prompts.clear()
            self._prompts[key] = prompt
        return prompt

    def _room(self, length: int) -> int:
        return (1 << 31 if self._context is None else self._context) - length

    def _decode(self, rows: list[Row]) -> Iterator[list[Row]]:
        return decode(self._model, rows, batch_size=self._batch_size, stop_ids=self._stop_ids)

    def _sample(self, row: Row) -> Sample:
        return Sample(self._text(row), len(row.tokens), row.stopped)

    def _text(self, row: Row) -> str:
        return strip_label_echo(self._encoder.decode(row.tokens), self.schema)


def load_engine(path: str | Path, precision: Precision = "auto", batch_size: int = 64) -> LocalEngine:
    """Load a steerable checkpoint for sampling, onto the accelerator if there is one.

    Args:
        path: folder written by `train-sft` or `bootstrap`.
        precision: of the weights; auto = bf16 on a GPU that has it, fp32 on the CPU.
        batch_size: most responses decoded together.

    Raises:
        UserError: not a steerlm checkpoint, an attribute model, or a damaged one.
    """
    info = load_info(path)
    if info.kind != "sft":
        raise UserError(f"{path} is a {info.kind} attribute model; give a model that train-sft or bootstrap wrote")
    model = load_causal_lm(path, precision)
    model.to(default_device())
    return LocalEngine(model, load_tokenizer(path), info.schema, batch_size)


def strip_label_echo(text: str, schema: AttributeSchema) -> str:
    """Drop attribute lines (`quality:4,humor:0`) at the end of a response, which models sometimes echo there."""
    while True:
        body, _, line = text.rstrip().rpartition("\n")
        if not line or not _label_like(line.strip(), schema, prefix=False):
            return text
        text = body.rstrip()


def said(messages: Sequence[Message]) -> tuple[object, ...]:
    """Return what of a conversation can be seen in a prompt, hashable."""
    return tuple((m.role, m.content, tuple(sorted((m.attributes or {}).items()))) for m in messages)


def settled(text: str, schema: AttributeSchema) -> str:
    """Return the part of unfinished text that later tokens cannot change or take back.

    Held back are characters whose bytes are not complete yet, and a last line that may turn out to be an echoed label,
    with the white space before it.
    """
    text = text.rstrip("\ufffd")
    settled = text.rstrip()
    while True:
        body, _, line = settled.rpartition("\n")
        if not line or not _label_like(line.strip(), schema, prefix=True):
            return settled
        settled = body.rstrip()


def _label_like(line: str, schema: AttributeSchema, prefix: bool) -> bool:
    """Whether a line is attribute text, or (`prefix`) may become it."""
    pairs = {f"{attribute.name}:{level}" for attribute in schema for level in attribute.levels}
    *whole, last = line.split(",")
    if not all(piece in pairs for piece in whole):
        return False
    return any(pair.startswith(last) for pair in pairs) if prefix else last in pairs
