"""How the streams stand: what waits for a bridge, and what waits for the recorder."""

import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from icestream.streams import keys as streams


@dataclass(frozen=True)
class Standing:
    """One look at the streams."""

    backlog: int  # events without a result
    pending: int  # of those, read by some bridge
    oldest_pending_s: float  # age of the oldest of them; 0 if there is none
    unrecorded_s: float  # age of the oldest result that the recorder has not put on disk; 0 if there is none


async def look(redis: Redis) -> Standing:
    """How the streams stand now; raises redis.RedisError."""
    backlog = int(await redis.xlen(streams.EVENTS))
    summary = await redis.xpending(streams.EVENTS, streams.BRIDGE_GROUP)
    return Standing(backlog, int(summary["pending"]), _age_s(summary["min"]), _age_s(await _first_unrecorded(redis)))


async def _first_unrecorded(redis: Redis) -> bytes | None:
    """Id of the first result that the recorder has not acknowledged: delivered to it, or not even that."""
    after = b"-"
    try:
        if first := (await redis.xpending(streams.DIRECTIONS, streams.RECORDER_GROUP))["min"]:
            return bytes(first)
        for group in await redis.xinfo_groups(streams.DIRECTIONS):
            if group["name"] == streams.RECORDER_GROUP.encode():
                after = b"(" + group["last-delivered-id"]
    except ResponseError:  # no recorder has ever joined, or there is no result yet
        pass
    entries: Any = await redis.xrange(streams.DIRECTIONS, min=after, count=1)
    return entries[0][0] if entries else None


def _age_s(entry_id: bytes | None) -> float:
    return 0.0 if entry_id is None else max(0.0, time.time() - int(entry_id.split(b"-")[0]) / 1000)
