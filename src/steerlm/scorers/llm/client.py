"""An OpenAI-compatible endpoint, asked through the official client; every reply is stored before it counts.

A reply's key is the hash of its exact request, so nothing is paid for twice and a run that is killed loses at most the
requests in flight. The official client tries again (no connection, timeouts, 408, 409, 429, 5xx, `Retry-After`); here
stand what it does not know: replies that are no chat completion, and when a whole run has to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import orjson

from steerlm.errors import UserError, needs_extra
from steerlm.scorers.llm.cache import Reply, append_reply, open_cache, read_replies
from steerlm.scorers.llm.protocols import JudgeRequest

if TYPE_CHECKING:
    import openai

Body = Mapping[str, object]
"""A request's body, as it is sent."""

_MISCONFIGURED_STATUS = (401, 402, 404, 405)
"""No request can succeed. 403 is not among them: some servers refuse single prompts with it."""
NO_KEY = "no-key-needed"
"""Sent to a server of one's own when no key is set; the official client insists on one."""
_GIVE_UP_AFTER = 5
"""Requests that fail in a row, each after all its attempts, before the run ends; fewer where those are all."""
_CHECK_TIMEOUT_S = 10.0
_MALFORMED_ATTEMPTS = 4
_MALFORMED_PAUSE_S = 0.5
_TRICKLE = 3
"""Timeouts' worth of time that an attempt may take while something still arrives."""
ROOM_TO_THINK = 8192
"""Tokens that a reasoning judge may think, beside those for its answer."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers.

    Attributes:
        api_key: never printed and never stored.
    """

    base_url: str
    model: str
    api_key: str = field(repr=False)

    @property
    def shown(self) -> str:
        """The address without a user name or password."""
        return re.sub(r"^(https?://)[^/@]*@", r"\1", self.base_url)

    @classmethod
    def from_environment(cls, base_url: str | None = None, model: str | None = None) -> Endpoint:
        """Fill what is not given from `OPENAI_BASE_URL`, `STEERLM_JUDGE_MODEL` and `OPENAI_API_KEY`.

        Raises:
            UserError: no model is named, or there is neither a key nor an endpoint of one's own.
        """
        own_url = base_url or os.environ.get("OPENAI_BASE_URL")
        model = model or os.environ.get("STEERLM_JUDGE_MODEL")
        key = os.environ.get("OPENAI_API_KEY")
        if not model:
            raise UserError(
                "no judge is named: set STEERLM_JUDGE_MODEL; or in a recipe label.model (--set label.model=NAME), for "
                "a judge of the evaluation evaluate.judge.model; or give --model to a command that has it"
            )
        if not key and not own_url:
            raise UserError(
                "no endpoint: set OPENAI_API_KEY for the OpenAI API, or OPENAI_BASE_URL to another one, for example "
                "http://localhost:8000/v1 (in a recipe label.base_url; --base-url of a command that has it)"
            )
        url = own_url or "https://api.openai.com/v1"
        if not url.startswith(("http://", "https://")):
            raise UserError(f"base URL {url!r} does not begin with http:// or https://")
        return cls(url.rstrip("/"), model, key or NO_KEY)


class Cost(NamedTuple):
    """What a list of requests costs, before it is sent; tokens to read are estimated at four bytes of UTF-8 each."""

    requests: int
    stored: int
    prompt_tokens: int
    max_completion_tokens: int

    def money(self, price_in: float, price_out: float) -> tuple[float, float]:
        """Return the least and the most it costs; prices are per million tokens."""
        reading = self.prompt_tokens * price_in / 1e6
        return reading, reading + self.max_completion_tokens * price_out / 1e6


@dataclass(frozen=True)
class JudgeClient:
    """Asks a judge and remembers its replies.

    Attributes:
        temperature: 0 for the likeliest answer.
        reasoning: the model takes neither a temperature nor `max_tokens`: send `max_completion_tokens` alone, with room
            to think.
        max_tokens: longest output, thinking included; None: the protocol's, and `ROOM_TO_THINK` for a reasoning model.
    """

    endpoint: Endpoint
    cache: Path
    max_in_flight: int = 8
    temperature: float = 0.0
    reasoning: bool = False
    max_tokens: int | None = None
    timeout_s: float = 180.0
    retries: int = 5

    def body(self, request: JudgeRequest) -> Body:
        body: dict[str, object] = {
            "model": self.endpoint.model,
            "messages": [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}],
        }
        if self.reasoning:
            return {**body, "max_completion_tokens": self.longest(request)}
        return {**body, "temperature": self.temperature, "max_tokens": self.longest(request)}

    def longest(self, request: JudgeRequest) -> int:
        return self.max_tokens or request.max_tokens + (ROOM_TO_THINK if self.reasoning else 0)

    def key(self, request: JudgeRequest) -> str:
        """Hash the exact request: address and body."""
        return _key(self.endpoint, self.body(request))

    def estimate(self, requests: Sequence[JudgeRequest]) -> Cost:
        """Return what `complete` would cost; sends nothing."""
        stored = read_replies(self.cache)
        keyed = {self.key(request): request for request in requests}
        todo = [request for key, request in keyed.items() if key not in stored]
        tokens = sum(math.ceil(len((r.system + r.user).encode()) / 4) + 8 for r in todo)
        return Cost(len(todo), len(keyed) - len(todo), tokens, sum(self.longest(r) for r in todo))

    def complete(self, requests: Sequence[JudgeRequest]) -> list[Reply]:
        """Return the reply to every request, in order; see `ask_endpoint`."""
        return ask_endpoint(
            self.endpoint,
            [self.body(request) for request in requests],
            self.cache,
            max_in_flight=self.max_in_flight,
            timeout_s=self.timeout_s,
            retries=self.retries,
        )


