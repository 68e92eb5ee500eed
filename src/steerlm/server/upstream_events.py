"""What an upstream says: its streams taken apart, its errors turned into ours.

Nothing that an upstream writes about an error reaches a client: it may quote the prompt, and with it attributes that
are hidden. It goes to the log.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import AsyncGenerator
from typing import NamedTuple

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel, Field, ValidationError

from steerlm.server.backend import Alternative, FinishReason, TokenLogProb
from steerlm.server.errors import ApiError

_LOG = logging.getLogger(__name__)
_QUOTED = 300
_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}


class Event(NamedTuple):
    """One event of a stream.

    Attributes:
        text: what is new.
        finish_reason: why it ended, if it has.
        logprobs: of new tokens, as far as the upstream tells.
        num_tokens: tokens drawn in all, if it is told.
    """

    text: str
    finish_reason: FinishReason | None
    logprobs: list[TokenLogProb]
    num_tokens: int | None


class Served(NamedTuple):
    """A model of an upstream: its name, and the most tokens of a prompt and its answer (None = not told)."""

    name: str
    context: int | None


class _Alternative(BaseModel):
    token: str
    logprob: float
    raw: list[int] | None = Field(None, alias="bytes")

    def entry(self) -> Alternative:
        return Alternative(self.token, self.logprob, None if self.raw is None else bytes(self.raw))


class _ChatLogProb(_Alternative):
    top_logprobs: list[_Alternative] | None = None


class _LogProbs(BaseModel):
    content: list[_ChatLogProb] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None

    def entries(self) -> list[TokenLogProb]:
        """Return them from the form of either route."""
        if self.content is not None:
            pairs = [(e.entry(), [other.entry() for other in e.top_logprobs or []]) for e in self.content]
            return [TokenLogProb(drawn.token, drawn.logprob, top, drawn.bytes) for drawn, top in pairs]
        tokens, values = self.tokens or [], self.token_logprobs or []
        tops = self.top_logprobs or [None] * len(tokens)
        entries = []
        for token, value, top in zip(tokens, values, tops, strict=True):
            likeliest = sorted((top or {}).items(), key=lambda pair: -pair[1])
            drawn = _spelled(token, 0.0)
            others = [_spelled(other, probability) for other, probability in likeliest]
            entries.append(TokenLogProb(drawn.token, value, others, drawn.bytes))
        return entries


def _spelled(token: str, logprob: float) -> Alternative:
    """Return a token of a completion, where OpenAI spells parts of characters as `bytes:\\xf0\\x9f`."""
    if not re.fullmatch(r"bytes:(\\x[0-9a-f]{2})+", token):
        return Alternative(token, logprob)
    raw = bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
    return Alternative(raw.decode(errors="replace"), logprob, raw)


class _Delta(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None
    logprobs: _LogProbs | None = None


class _Usage(BaseModel):
    completion_tokens: int


class _Chunk(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str
    max_model_len: int | None = None


class _Models(BaseModel):
    data: list[_Model]


async def read_events(reply: httpx.Response) -> AsyncGenerator[Event]:
    """Yield the events of a stream, until it says that it is done or ends."""
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        raise broken("its answer is no stream")
    # its lines end with line feeds and carriage returns alone: an answer may hold other separators
    async with contextlib.aclosing(EventSource(reply).aiter_sse()) as events:
        async for event in events:
            if event.data.strip() == "[DONE]":
                return
            if event.data:
                yield _event(event.data)


def _event(text: str) -> Event:
    try:
        chunk = _Chunk.model_validate(json.loads(text, strict=False))  # some servers leave control characters raw
        tokens = None if chunk.usage is None else chunk.usage.completion_tokens
        if not chunk.choices:
            return Event("", None, [], tokens)
        choice = chunk.choices[0]
        logprobs = [] if choice.logprobs is None else choice.logprobs.entries()
        logprobs = [entry for entry in logprobs if entry.drawn is not None]
    except ValueError as error:  # pydantic's are, too
        _LOG.warning("the upstream's stream holds %r: %s", text[:_QUOTED], error)
        raise broken("its stream holds something else than completions") from None
    new = choice.text if choice.delta is None else choice.delta.content
    reason = choice.finish_reason
    if reason is not None and reason not in _REASONS:
        raise broken(f"it ended an answer for the reason {reason[:40]!r}")
    return Event(new or "", None if reason is None else _REASONS[reason], logprobs, tokens)


def read_echo(reply: httpx.Response, length: int) -> list[TokenLogProb]:
    """Return the log-probabilities of an echoed prompt's tokens but the first."""
    if reply.status_code != 200:
        raise refused(reply.status_code, reply.text)
    try:
        [choice] = _Chunk.model_validate(reply.json()).choices
        entries = choice.logprobs.entries() if choice.logprobs is not None else []
    except ValueError as error:
        _LOG.warning("the upstream's echo holds %r: %s", reply.text[:_QUOTED], error)
        entries = []
    if len(entries) < length or any(entry.drawn is None for entry in entries[1:length]):
        raise broken("it does not tell the log-probabilities of a prompt")
    return entries[1:length]


async def ask_models(client: httpx.AsyncClient, name: str | None) -> Served:
    """Ask an upstream for its models.

    Raises:
        ApiError: it cannot be reached, refuses, or lists no models although no name is given.
    """
    try:
        reply = await client.get("models")
    except httpx.HTTPError as error:
        raise unreachable(error) from None
    if reply.status_code != 200:
        if name is not None:  # not every server has this route
            return Served(name, None)
        raise refused(reply.status_code, reply.text)
    try:
        models = _Models.model_validate_json(reply.content).data
    except ValidationError:
        models = []
    found = next((model for model in models if name in (None, model.id)), None)
    if found is not None:
        return Served(found.id, found.max_model_len)
    if name is None:
        raise broken("it does not say which models it has; start this server with --upstream-model")
    return Served(name, None)


async def refusal(reply: httpx.Response) -> ApiError:
    """Return the error for a streamed reply that is not 200."""
    return refused(reply.status_code, (await reply.aread()).decode(errors="replace"))


def refused(status: int, text: str) -> ApiError:
    """Return the error for a status of the upstream."""
    _LOG.warning("the upstream answered with status %d: %s", status, _message(text))
    if status in (429, 503):
        return ApiError("upstream_busy", "the model's upstream is busy; try again")
    if status == 504:
        return _late()
    if status in (401, 403):
        return ApiError("upstream_refused", "the model's upstream does not accept this server's key")
    if status < 500:
        return ApiError("upstream_refused", f"the model's upstream refused the request with status {status}")
    return ApiError("upstream_failed", f"the model's upstream failed with status {status}")


def _message(text: str) -> str:
    try:
        body: object = json.loads(text)
    except ValueError:
        return text[:_QUOTED]
    inner = body.get("error", body) if isinstance(body, dict) else body
    return str(inner.get("message", inner) if isinstance(inner, dict) else inner)[:_QUOTED]


def unreachable(error: httpx.HTTPError) -> ApiError:
    """Return the error for a connection that failed or ended too soon."""
    _LOG.warning("the upstream: %s: %s", type(error).__name__, error)
    if isinstance(error, httpx.TimeoutException):
        return _late()
    if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError):
        return broken("the connection ended before the answer did")
    return ApiError("upstream_unreachable", "the model's upstream cannot be reached")


def _late() -> ApiError:
    return ApiError("upstream_timeout", "the model's upstream does not answer in time")


def broken(what: str) -> ApiError:
    """Return the error for an upstream that does not keep to the protocol."""
    return ApiError("upstream_broken", f"the model's upstream does not work: {what}")
