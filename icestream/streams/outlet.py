"""Stores what became of an event and removes its entry: one atomic step in Redis, so it happens exactly once.

All calls may be repeated until they return: an entry that is no longer pending is passed over.
"""

from collections.abc import Mapping, Sequence
from enum import IntEnum
from types import MappingProxyType

from redis.asyncio import Redis

from icestream import wire
from icestream.event import Reconstruction
from icestream.inference.client import Model
from icestream.streams import keys as streams

DONE_SPAN_S = 300  # finished events are remembered for one to two of these: far longer than a write is tried again

# KEYS: events, directions, prefix of the done sets, shown. ARGV: group, field, span, shown entries to keep, then entry id,
# event's name, result and, if it is to be shown, the event of each. Returns the outcome of each entry.
_STORE = """
local span = tonumber(ARGV[3])
local now = math.floor(tonumber(redis.call('TIME')[1]) / span)
local current, previous = KEYS[3] .. ':' .. now, KEYS[3] .. ':' .. (now - 1)
local outcomes = {}
for i = 5, #ARGV, 4 do
    local outcome = 0
    if redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) == 1 then
        redis.call('XDEL', KEYS[1], ARGV[i])
        outcome = 2
        if redis.call('SISMEMBER', previous, ARGV[i + 1]) == 0 and redis.call('SADD', current, ARGV[i + 1]) == 1 then
            redis.call('XADD', KEYS[2], '*', ARGV[2], ARGV[i + 2])
            if ARGV[i + 3] ~= '' then
                redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[4], '*', ARGV[2], ARGV[i + 3], 'result', ARGV[i + 2])
            end
            outcome = 1
        end
    end
    outcomes[#outcomes + 1] = outcome
end
redis.call('EXPIRE', current, 2 * span)
return outcomes
"""

# KEYS: events, rejected. ARGV: group, kept, entry id, field, payload, reason, detail, tries. Returns 1 if it was rejected now.
_REJECT = """
if redis.call('XACK', KEYS[1], ARGV[1], ARGV[3]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], ARGV[3])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', ARGV[4], ARGV[5], 'reason', ARGV[6], 'detail', ARGV[7], 'tries', ARGV[8], 'entry', ARGV[3])
return 1
"""


class Outcome(IntEnum):
    """What became of a result."""

    WAS_DONE = 0  # the entry was no longer pending: another bridge was faster, or this call is a repetition
    STORED = 1
    DUPLICATE = 2  # an earlier entry of the same event has a result


class Outlet:
    """Where results and rejected entries go."""

    def __init__(self, redis: Redis):
        self._redis = redis
        self._store, self._reject = redis.register_script(_STORE), redis.register_script(_REJECT)

    async def store(
        self, results: Sequence[tuple[bytes, Reconstruction]], shown: Mapping[int, bytes] = MappingProxyType({})
    ) -> list[Outcome]:
        """Store results; raises redis.RedisError if it is not known that they are.

        Args:
            results: each with the id of its event's entry.
            shown: bytes of the events that are to be shown, by the place of their result.
        """
        arguments: list[bytes | str | int] = [streams.BRIDGE_GROUP, wire.FIELD, DONE_SPAN_S, streams.SHOWN_KEPT]
        for place, (entry_id, result) in enumerate(results):
            name = f"{result.run_id}:{result.event_id}"
            arguments += [entry_id, name, wire.RECONSTRUCTION.encode(result), shown.get(place, b"")]
        keys = [streams.EVENTS, streams.DIRECTIONS, streams.DONE, streams.SHOWN]
        outcomes = await self._store(keys=keys, args=arguments)
        return [Outcome(outcome) for outcome in outcomes]

    async def announce(self, model: Model) -> None:
        """Tell which weights are served, so that results can be traced to them."""
        await self._redis.hset(
            f"{streams.MODEL}:{model.name}", mapping={"checkpoint": model.checkpoint, "max_pulses": model.max_pulses}
        )

    async def reject(self, entry_id: bytes, payload: bytes, reason: str, detail: str, tries: int) -> bool:
        """Put an entry aside for good; False if another bridge has dealt with it."""
        arguments: list[bytes | str | int] = [
            streams.BRIDGE_GROUP,
            streams.REJECTED_KEPT,
            entry_id,
            wire.FIELD,
            payload,
            reason,
            detail,
            tries,
        ]
        return bool(await self._reject(keys=[streams.EVENTS, streams.REJECTED], args=arguments))