def ask_endpoint(
    endpoint: Endpoint,
    bodies: Sequence[Body],
    cache: Path,
    *,
    max_in_flight: int = 8,
    timeout_s: float = 180.0,
    retries: int = 5,
    doing: str = "judging",
) -> list[Reply]:
    """Return the reply to every request, in order; equal requests are sent once, stored ones not at all.

    A request that fails for good is returned as a failure and not stored.

    Raises:
        UserError: the endpoint refuses the key, the model or the address, or several requests in a row fail; the
            replies so far are stored.
    """
    replies = read_replies(cache)
    keys = [_key(endpoint, body) for body in bodies]
    todo = {key: body for key, body in zip(keys, bodies, strict=True) if key not in replies}
    if todo:
        with open_cache(cache) as stream:
            replies |= read_replies(cache)  # another process may have written while we waited for the hold
            todo = {key: body for key, body in todo.items() if key not in replies}
            run = _Asking(endpoint, stream, todo, replies, timeout_s)
            asyncio.run(run.all(max_in_flight, retries, doing))
    return [replies[key] for key in keys]


def _key(endpoint: Endpoint, body: Body) -> str:
    text = orjson.dumps([endpoint.base_url, body], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(text).hexdigest()


class _FailedRequest(Exception):
    """A request failed after all its attempts; `refused` where the endpoint will not answer this one."""

    def __init__(self, message: str, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass
class _Asking:
    """The state of one call of `ask_endpoint`; `replies` holds those of earlier calls and receives the new ones."""

    endpoint: Endpoint
    stream: IO[bytes]
    todo: Mapping[str, Body]
    replies: dict[str, Reply]
    timeout_s: float
    failures_in_a_row: int = 0
    ended: bool = False

    def __post_init__(self) -> None:
        self.ever_answered = bool(self.replies)

    async def all(self, max_in_flight: int, retries: int, doing: str) -> None:
        waiting = iter(self.todo.items())
        with _bar(len(self.todo), doing) as advance:
            async with _openai_client(self.endpoint, self.timeout_s, retries) as client:
                num_workers = min(max_in_flight, len(self.todo))
                # all of them end before the first error is raised: what is in flight then is kept
                ends = await asyncio.gather(
                    *(self._worker(client, waiting, advance) for _ in range(num_workers)), return_exceptions=True
                )
        for end in ends:
            if end is not None:
                raise end

    async def _worker(
        self, client: openai.AsyncOpenAI, waiting: Iterator[tuple[str, Body]], advance: Callable[[], None]
    ) -> None:
        try:
            for key, body in waiting:
                try:
                    reply = await _reply(client, self.endpoint, body, self.timeout_s)
                except _FailedRequest as failure:
                    self.replies[key] = Reply("", failure=str(failure), refused=failure.refused)
                    self._count(failure)
                else:
                    self.replies[key] = reply
                    append_reply(self.stream, key, reply)
                    self.failures_in_a_row, self.ever_answered = 0, True
                if self.ended:
                    return
                advance()
        except (UserError, OSError):
            self.ended = True
            raise

    def _count(self, failure: _FailedRequest) -> None:
        """End the run where the endpoint is gone; single prompts that it refuses are no sign of that."""
        if self.ended or (failure.refused and self.ever_answered):
            return
        self.failures_in_a_row += 1
        all_failed = not failure.refused and self.failures_in_a_row == len(self.todo)
        if self.failures_in_a_row >= _GIVE_UP_AFTER or all_failed:
            done = sum(key in self.replies and not self.replies[key].failure for key in self.todo)
            raise UserError(
                f"{self.endpoint.shown}: {failure}; stopped after {done} of {len(self.todo)} requests; "
                "their replies are kept, the same command goes on"
            )


async def _reply(client: openai.AsyncOpenAI, endpoint: Endpoint, body: Body, timeout_s: float) -> Reply:
    """Send one request until it has a reply."""
    import openai

    more = {key: value for key, value in body.items() if key not in ("model", "messages")}
    messages: Any = body["messages"]
    for attempt in range(1, _MALFORMED_ATTEMPTS + 1):
        try:
            # the client's timeout is per read: a server that trickles would never run into it
            async with asyncio.timeout(timeout_s * _TRICKLE * (client.max_retries + 1)):
                raw = await client.chat.completions.with_raw_response.create(
                    model=str(body["model"]), messages=messages, extra_body=more
                )
        except (TimeoutError, openai.APITimeoutError):
            raise _FailedRequest(f"no reply within {timeout_s:g} s") from None
        except openai.APIStatusError as error:
            raise _status_error(error, endpoint) from None
        except openai.APIConnectionError as error:
            raise _FailedRequest(f"no connection ({error.__cause__ or error})") from None
        reply = _read(raw.content)
        if reply is not None:
            return reply
        await asyncio.sleep(_MALFORMED_PAUSE_S * attempt)
    raise _FailedRequest(f"the reply is no chat completion: {raw.content[:200].decode(errors='replace')!r}")


def _read(content: bytes) -> Reply | None:
    """Take a chat completion apart; None where it is none, which may be a passing fault of the server.

    The text is what the model said: parts of type text, and nothing of its thinking.
    """
    try:
        body = orjson.loads(content)
        choice = body["choices"][0]
        message = choice["message"]
        said, thought = _text_of(message.get("content"))
        thought = thought or any(message.get(key) for key in ("reasoning_content", "reasoning", "thinking"))
        usage = body.get("usage") or {}
        counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
        reason = str(choice.get("finish_reason") or "unknown")
        if not said and message.get("refusal"):
            reason = "refusal"
        elif message.get("content") is None and reason == "stop":
            reason = "no text"
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        return None
    return Reply(said, reason, *counts, thought=bool(thought))


def _text_of(content: object) -> tuple[str, bool]:
    """Return the text of a message's content, and whether parts of it are thinking."""
    if content is None or isinstance(content, str):
        return content or "", False
    if not isinstance(content, list):
        raise TypeError
    texts: list[str] = []
    for part in content:
        kind = "text" if isinstance(part, str) else part.get("type")
        if kind in ("text", "output_text"):
            text = part if isinstance(part, str) else part["text"]
            # an object in place of the text is the form of the older Assistants API
            texts.append(text if isinstance(text, str) else text["value"])
    return "".join(texts), len(texts) < len(content)


def _status_error(error: openai.APIStatusError, endpoint: Endpoint) -> Exception:
    """Return what an HTTP error means: the run's end, or a failure of this request alone."""
    status = error.status_code
    words = " ".join(str(error.message).removeprefix(f"Error code: {status} - ").split())[:300]
    words = words.replace(endpoint.api_key, "***")
    if status in _MISCONFIGURED_STATUS or error.code == "insufficient_quota":
        key = "OPENAI_API_KEY" if endpoint.api_key != NO_KEY else "OPENAI_API_KEY, which is not set"
        return UserError(
            f"{endpoint.shown} refuses the request with status {status}: {words}; check the base URL, the model "
            f"({endpoint.model!r}) and {key}"
        )
    if status == 400 and ("max_completion_tokens" in words or "temperature" in words):
        words += " (a reasoning model? give --reasoning)"
    return _FailedRequest(f"status {status}: {words}", refused=400 <= status < 500 and status not in (408, 409, 429))


def _openai_client(endpoint: Endpoint, timeout_s: float, retries: int) -> openai.AsyncOpenAI:
    with needs_extra("judge", "an endpoint"):
        from openai import AsyncOpenAI
    return AsyncOpenAI(base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=retries, timeout=timeout_s)


def check_endpoint(endpoint: Endpoint) -> None:
    """Ask an endpoint for its models, which costs nothing; one that does not know the question is up all the same.

    Raises:
        UserError: nothing answers at the address, or it refuses the key.
    """
    with needs_extra("judge", "an endpoint"):
        import openai
    with openai.OpenAI(
        base_url=endpoint.base_url, api_key=endpoint.api_key, max_retries=1, timeout=_CHECK_TIMEOUT_S
    ) as client:
        try:
            client.models.list()
        except openai.APIConnectionError as error:
            raise UserError(
                f"nothing answers at {endpoint.shown} ({error.__cause__ or error}): start the server, or name another "
                "endpoint (base_url, OPENAI_BASE_URL)"
            ) from None
        except openai.APIStatusError as error:
            if error.status_code in (401, 402):
                raise _status_error(error, endpoint) from None


@contextlib.contextmanager
def _bar(total: int, doing: str) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error; silent where that is not a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not (doing and console.is_terminal)) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda: progress.advance(task)
