"""Writes events and their truth into Redis: all of a batch or nothing, and never twice."""

from collections.abc import Sequence
from typing import Any

from redis import Redis

from icestream import wire
from icestream.sources.source import Pair, Position
from icestream.streams import keys as streams

# KEYS: events, truth, the run's hash. ARGV: the number of its first event, field, run_id and event_id of the last event,
# then event and truth (may be empty) of each. What an earlier call has already written, its reply lost, is passed over.
_PUBLISH = """
local emitted = tonumber(redis.call('HGET', KEYS[3], 'emitted') or '0')
local number = tonumber(ARGV[1])
for i = 5, #ARGV, 2 do
    if number >= emitted then
        redis.call('XADD', KEYS[1], '*', ARGV[2], ARGV[i])
        if ARGV[i + 1] ~= '' then redis.call('XADD', KEYS[2], '*', ARGV[2], ARGV[i + 1]) end
    end
    number = number + 1
end
if number > emitted then
    redis.call('HSET', KEYS[3], 'emitted', number, 'run_id', ARGV[3], 'event_id', ARGV[4])
    redis.call('EXPIRE', KEYS[3], 604800)
end
return redis.call('XLEN', KEYS[1])
"""


class Publisher:
    """The one place of the emitter that knows Redis.

    Args:
        run_id: names the run; a run that was begun goes on behind its last event.
    """

    def __init__(self, redis: Redis, run_id: int):
        self._redis = redis
        self._script = self._redis.register_script(_PUBLISH)
        self._key = f"{streams.EMITTED}:{run_id}"

    def position(self) -> tuple[int, Position | None]:
        """How many events of the run are in the stream, and the last of them."""
        values: Any = self._redis.hmget(self._key, "emitted", "run_id", "event_id")
        emitted, run_id, event_id = values
        return (0, None) if emitted is None else (int(emitted), Position(int(run_id), int(event_id)))

    def publish(self, first: int, pairs: Sequence[Pair], now_ns: int) -> int:
        """Write events; may be called again with the same arguments until it returns.

        Args:
            first: number of the first event in its run, counted from 0.
            now_ns: Unix time that the events are stamped with.

        Returns:
            the backlog: entries in the stream of events.

        Raises:
            redis.RedisError: it is not known whether the events were written; call again.
        """
        last = pairs[-1][0]
        arguments: list[bytes | int] = [first, wire.FIELD, last.run_id, last.event_id]
        for event, truth in pairs:
            arguments += [wire.encode_event(event, now_ns), b"" if truth is None else wire.TRUTH.encode(truth)]
        return int(self._script(keys=[streams.EVENTS, streams.TRUTH, self._key], args=arguments))

    def backlog(self) -> int:
        """Entries in the stream of events."""
        return int(self._redis.xlen(streams.EVENTS))
