"""Server-sent events: chunks of JSON to a client that may read slowly or vanish."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from steerlm.server.errors import ApiError
from steerlm.server.middleware import ClientGone, ClientTooSlow

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class EventStream(Response):
    """A streamed reply; whatever ends it closes the source, which frees the places of its samples."""

    media_type = "text/event-stream"

    def __init__(self, source: AsyncGenerator[list[dict[str, Any]]], close: Callable[[], None]) -> None:
        """Stream the chunks of a source, then `[DONE]`.

        Args:
            source: lists of chunks; an `ApiError` from it becomes the last event.
            close: called at the end, however it comes about.
        """
        super().__init__()
        self._source = source
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, until the end or until the client leaves."""
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            try:
                with contextlib.suppress(asyncio.CancelledError, ClientTooSlow):
                    await sending
            finally:
                self._close()

    async def _send(self, send: Send) -> None:
        source = self._source
        async with contextlib.aclosing(source):
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
            try:
                async for chunks in source:
                    events = b"".join(_event(chunk) for chunk in chunks)
                    if events:
                        await send({"type": "http.response.body", "body": events, "more_body": True})
                last = b"data: [DONE]\n\n"
            except ApiError as error:
                last = _event(error.body())
            await send({"type": "http.response.body", "body": last, "more_body": False})


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"


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
