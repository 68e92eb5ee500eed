"""Encoding beside the event loop: what all backends do with a request before anything is drawn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from steerlm.errors import UserError
from steerlm.server.backend import Order
from steerlm.server.errors import unusable_prompt

T = TypeVar("T")


class Encoding:
    """One thread: encoding waits in line rather than hold up the event loop or take the processor from decoding."""

    def __init__(self) -> None:
        """Start it."""
        self._thread = ThreadPoolExecutor(1, "steerlm-encoding")

    async def __call__(self, encode: Callable[[Order], T], order: Order) -> T:
        """Return what `encode` makes of an order.

        Raises:
            ApiError: `encode` raised it, or a `UserError`: the conversation makes no prompt.
        """
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, encode, order)
        except UserError as error:
            raise unusable_prompt(error) from None

    def close(self) -> None:
        """End it; what waits is not encoded."""
        self._thread.shutdown(cancel_futures=True)
