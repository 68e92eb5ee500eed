"""From tokens to an answer, while they come: what every backend that draws token ids has in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from steerlm.generation.detokenizing import ResponseText
from steerlm.generation.rows import LogProb
from steerlm.server.backend import Answer, TokenLogProb
from steerlm.template import ConversationEncoder


class Drawn(Protocol):
    """One sample that grows, as `steerlm.generation.rows.Row` does."""

    @property
    def num_logprobs(self) -> int | None:
        """How many of the likeliest tokens are reported with each token; None for no report."""
        ...

    @property
    def tokens(self) -> list[int]:
        """What there is so far, with the stop token at the end if there was one."""
        ...

    @property
    def logprobs(self) -> list[LogProb]:
        """Of every token, if asked for."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether it has ended with a stop token."""
        ...

    @property
    def done(self) -> bool:
        """Whether no more tokens come."""
        ...


class Reader:
    """Turns a sample's tokens into an answer.

    Attributes:
        answer: what has been read of the sample.
    """

    def __init__(self, row: Drawn, encoder: ConversationEncoder, stop: Sequence[str]) -> None:
        """Read nothing yet.

        Args:
            row: the sample.
            encoder: of the model.
            stop: strings that end the answer.
        """
        self._row = row
        self._encoder = encoder
        self._response = ResponseText(encoder, stop)
        self._read = 0
        self.answer = Answer(self._response.text)

    def look(self) -> None:
        """Take in the tokens that are new."""
        row, response, answer = self._row, self._response, self.answer
        if answer.finish_reason is not None:
            return
        done, tokens = row.done, row.tokens
        if done and self._read == 0 and not response.has_stops:
            # nobody has looked before, and nothing can be found on the way
            self._read = response.num_tokens = len(tokens)
            first = 0
        else:
            first = self._read
            self._read += response.push_all(tokens[first:])
        answer.num_tokens = response.num_tokens
        if row.num_logprobs is not None:
            pairs = zip(tokens[first : self._read], row.logprobs[first : self._read], strict=True)
            answer.logprobs += [self._entry(t, p) for t, p in pairs if t not in self._encoder.control_ids]
        if response.stopped or done:
            answer.text = response.finish(tokens)
            answer.finish_reason = "stop" if response.stopped or row.stopped else "length"

    def _entry(self, token: int, logprob: LogProb) -> TokenLogProb:
        return TokenLogProb(
            self._token(token), logprob.drawn, [(self._token(other), value) for other, value in logprob.top]
        )

    def _token(self, token: int) -> str:
        return "" if token in self._encoder.control_ids else self._encoder.decode([token])
