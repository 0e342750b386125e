"""Retries with growing pauses."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

PAUSES_S = (0.1, 5.0)  # the first and the longest

T = TypeVar("T")


class Stopped(Exception):
    """A stop was requested while a call was being repeated."""


def pauses(first_s: float = PAUSES_S[0], longest_s: float = PAUSES_S[1]) -> Iterator[float]:
    """Pauses between tries in seconds, each twice the one before, up to the longest."""
    pause_s = first_s
    while True:
        yield pause_s
        pause_s = min(2 * pause_s, longest_s)


def retry(
    call: Callable[[], T], on: type[Exception], failed: Callable[[Exception, float], None], stop: threading.Event
) -> T:
    """Repeat a call until it returns.

    Args:
        on: the error that may pass.
        failed: called with each such error and the pause in seconds that follows it.
        stop: ends the repetition.

    Raises:
        Stopped: `stop` was set.
    """
    waits = pauses()
    while not stop.is_set():
        try:
            return call()
        except on as error:
            pause_s = next(waits)
            failed(error, pause_s)
        stop.wait(pause_s)
    raise Stopped


async def retry_asyncio(
    call: Callable[[], Awaitable[T]], on: type[Exception], failed: Callable[[Exception, float], None]
) -> T:
    """The same for asyncio; a stop cancels the task."""
    waits = pauses()
    while True:
        try:
            return await call()
        except on as error:
            pause_s = next(waits)
            failed(error, pause_s)
        await asyncio.sleep(pause_s)
