"""Server-sent events to a client that may read slowly or vanish."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from steerlm.server.errors import ApiError
from steerlm.server.gate import ClientGone, ClientTooSlow

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
_PING_S = 15.0
"""So long a stream may be silent, while its request waits or its samples are compared, before a comment says that it
lives: proxies end what is silent for a minute."""
DONE = b"data: [DONE]\n\n"
"""The end of a stream of chunks."""


def event(data: Mapping[str, object], name: str | None = None) -> bytes:
    """Return a server-sent event; `name`: its type, where it has one."""
    return format_sse_event(data_str=json.dumps(data, separators=(",", ":"), allow_nan=False), event=name)


class EventStream(Response):
    """A streamed reply; whatever ends it closes the source, which frees the places of its samples."""

    media_type = "text/event-stream"

    def __init__(
        self, source: AsyncGenerator[bytes], failed: Callable[[ApiError], bytes], close: Callable[[], None]
    ) -> None:
        """Stream a source.

        Args:
            source: yields events, several at a time or none.
            failed: makes the last event where the source raises an `ApiError`.
            close: called at the end, however it comes about.
        """
        super().__init__()
        self._source, self._failed, self._close = source, failed, close
        self._parts = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until the end or until the client leaves."""
        whole = scope.get("http_version") == "1.0"  # such a client knows no chunks: it gets all at once
        sending = asyncio.create_task(self._send_whole(send) if whole else self._send(send))
        leaving = asyncio.create_task(_left(receive))
        ended: set[asyncio.Task[None]] = set()
        try:
            while not ended:
                parts = self._parts
                ended, _ = await asyncio.wait({sending, leaving}, timeout=_PING_S, return_when="FIRST_COMPLETED")
                if not ended and not whole and 0 < parts == self._parts:
                    await send(_part(KEEPALIVE_COMMENT))
        except ClientTooSlow:
            pass
        finally:
            leaving.cancel()
            sending.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError, ClientTooSlow):
                    await sending
            finally:
                self._close()

    async def _events(self) -> AsyncGenerator[bytes]:
        async with contextlib.aclosing(self._source) as source:
            try:
                async for events in source:
                    if events:
                        yield events
            except ApiError as error:
                yield self._failed(error)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        async with contextlib.aclosing(self._events()) as parts:
            async for part in parts:
                await send(_part(part))
                self._parts += 1
        await send(_part(b"", more=False))

    async def _send_whole(self, send: Send) -> None:
        async with contextlib.aclosing(self._events()) as parts:
            body = b"".join([part async for part in parts])
        headers = [*_HEADERS, (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(_part(body, more=False))


def _part(body: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@contextlib.asynccontextmanager
async def cancelled_when_left(request: Request) -> AsyncIterator[None]:
    """Cancel what runs inside when the client leaves.

    Raises:
        ClientGone: it has left.
    """
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        await _left(request.receive)
        left = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        task.uncancel()
        raise ClientGone from None
    finally:
        watching.cancel()
