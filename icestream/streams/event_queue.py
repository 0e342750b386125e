"""Reads the stream of events: new entries, and those that a bridge which is gone has left."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from icestream import wire
from icestream.streams import keys as streams

# Deleting a consumer deletes what it holds: look and delete in one step. KEYS: events. ARGV: group, consumer.
_LEAVE = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[2]) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
end
"""


@dataclass(frozen=True)
class Entry:
    """An entry of the stream of events."""

    entry_id: bytes
    payload: bytes  # empty if the entry has no such field
    tries: int  # deliveries, this one included
    read_ns: int  # Unix time


class Intake:
    """One consumer of the bridges' group.

    A consumer shows that it is alive by renewing what it holds; entries that nobody has renewed for `claim_idle_s` are
    taken over by whoever asks first.

    Every method may raise redis.RedisError; calling again is safe: an entry whose delivery was lost on the way is not
    renewed and comes back by `claim`.
    """

    def __init__(self, redis: Redis, consumer: str, claim_idle_s: float):
        self._redis, self._consumer, self._idle_ms = redis, consumer, int(claim_idle_s * 1000)
        self._leave = redis.register_script(_LEAVE)

    async def prepare(self) -> None:
        """Make the group, from the stream's first entry, if it is not there."""
        try:
            await self._redis.xgroup_create(streams.EVENTS, streams.BRIDGE_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise

    async def read(self, count: int) -> list[Entry]:
        """Up to `count` new entries; waits for the first for at most `streams.BLOCK_MS`."""
        answer: Any = await self._redis.xreadgroup(
            streams.BRIDGE_GROUP, self._consumer, {streams.EVENTS: ">"}, count=count, block=streams.BLOCK_MS
        )
        now = time.time_ns()
        return [_entry(entry_id, fields, 1, now) for _, entries in answer for entry_id, fields in entries]

    async def claim(self, count: int, held: "Iterable[bytes]") -> list[Entry]:
        """Up to `count` entries that were left, except those this bridge still holds."""
        reply: list[Any] = await self._redis.xautoclaim(
            streams.EVENTS, streams.BRIDGE_GROUP, self._consumer, self._idle_ms, start_id="0-0", count=count
        )
        own = set(held)
        left = [(entry_id, fields) for entry_id, fields in reply[1] if fields is not None and entry_id not in own]
        if not left:
            return []
        details = await self._redis.xpending_range(
            streams.EVENTS,
            streams.BRIDGE_GROUP,
            left[0][0],
            left[-1][0],
            count=max(10 * len(left), 1000),
            consumername=self._consumer,
        )
        tries = {detail["message_id"]: int(detail["times_delivered"]) for detail in details}
        now = time.time_ns()
        return [_entry(entry_id, fields, tries.get(entry_id, 1), now) for entry_id, fields in left]

    async def renew(self, held: Iterable[bytes]) -> None:
        """Show that this bridge is alive and still works on these entries."""
        ids: list[Any] = list(held)
        if ids:
            await self._redis.xclaim(streams.EVENTS, streams.BRIDGE_GROUP, self._consumer, 0, ids, justid=True)
        else:
            await self._redis.xreadgroup(streams.BRIDGE_GROUP, self._consumer, {streams.EVENTS: streams.END}, count=1)

    async def leave(self) -> None:
        """Leave the group, unless entries are still held: those must stay claimable."""
        await self._leave(keys=[streams.EVENTS], args=[streams.BRIDGE_GROUP, self._consumer])


def _entry(entry_id: bytes, fields: dict[bytes, bytes], tries: int, now: int) -> Entry:
    return Entry(entry_id, fields.get(wire.FIELD, b""), tries, now)
