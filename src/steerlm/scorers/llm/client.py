"""The judge's endpoint: any OpenAI-compatible server, through the official client.

Every reply is stored under the hash of its exact request before it counts, so nothing is paid for twice and a run that
is killed loses at most the requests in flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import hashlib
import math
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import orjson

from steerlm.errors import UserError
from steerlm.scorers.llm.cache import Reply, append_reply, open_cache, read_replies
from steerlm.scorers.llm.protocols import Prompt

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_RETRIED_STATUS = (408, 409, 425, 429)
"""Beside these, every 5xx: all of them may be gone a moment later."""
_MISCONFIGURED_STATUS = (401, 404, 405)
"""No request can succeed. 403 is not among them: some servers refuse single prompts with it."""
_MAX_BACKOFF_S = 60.0
_LONGEST_WAIT_S = 300.0
"""A server that asks for a longer pause is not waited for: the run ends and can be resumed."""
_NO_KEY = "no-key-needed"
"""Sent to a server of one's own when no key is set; the official client insists on one."""
_GIVE_UP_AFTER = 5
"""Requests that fail in a row, without any success between them, before the run ends."""


@dataclass(frozen=True)
class Endpoint:
    """Where the judge answers.

    Attributes:
        base_url: for example `http://localhost:8000/v1`.
        model: name of the model there.
        api_key: never printed and never stored.
    """

    base_url: str
    model: str
    api_key: str = field(repr=False)

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
            raise UserError("no judge is named; give --model or set STEERLM_JUDGE_MODEL")
        if not key and not own_url:
            raise UserError(
                "no endpoint: set OPENAI_API_KEY for the OpenAI API, or give --base-url (or set OPENAI_BASE_URL), "
                "for example http://localhost:8000/v1"
            )
        url = own_url or "https://api.openai.com/v1"
        if not url.startswith(("http://", "https://")):
            raise UserError(f"base URL {url!r} does not begin with http:// or https://")
        return cls(url.rstrip("/"), model, key or _NO_KEY)


class Cost(NamedTuple):
    """What a list of requests costs, before it is sent.

    Attributes:
        requests: number of requests to send.
        stored: number of requests answered from the disk.
        prompt_tokens: estimated tokens to read, at four bytes of UTF-8 each (the endpoint's tokenizer is not known).
        max_completion_tokens: the most tokens the judge may write.
    """

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
        endpoint: where it answers.
        cache: file of the replies; created where it does not exist.
        max_in_flight: requests under way at once.
        temperature: 0 for the likeliest answer.
        reasoning: the model takes neither a temperature nor `max_tokens`: send `max_completion_tokens` alone.
        timeout_s: longest time for one attempt.
        attempts: attempts per request. Tried again are: no connection, timeout, status 408, 409, 425, 429 and 5xx,
            and a reply that is no chat completion (not JSON, cut off, without choices).
        backoff_s: first pause; doubles with every attempt up to 60 s, with jitter. A longer `Retry-After` is kept to,
            by all requests of the run.
    """

    endpoint: Endpoint
    cache: Path
    max_in_flight: int = 8
    temperature: float = 0.0
    reasoning: bool = False
    timeout_s: float = 180.0
    attempts: int = 6
    backoff_s: float = 1.0

    def body(self, prompt: Prompt) -> dict[str, Any]:
        """Return the request's body."""
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        body: dict[str, Any] = {"model": self.endpoint.model, "messages": messages}
        if self.reasoning:
            return {**body, "max_completion_tokens": prompt.max_tokens}
        return {**body, "temperature": self.temperature, "max_tokens": prompt.max_tokens}

    def key(self, prompt: Prompt) -> str:
        """Hash the exact request: address and body."""
        text = orjson.dumps([self.endpoint.base_url, self.body(prompt)], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).hexdigest()

    def estimate(self, prompts: Sequence[Prompt]) -> Cost:
        """Return what `complete` would cost; sends nothing."""
        stored = read_replies(self.cache)
        keyed = {self.key(prompt): prompt for prompt in prompts}
        todo = [prompt for key, prompt in keyed.items() if key not in stored]
        tokens = sum(math.ceil(len((p.system + p.user).encode()) / 4) + 8 for p in todo)
        return Cost(len(todo), len(keyed) - len(todo), tokens, sum(p.max_tokens for p in todo))

    def complete(self, prompts: Sequence[Prompt]) -> list[Reply]:
        """Return the reply to every prompt, in order; equal requests are sent once.

        A request that fails for good is returned as a failure and not stored.

        Raises:
            UserError: the endpoint refuses the key, the model or the address, or several requests in a row fail; the
                replies so far are stored.
        """
        replies = read_replies(self.cache)
        keys = [self.key(prompt) for prompt in prompts]
        todo = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in replies}
        if todo:
            with open_cache(self.cache) as stream:
                stored = read_replies(self.cache)  # another process may have written while we waited for the hold
                replies.update(stored)
                run = _Run(self, stream, {key: prompt for key, prompt in todo.items() if key not in stored})
                replies.update(asyncio.run(run.all()))
        return [replies[key] for key in keys]


