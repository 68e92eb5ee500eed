"""What is decoded: samples, and the prompts that each of them mixes."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import NamedTuple

from steerlm.generation.sampling import Drawing


class Lane(NamedTuple):
    """A prompt of a sample, as token ids, and the weight of its logits; the weights of a sample sum to 1."""

    prompt: tuple[int, ...]
    weight: float = 1.0


class LogProb(NamedTuple):
    """Natural logarithms of probabilities at one position: of the token drawn, and of the likeliest tokens."""

    drawn: float
    top: list[tuple[int, float]]


@dataclass(eq=False)
class Row:
    """One sample that is to be decoded.

    Attributes:
        lanes: its prompts.
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
