"""Readers of results and truths: `Tail` sees what is new and leaves it there, `GroupReader` acknowledges what it has dealt with."""

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from icestream import wire
from icestream.event import InvalidEvent
from icestream.result import Result
from icestream.streams import keys
from icestream.streams.adoption import adopt_old_names
from icestream.streams.connection import Redis
from icestream.streams.scripts import load
from icestream.streams.suitability import check_server


class Tail:
    """Reads a stream from its first entry on, as anybody may, without a consumer group."""

    def __init__(self, redis: Redis, stream: str, read_at_once: int):
        self._redis, self._stream, self._read_at_once = redis, stream, read_at_once
        self._read_to: bytes = b"0"

    def read(self, block_ms: int | None = None) -> list[dict[bytes, bytes]]:
        """Fields of new entries; waits for the first one for at most `block_ms` (None: not at all). Raises RedisError."""
        reply: Any = self._redis.xread({self._stream: self._read_to}, count=self._read_at_once, block=block_ms)
        entries = [entry for _, found in reply or [] for entry in found]
        if entries:
            self._read_to = entries[-1][0]
        return [fields for _, fields in entries]


class AnotherReader(Exception):
    """Another reader holds the lease of the group."""


class GroupReader:
    """The recorder's group on DIRECTIONS and TRUTH, which one reader reads at a time. Every method may raise RedisError."""

    CONSUMER = "recorder"  # all readers have one name, so that each takes over what the one before it has left pending
    LEASE_S = 5.0

    def __init__(self, redis: Redis):
        self._redis = redis
        self._lease = redis.register_script(load("lease"))
        self._join = redis.register_script(load("join"))
        self._name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"

    def hold(self) -> None:
        """Take or renew the lease; raises AnotherReader."""
        holder = self._lease(keys=[keys.RECORDER], args=[self._name, int(self.LEASE_S * 1000)]).decode()
        if holder != self._name:
            raise AnotherReader(f"another recorder ({holder}) reads these streams")

    def check_server(self) -> list[str]:
        """Warnings about the server; raises UnsuitableRedis."""
        return check_server(self._redis)

    def leave(self) -> None:
        """Give up the lease."""
        self._lease(keys=[keys.RECORDER], args=[self._name, 0])

    def join(self) -> None:
        """Create the groups, from the first entry of each stream, if they do not exist."""
        adopt_old_names(self._redis)
        self._join(keys=[keys.DIRECTIONS, keys.TRUTH], args=[keys.RECORDER_GROUP])

    def pending(self, stream: str) -> list[tuple[bytes, bytes]]:
        """Entry id and payload of what was delivered and not acknowledged."""
        return self._read(stream, "0")

    def new(self, stream: str, count: int, block_ms: int | None = None) -> list[tuple[bytes, bytes]]:
        """Entry id and payload of up to `count` new entries; waits for the first for at most `block_ms` (None: not at all)."""
        return self._read(stream, ">", count, block_ms)

    def show_alive(self) -> None:
        """Update the consumer's idle time although there is nothing to read."""
        self._read(keys.DIRECTIONS, keys.END)

    def acknowledge(self, results: Sequence[bytes], truths: Sequence[bytes], trim_before: bytes | None) -> None:
        """Acknowledge results, acknowledge and delete truths, and delete results older than an entry, in one step."""
        with self._redis.pipeline(transaction=True) as pipe:
            if results:
                pipe.xack(keys.DIRECTIONS, keys.RECORDER_GROUP, *results)
            if truths:
                pipe.xack(keys.TRUTH, keys.RECORDER_GROUP, *truths)
                pipe.xdel(keys.TRUTH, *truths)
            if trim_before is not None:
                pipe.xtrim(keys.DIRECTIONS, minid=trim_before)
            pipe.execute()

    def _read(
        self, stream: str, start: str, count: int | None = None, block_ms: int | None = None
    ) -> list[tuple[bytes, bytes]]:
        reply: Any = self._redis.xreadgroup(
            keys.RECORDER_GROUP, self.CONSUMER, {stream: start}, count=count, block=block_ms
        )
        found: list[tuple[bytes, Mapping[bytes, bytes] | None]] = [entry for _, entries in reply for entry in entries]
        return [(entry_id, (fields or {}).get(wire.FIELD, b"")) for entry_id, fields in found]


def latest_results(redis: Redis, count: int) -> list[Result]:
    """The latest results in the stream, newest first; entries that are not results are left out. Raises RedisError."""
    entries: Any = redis.xrevrange(keys.DIRECTIONS, count=count)
    found = []
    for _, fields in entries:
        with suppress(InvalidEvent):
            found.append(wire.RESULT.decode(fields.get(wire.FIELD, b"")))
    return found


def payloads(redis: Redis, stream: str) -> Iterator[bytes]:
    """The payloads of all entries of a stream, page by page. Raises RedisError."""
    after = b"-"
    while True:
        entries: Any = redis.xrange(stream, min=after, count=1000)
        if not entries:
            return
        for _, fields in entries:
            yield fields.get(wire.FIELD, b"")
        after = b"(" + entries[-1][0]
