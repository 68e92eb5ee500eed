"""What an upstream says: its streams taken apart, its errors turned into ours.

Nothing that an upstream writes about an error reaches a client: it may quote the prompt, and with it attributes that
are hidden. It goes to the log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from typing import Any, NamedTuple

import httpx
from pydantic import BaseModel, ValidationError

from steerlm.server.backend import FinishReason, TokenLogProb
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
            return [
                TokenLogProb(e.token, e.logprob, [(o.token, o.logprob) for o in e.top_logprobs or []])
                for e in self.content
            ]
        tokens, values = self.tokens or [], self.token_logprobs or []
        tops = self.top_logprobs or [None] * len(tokens)
        return [
            TokenLogProb(token, value, sorted((top or {}).items(), key=lambda item: -item[1]))
            for token, value, top in zip(tokens, values, tops, strict=True)
            if value is not None
        ]


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
    """Yield the events of a stream, until it says that it is done or ends.

    Raises:
        ApiError: it is no stream of completions.
    """
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        raise broken("its answer is no stream")
    async for line in reply.aiter_lines():
        field, _, value = line.partition(":")
        if field != "data":
            continue
        if value.strip() == "[DONE]":
            return
        yield _event(value)


def _event(text: str) -> Event:
    try:
        chunk = _Chunk.model_validate_json(text)
        tokens = None if chunk.usage is None else chunk.usage.completion_tokens
        if not chunk.choices:
            return Event("", None, [], tokens)
        choice = chunk.choices[0]
        logprobs = [] if choice.logprobs is None else choice.logprobs.entries()
    except ValueError as error:  # pydantic's are, too
        _LOG.warning("the upstream's stream holds %r: %s", text[:_QUOTED], error)
        raise broken("its stream holds something else than completions") from None
    new = choice.text if choice.delta is None else choice.delta.content
    reason = choice.finish_reason
    if reason is not None and reason not in _REASONS:
        raise broken(f"it ended an answer for the reason {reason[:40]!r}")
    return Event(new or "", None if reason is None else _REASONS[reason], logprobs, tokens)


async def ask_models(client: httpx.AsyncClient, name: str | None) -> Served:
    """Ask an upstream for its models.

    Args:
        client: with the upstream's address.
        name: of the wanted model; None = the first one.

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
        return ApiError(503, "the model's upstream is busy; try again", "upstream_busy")
    if status == 504:
        return _late()
    if status in (401, 403):
        return ApiError(502, "the model's upstream does not accept this server's key", "upstream_refused")
    if status < 500:
        return ApiError(502, f"the model's upstream refused the request with status {status}", "upstream_refused")
    return ApiError(502, f"the model's upstream failed with status {status}", "upstream_failed")


def _message(text: str) -> str:
    try:
        body: Any = json.loads(text)
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
    return ApiError(502, "the model's upstream cannot be reached", "upstream_unreachable")


def _late() -> ApiError:
    return ApiError(504, "the model's upstream does not answer in time", "upstream_timeout")


def broken(what: str) -> ApiError:
    """Return the error for an upstream that does not keep to the protocol."""
    return ApiError(502, f"the model's upstream does not work: {what}", "upstream_broken")
