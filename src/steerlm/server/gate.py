"""What stands in front of every route: request ids, the Host check, API keys, limits on bodies, and metrics."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import itertools
import secrets
import time
from collections.abc import Awaitable
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steerlm.errors import UserError
from steerlm.server.errors import ApiError
from steerlm.server.metrics import Metrics
from steerlm.server.page import PAGE_ROUTES
from steerlm.server.policy import Limits
from steerlm.storage.files import read_text

CALLER = "steerlm.caller"
"""Where a route finds the name of the caller's key in its scope."""
OPEN_ROUTES = frozenset({"/health"}) | PAGE_ROUTES
"""Routes that need no key: they hold no data."""
_SHORTEST_KEY = 16
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Keys:
    """The API keys of a deployment, as hashes.

    Attributes:
        names: of the keys, in order; empty = no key is needed.
    """

    def __init__(self, keys: dict[str, str]) -> None:
        """Take keys by name."""
        self.names = list(keys)
        self._hashes = [hashlib.sha256(key.encode()).digest() for key in keys.values()]

    def find(self, authorization: str | None) -> str | None:
        """Return the name of the key in an `Authorization` header, None if it holds no valid one.

        `Bearer KEY` is what OpenAI's clients send; `Basic` with the key as password is what a browser asks for. Every
        key is compared, whole hash by whole hash, so that the time says nothing about any.
        """
        digest = hashlib.sha256(_credential(authorization or "").encode("utf-8", "surrogateescape")).digest()
        found = None
        for name, known in zip(self.names, self._hashes, strict=True):
            if hmac.compare_digest(digest, known):
                found = name
        return found


def _credential(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def load_keys(path: Path | None) -> Keys:
    """Read a key file: a name and a key per line; a word that begins with `#` begins a comment.

    Raises:
        UserError: no such file or not UTF-8, a line of another form, a name or key that stands twice, or a key
            that is too short.
    """
    if path is None:
        return Keys({})
    keys: dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        # a `#` within a key is part of it: cut there, it would still be taken, but nobody's request with it
        words = list(itertools.takewhile(lambda word: not word.startswith("#"), line.split()))
        if not words:
            continue
        if len(words) != 2:
            raise UserError(f"{path}:{number}: a line is a name and a key, for example: team-a 4f0c…")
        name, key = words
        if len(key) < _SHORTEST_KEY:
            raise UserError(f"{path}:{number}: the key of {name!r} has fewer than {_SHORTEST_KEY} characters")
        if name in keys or key in keys.values():
            raise UserError(f"{path}:{number}: the name {name!r} or its key stands twice")
        keys[name] = key
    if not keys:
        raise UserError(f"{path} holds no key; write lines of a name and a key")
    return Keys(keys)


class Gate:
    """Lets a request through to the application, or answers it with an error."""

    def __init__(self, app: ASGIApp, keys: Keys, limits: Limits, metrics: Metrics, loopback: bool) -> None:
        """Stand in front of an application.

        Args:
            keys: without any, no key is needed.
            loopback: whether only this machine can connect: then, without keys, a page of another site that got
                hold of our address (DNS rebinding) is told from our users by the name it uses.
        """
        self._app, self._keys, self._limits, self._metrics = app, keys, limits, metrics
        self._check_host = loopback and not keys.names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req-{secrets.token_hex(12)}"
        started = time.monotonic()
        status = 499  # the client left before there was an answer

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
            await _within(send(message), self._limits.write_timeout_s)

        try:
            self._check(scope)
            if scope["method"] == "POST":
                receive = _replay(await self._read_body(receive), receive)
            if scope["method"] == "HEAD":  # the same headers as for GET; the server sends no body
                scope = {**scope, "method": "GET"}
            await self._app(scope, receive, send_with_id)
        except ApiError as error:
            await error.response(_challenge(scope, error))(scope, receive, send_with_id)
        except ClientGone:
            pass
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - started)

    async def _read_body(self, receive: Receive) -> bytes:
        """Return the whole body of a request, if it is small enough and comes soon enough."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self._limits.max_body_bytes:
                        raise _too_large(self._limits)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            seconds = self._limits.body_timeout_s
            raise ApiError("body_timeout", f"the request's body took longer than {seconds:g} s") from None

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self._check_host and _host(headers) not in _LOOPBACK:
            raise ApiError("forbidden_host", "without API keys this server answers to localhost only")
        if scope["path"] not in OPEN_ROUTES:
            scope[CALLER] = self._keys.find(headers.get("authorization"))
            if self._keys.names and scope[CALLER] is None:
                raise ApiError("invalid_api_key", "no valid API key; send Authorization: Bearer KEY")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._limits.max_body_bytes:
            raise _too_large(self._limits)
        if scope["method"] == "POST" and not _is_json(headers.get("content-type", "")):
            # what a page of another site may send without asking first is never JSON
            raise ApiError("unsupported_media_type", "send JSON, with Content-Type: application/json")
        if headers.get("content-encoding", "identity") != "identity":
            raise ApiError("unsupported_media_type", "send the body as it is, without Content-Encoding")


async def _within(sending: Awaitable[None], seconds: float) -> None:
    """Send, but do not wait forever for a client that does not read."""
    try:
        async with asyncio.timeout(seconds):
            await sending
    except TimeoutError:
        raise ClientTooSlow from None


class ClientTooSlow(OSError):
    """The client does not read what it asked for; as an OSError it ends the answer as a lost connection does."""


class ClientGone(Exception):
    """The client left while it was sending its request."""


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the whole body first."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _too_large(limits: Limits) -> ApiError:
    return ApiError("body_too_large", f"the request's body is larger than {limits.max_body_bytes} bytes")


def _host(headers: Headers) -> str:
    host = headers.get("host", "").lower()
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


def _challenge(scope: Scope, error: ApiError) -> dict[str, str]:
    """Let a browser ask for the key when a person opens the page."""
    if error.status == 401 and "text/html" in Headers(scope=scope).get("accept", ""):
        return {"www-authenticate": 'Basic realm="steerlm: any name, the API key as password", charset="UTF-8"'}
    return {}
