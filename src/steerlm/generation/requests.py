"""What is asked of an engine, what it decodes and what it answers: requests, draws, samples."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.guidance import Wish
from steerlm.generation.sampling import Drawing


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
        messages: ends with a user turn; assistant turns before it carry the attributes they were written with. Which
            other orders of roles are possible the chat template decides.
        attributes: what to ask for, full or partial; None = the schema's defaults, {} = nothing (unconditional). A
            value of an ordinal attribute may lie between two levels.
        num_samples: how many responses.
        seed: sample i of equal requests with equal seeds is the same text.
        guidance: how strongly attributes count (see `steerlm.generation.guidance`); 1 where none is named.
        beginning: what the response has said already; the samples go on from there.
    """

    messages: tuple[Message, ...]
    attributes: Mapping[str, Wish] | None
    num_samples: int = 1
    seed: int = 0
    guidance: Mapping[str, float] | None = None
    beginning: str = ""


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


class Lane(NamedTuple):
    """A prompt of a sample, as token ids, and the weight of its logits; the weights of a sample sum to 1."""

    prompt: tuple[int, ...]
    weight: float = 1.0


class LogProb(NamedTuple):
    """Natural logarithms of probabilities at one position: of the token drawn, and of the likeliest tokens."""

    drawn: float
    top: list[tuple[int, float]]


@dataclass(eq=False)
class Draw:
    """One sample that is to be decoded.

    Attributes:
        conversation: rows with equal ones have the same messages and differ at most in the attributes.
        key: its randomness, from `sampling.sample_key`.
        limit: most tokens it may get, at least 1.
        drawing: how its tokens are drawn.
        num_logprobs: how many of the likeliest tokens to report with each drawn one; None for no report.
        tokens: what has been decoded so far, with the stop token at the end if there was one.
        logprobs: of every token, if asked for: of the model's distribution, before temperature, top-k and top-p.
        stopped: whether it has ended with a stop token.
        cancelled: set from outside: nobody wants it any more.
    """

    lanes: tuple[Lane, ...]
    conversation: Hashable
    key: int
    limit: int
    drawing: Drawing
    num_logprobs: int | None = None
    tokens: list[int] = field(default_factory=list)
    logprobs: list[LogProb] = field(default_factory=list)
    stopped: bool = False
    cancelled: bool = False

    @property
    def done(self) -> bool:
        return self.stopped or self.cancelled or len(self.tokens) >= self.limit


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
        """Yield sample 0 of the request in pieces as they are drawn; joined they are its text."""
        ...

    def room(self, request: Request) -> int:
        """Return how many tokens the model's context leaves for a response; 0 or less: the prompt is too long."""
        ...


def generate_fitting(engine: Engine, requests: Sequence[Request], sampling: Sampling) -> list[list[Sample]]:
    """Return the samples of every request; none where its prompt leaves no room in the context."""
    found: list[list[Sample]] = [[] for _ in requests]
    fitting = [i for i, request in enumerate(requests) if engine.room(request) > 0]
    for i, samples in zip(fitting, engine.generate([requests[i] for i in fitting], sampling), strict=True):
        found[i] = samples
    return found


def said(messages: Sequence[Message]) -> tuple[object, ...]:
    """Return what of a conversation can be seen in a prompt, hashable."""
    return tuple((m.role, m.content, tuple(sorted((m.attributes or {}).items()))) for m in messages)
