"""Requests side by side, or one alone: whoever asks alone knows that a server that dies has died of that request."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Lets any number of requests through together, or a single one with no other under way."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._together = 0  # requests under way
        self._alone = False  # one that is alone is under way
        self._want_alone = 0  # waiting for it; requests side by side wait behind them

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        """A request beside others."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._want_alone)
            self._together += 1
        try:
            yield
        finally:
            async with self._changed:
                self._together -= 1
                self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """A request with no other under way."""
        async with self._changed:
            self._want_alone += 1
            try:
                await self._changed.wait_for(lambda: not self._alone and not self._together)
                self._alone = True
            finally:
                self._want_alone -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            async with self._changed:
                self._alone = False
                self._changed.notify_all()
