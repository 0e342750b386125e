"""Keeps the lease of a bridge on the entries it holds, and watches for entries that other bridges have left."""

import asyncio
from collections.abc import Awaitable, Callable

from bridge.metrics import BridgeMetrics
from icestream.service.logs import Log
from icestream.streams.connection import RedisError
from icestream.streams.event_queue import EventQueue
from icestream.streams.status import StreamStatus

LONGEST_PAUSE_S = 2.0


class Held(dict[bytes, int]):
    """Entries that were read and are neither completed nor rejected, with the bytes of each."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0  # bytes of all

    def add(self, entry_id: bytes, size: int) -> None:
        self.release(entry_id)
        self[entry_id] = size
        self.size += size

    def release(self, entry_id: bytes) -> None:
        self.size -= self.pop(entry_id, 0)


class LeaseKeeper:
    """Renews held entries while the bridge works.

    Args:
        read_status: reads the state of the streams, whose metrics every bridge exposes.
    """

    def __init__(
        self,
        queue: EventQueue,
        read_status: Callable[[], Awaitable[StreamStatus]],
        *,
        claim_idle_s: float,
        metrics: BridgeMetrics,
        log: Log,
    ):
        self._queue, self._read_status, self._metrics, self._log = queue, read_status, metrics, log
        self.held = Held()
        self._pause_s = min(claim_idle_s / 4, LONGEST_PAUSE_S)
        self.abandoned = False  # entries of another bridge were there at the last look

    async def run(self) -> None:
        """Renew for ever."""
        while True:
            try:
                await self._queue.renew(self.held)
                orphans, trimmed = await self._queue.tidy(self.held)
                if orphans:
                    self._log.warning("entries that no bridge held, nor would read, are taken up", entries=orphans)
                if trimmed:
                    self._metrics.trimmed(trimmed)
                    self._log.warning("results are deleted, because no recorder has ever read", entries=trimmed)
                self.abandoned = bool(await self._queue.abandoned(self.held))
                self._metrics.stream_status(await self._read_status())
            except RedisError as error:
                self._metrics.retry("redis")
                self._log.warning("Redis command failed", error=str(error))
            await asyncio.sleep(self._pause_s)
