"""What draws the answers: the built-in engine (`local`), `vllm`, or another server (`upstream`); one interface."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from steerlm.generation.detokenizing import GrowingText
from steerlm.generation.engine import Request, Sampling
from steerlm.scorers.protocol import Scores
from steerlm.template import ConversationEncoder

FinishReason = Literal["stop", "length"]


class TokenLogProb(NamedTuple):
    """Natural logarithms of probabilities at one position, by the texts of the tokens."""

    token: str
    drawn: float
    top: list[tuple[str, float]]


@dataclass(frozen=True)
class Order:
    """What is to be drawn.

    Attributes:
        request: conversation, setting in force, number of samples, seed.
        sampling: how.
        stop: strings that end an answer.
        num_logprobs: likeliest tokens to report; None for no report.
        every_step: whether somebody wants to see the answers grow.
    """

    request: Request
    sampling: Sampling
    stop: tuple[str, ...]
    num_logprobs: int | None
    every_step: bool


@dataclass
class Answer:
    """One answer.

    Attributes:
        growing: its text so far.
        text: its whole text, at the end.
        finish_reason: why it ended; None while it grows.
        num_tokens: tokens drawn for it.
        logprobs: of its tokens that are text, if asked for.
        scores: of the attribute model, if wanted.
    """

    growing: GrowingText
    text: str = ""
    finish_reason: FinishReason | None = None
    num_tokens: int = 0
    logprobs: list[TokenLogProb] = field(default_factory=list)
    scores: Scores | None = None

    def shown(self) -> str:
        """Return the part of the text that is final."""
        return self.growing.shown() if self.finish_reason is None else self.text


class Generation(Protocol):
    """The answers to one order while they are drawn; `close` must follow."""

    @property
    def answers(self) -> Sequence[Answer]:
        """In order; they grow between two steps."""
        ...

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt."""
        ...

    def steps(self) -> AsyncGenerator[None]:
        """Yield whenever answers may have grown, until all are finished.

        Raises:
            ApiError: there will be no answer.
        """
        ...

    def close(self) -> None:
        """Give up what is not finished."""
        ...


class Backend(Protocol):
    """Whatever draws answers."""

    @property
    def encoder(self) -> ConversationEncoder:
        """Makes the prompts."""
        ...

    @property
    def guides(self) -> bool:
        """Whether logits can be mixed: guidance, and values between two levels."""
        ...

    @property
    def running(self) -> bool:
        """Whether it can draw at all."""
        ...

    @property
    def num_running(self) -> int:
        """Samples that are being drawn."""
        ...

    @property
    def num_waiting(self) -> int:
        """Samples that wait for a place."""
        ...

    async def start(self, order: Order) -> Generation:
        """Begin to draw.

        Raises:
            ApiError: a prompt that cannot be encoded or leaves no room, too many samples at the same time, or nobody
                there who could draw.
        """
        ...

    async def close(self) -> None:
        """End everything."""
        ...