class _AttemptError(Exception):
    """One attempt failed; `retry_after_s` is the pause the server asks for, None where it may not be tried again."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class _Run:
    """The state of one call of `complete`."""

    def __init__(self, client: JudgeClient, stream: IO[bytes], todo: Mapping[str, Prompt]) -> None:
        self.client = client
        self.stream = stream
        self.todo = todo
        self.replies: dict[str, Reply] = {}
        self.failures_in_a_row = 0
        self.not_before = 0.0
        self.ended = asyncio.Event()
        self.jitter = random.Random(0)

    async def all(self) -> dict[str, Reply]:
        openai_client = _openai_client(self.client)
        waiting = iter(self.todo.items())
        with _bar(len(self.todo)) as advance:
            num_workers = min(self.client.max_in_flight, len(self.todo))
            workers = [asyncio.create_task(self._worker(openai_client, waiting, advance)) for _ in range(num_workers)]
            try:
                ends = await asyncio.gather(*workers, return_exceptions=True)
            finally:
                await openai_client.close()
        for end in ends:
            if end is not None:
                raise end
        return self.replies

    async def _worker(
        self, openai_client: AsyncOpenAI, waiting: Iterator[tuple[str, Prompt]], advance: Callable[[], None]
    ) -> None:
        """Take requests until there are none, or until another worker ends the run: what is in flight then is kept."""
        try:
            for key, prompt in waiting:
                reply = await self._with_retries(openai_client, prompt)
                self.replies[key] = reply
                if not reply.failure:
                    append_reply(self.stream, key, reply)
                    self.failures_in_a_row = 0
                if self.ended.is_set():
                    return
                self.failures_in_a_row += bool(reply.failure)
                if self.failures_in_a_row >= _GIVE_UP_AFTER:
                    raise self._stopped(reply.failure)
                advance()
        except (UserError, OSError):
            self.ended.set()
            raise

    async def _with_retries(self, openai_client: AsyncOpenAI, prompt: Prompt) -> Reply:
        for attempt in range(1, self.client.attempts + 1):
            await self._pause(self.not_before - time.monotonic())
            try:
                return await _attempt(openai_client, self.client, prompt)
            except _AttemptError as error:
                if error.retry_after_s is None or attempt == self.client.attempts or self.ended.is_set():
                    return Reply("", failure=str(error))
                if error.retry_after_s > _LONGEST_WAIT_S:
                    raise self._stopped(f"{error}; it asks for a pause of {error.retry_after_s:.0f} s") from None
                backoff = min(self.client.backoff_s * 2 ** (attempt - 1), _MAX_BACKOFF_S)
                if error.retry_after_s > 0:
                    self.not_before = max(self.not_before, time.monotonic() + error.retry_after_s)
                await self._pause(backoff * self.jitter.uniform(0.5, 1.0))
        raise AssertionError("attempts is at least 1")

    async def _pause(self, seconds: float) -> None:
        """Wait, but no longer than the run lasts."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self.ended.wait()

    def _stopped(self, cause: str) -> UserError:
        done = sum(not reply.failure for reply in self.replies.values())
        return UserError(
            f"{self.client.endpoint.base_url}: {cause}; stopped after {done} of {len(self.todo)} requests; "
            "their replies are kept, the same command goes on"
        )


async def _attempt(openai_client: AsyncOpenAI, client: JudgeClient, prompt: Prompt) -> Reply:
    """Send one request.

    Raises:
        _AttemptError: it failed, and whether it may be tried again.
        UserError: no request can succeed.
    """
    import openai

    create: Callable[..., Awaitable[Any]] = openai_client.chat.completions.with_raw_response.create
    try:
        # the client's own timeout is per read: a server that trickles would never run into it
        async with asyncio.timeout(client.timeout_s):
            raw = await create(**client.body(prompt))
    except (TimeoutError, openai.APITimeoutError):
        raise _AttemptError(f"no reply within {client.timeout_s:g} s", 0.0) from None
    except openai.APIStatusError as error:
        raise _status_error(error, client.endpoint) from None
    except openai.APIConnectionError as error:
        raise _AttemptError(f"no connection ({error.__cause__ or error})", 0.0) from None
    return _read(raw.content)


def _read(content: bytes) -> Reply:
    """Take a chat completion apart; what is none may be a passing fault of the server."""
    try:
        body = orjson.loads(content)
        choice = body["choices"][0]
        text = choice["message"].get("content")
    except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError):
        start = content[:200].decode(errors="replace")
        raise _AttemptError(f"the reply is no chat completion: {start!r}", 0.0) from None
    usage = body.get("usage")
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens")) if isinstance(usage, dict) else (None, None)
    return Reply(text if isinstance(text, str) else "", choice.get("finish_reason") or "unknown", *counts)


def _status_error(error: Any, endpoint: Endpoint) -> Exception:
    """Return what an HTTP error means: the run's end, a retry, or a failure of this request alone."""
    status: int = error.status_code
    words = " ".join(str(error.message).split())[:300].replace(endpoint.api_key, "***")
    if status in _MISCONFIGURED_STATUS:
        return UserError(
            f"{endpoint.base_url} refuses the request with status {status}: {words}; check the base URL, the model "
            f"({endpoint.model!r}) and OPENAI_API_KEY"
        )
    if status in _RETRIED_STATUS or status >= 500:
        return _AttemptError(f"status {status}: {words}", _retry_after(error.response.headers.get("retry-after")))
    return _AttemptError(f"status {status}: {words}", None)


def _retry_after(header: str | None) -> float:
    """Return the seconds that a `Retry-After` header asks for (a number or a date); 0 where it asks for none."""
    if header is None:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0.0, float(header))
    with contextlib.suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    return 0.0


def _openai_client(client: JudgeClient) -> AsyncOpenAI:
    try:
        from openai import AsyncOpenAI
    except ImportError:
        raise UserError("a judge needs the openai package: pip install 'steerlm[judge]'") from None
    # retries are ours: the client's own do not cover malformed replies and do not stop a run
    return AsyncOpenAI(
        base_url=client.endpoint.base_url, api_key=client.endpoint.api_key, max_retries=0, timeout=client.timeout_s
    )


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error; silent where that is not a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("judging", total=total)
        yield lambda: progress.advance(task)
