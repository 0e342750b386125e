"""The state of the streams: what waits for a bridge, what waits for the recorder, who is alive. Read in one place, here."""

import json
from dataclasses import dataclass
from typing import Any

from icestream.streams import keys
from icestream.streams.connection import AsyncRedis, Redis
from icestream.streams.publisher import ALIVE_MS
from icestream.streams.scripts import load

ALIVE_S = 5.0  # a consumer that has sent Redis no command for so long is not alive; all send one at least every 2 s
LOOKED_AT = 10  # oldest events that are looked at whether a bridge holds them
COUNTED = 1000  # entries that are counted at most where Redis does not know a group's lag, after a restart

_SCRIPT = load("status")
_ARGUMENTS = (keys.BRIDGE_GROUP, keys.RECORDER_GROUP, str(COUNTED), str(LOOKED_AT), str(ALIVE_MS))


@dataclass(frozen=True)
class Oldest:
    """The oldest of some entries."""

    entry: str = ""  # its id; empty if there is none
    age_s: float = 0.0  # by Redis' clock, 0 where that was set back behind it


@dataclass(frozen=True, kw_only=True)
class StreamStatus:
    """The state of the streams at one moment."""

    backlog: int  # events without a result
    pending: int  # of those, delivered to some bridge
    oldest_pending: Oldest  # of them
    oldest_unheld: Oldest  # of the events that no bridge holds
    unrecorded: int  # entries of results that the recorder has not put on disk
    oldest_unrecorded: Oldest  # of them
    emitted_total: int  # events ever added,
    stored_total: int  # results,
    rejected_total: int  # dead letters
    rejected: int  # dead letters that are there now
    emitters: int  # 1 if one is alive, or an event was written lately
    bridges: int  # alive
    recorders: int  # alive


def read_status(redis: Redis, queue: keys.Queue = keys.STREAM) -> StreamStatus:
    """The state of the streams now; raises RedisError."""
    return _parse(redis.eval_ro(*_arguments(queue)))


async def read_status_asyncio(redis: AsyncRedis, queue: keys.Queue = keys.STREAM) -> StreamStatus:
    """The same for asyncio."""
    reply: Any = redis.eval_ro(*_arguments(queue))
    return _parse(await reply)


def _arguments(queue: keys.Queue) -> Any:
    names = (queue.events, queue.directions, queue.rejected, keys.EMITTER, queue.stored)
    return (_SCRIPT, len(names), *names, *_ARGUMENTS)


def _parse(reply: Any) -> StreamStatus:
    found: dict[str, Any] = json.loads(reply)
    last_event_ms = found.get("last_event", ("", -1))[1]
    return StreamStatus(
        backlog=int(found["backlog"]),
        pending=int(found["pending"]),
        oldest_pending=_oldest(found.get("oldest_pending")),
        oldest_unheld=_oldest(found.get("oldest_unheld")),
        unrecorded=int(found["unrecorded"]),
        oldest_unrecorded=_oldest(found.get("oldest_unrecorded")),
        emitted_total=int(found["emitted_total"]),
        stored_total=int(found["stored_total"]),
        rejected_total=int(found["rejected_total"]),
        rejected=int(found["rejected"]),
        emitters=int(bool(found["emitter"]) or 0 <= last_event_ms < ALIVE_S * 1000),
        bridges=_alive(found["bridges_idle_ms"]),
        recorders=_alive(found["recorders_idle_ms"]),
    )


def _oldest(found: Any) -> Oldest:
    return Oldest(found[0], max(0, found[1]) / 1000) if found else Oldest()


def _alive(idle_ms: Any) -> int:
    return sum(idle < ALIVE_S * 1000 for idle in idle_ms)  # cjson writes an empty list as {}
