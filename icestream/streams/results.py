"""Readers of results and truths: `Tail` sees what is new and leaves it there, `GroupReader` acknowledges what it has dealt with."""

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from icestream import wire
from icestream.event import InvalidEvent
from icestream.result import Results
from icestream.streams import keys
from icestream.streams.adoption import adopt_old_names
from icestream.streams.connection import AsyncRedis, Redis
from icestream.streams.event_queue import MAX_PAYLOAD_BYTES
from icestream.streams.scripts import load
from icestream.streams.suitability import check_server

RECORD_BYTES = 256 * 2**10  # more than an entry of results or truths has; of a larger one only the beginning is read
READ_BYTES = 8 * 2**20  # read at once
LATEST = "18446744073709551615-18446744073709551615"  # beyond any entry


_TAIL = load("tail")


def read_tail(
    redis: Redis, stream: str, after: bytes | str, count: int, *, value_bytes: int = RECORD_BYTES, latest: bool = False
) -> list[tuple[bytes, list[bytes]]]:
    """Entries after one, as many as are read at once, without a consumer group.

    Args:
        value_bytes: of a larger value only the beginning is read.
        latest: the entries before that one, the latest first.

    Returns:
        entry id, and names and values, of each. Raises RedisError.
    """
    command = "XREVRANGE" if latest else "XRANGE"
    arguments: Any = (stream, after, count, READ_BYTES, value_bytes, command)
    found: Any = redis.eval_ro(_TAIL, 1, *arguments)
    return list(found)


class Tail:
    """Reads a stream from its first entry on, as anybody may, without a consumer group.

    Args:
        read_at_once: most entries.
        value_bytes: of a larger value only the beginning is read.
    """

    def __init__(self, redis: Redis, stream: str, read_at_once: int, value_bytes: int = RECORD_BYTES):
        self._redis, self._stream, self._read_at_once, self._value_bytes = redis, stream, read_at_once, value_bytes
        self._read_to: bytes = b"0-0"

    def read(self, block_ms: int | None = None) -> list[dict[bytes, bytes]]:
        """Fields of new entries; waits for the first one for at most `block_ms` (None: not at all). Raises RedisError."""
        entries = self._present()
        # What a blocking read returns is whole, however large: it only shows that there is an entry.
        if (
            not entries
            and block_ms is not None
            and self._redis.xread({self._stream: self._read_to}, count=1, block=block_ms)
        ):
            entries = self._present()
        if entries:
            self._read_to = entries[-1][0]
        return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]

    def _present(self) -> list[tuple[bytes, list[bytes]]]:
        return read_tail(self._redis, self._stream, self._read_to, self._read_at_once, value_bytes=self._value_bytes)


class AnotherReader(Exception):
    """Another reader holds the lease of the group."""


class LeaseLost(Exception):
    """The reader did not renew its lease in time: another one may have read meanwhile."""


class GroupReader:
    """The recorder's group on DIRECTIONS and TRUTH, which one reader reads at a time. Every method may raise RedisError."""

    CONSUMER = "recorder"  # all readers have one name, so that each takes over what the one before it has left pending
    LEASE_S = 5.0

    def __init__(self, redis: Redis):
        self._redis = redis
        self._lease = redis.register_script(load("lease"))
        self._acknowledge = redis.register_script(load("acknowledge"))
        self._join, self._read_script = redis.register_script(load("join")), redis.register_script(load("read"))
        self._name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"

    def take(self) -> None:
        """Take the lease; raises AnotherReader."""
        self._hold(renew_only=False)

    def renew(self) -> None:
        """Renew the lease; raises LeaseLost or AnotherReader."""
        self._hold(renew_only=True)

    def _hold(self, renew_only: bool) -> None:
        arguments: list[str | int] = [self._name, int(self.LEASE_S * 1000), int(renew_only)]
        holder = self._lease(keys=[keys.RECORDER], args=arguments).decode(errors="replace")
        if not holder:
            raise LeaseLost(f"this recorder has not renewed its lease for {self.LEASE_S:g} s")
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

    def pending(self, stream: str, count: int) -> Iterator[tuple[bytes, bytes]]:
        """Entry id and payload of what was delivered and not acknowledged, `count` of them read at once."""
        after = b"0"
        while found := self._read_present(stream, count, after):
            yield from found
            after = found[-1][0]

    def new(self, stream: str, count: int, block_ms: int | None = None) -> list[tuple[bytes, bytes]]:
        """Entry id and payload of up to `count` new entries; waits for the first for at most `block_ms` (None: not at all)."""
        found = self._read_present(stream, count, b">")
        return found if found or block_ms is None else self._read(stream, ">", block_ms)

    def show_alive(self) -> None:
        """Update the consumer's idle time although there is nothing to read."""
        self._read(keys.DIRECTIONS, keys.END, None)

    def acknowledge(self, results: Sequence[bytes], truths: Sequence[bytes], trim_before: bytes | None) -> None:
        """Acknowledge results, acknowledge and delete truths, and delete results older than an entry, in one step."""
        arguments: list[bytes | str | int] = [
            keys.RECORDER_GROUP, trim_before or b"", len(results), *results, *truths,
        ]  # fmt: skip
        self._acknowledge(keys=[keys.DIRECTIONS, keys.TRUTH], args=arguments)

    def _read_present(self, stream: str, count: int, start: bytes) -> list[tuple[bytes, bytes]]:
        arguments: list[bytes | str | int] = [
            keys.RECORDER_GROUP, self.CONSUMER, count, READ_BYTES, wire.FIELD, RECORD_BYTES, start,
        ]  # fmt: skip
        found: Any = self._read_script(keys=[stream], args=arguments)
        return [(entry_id, payload) for entry_id, payload, _ in found]

    def _read(self, stream: str, start: str, block_ms: int | None) -> list[tuple[bytes, bytes]]:
        reply: Any = self._redis.xreadgroup(
            keys.RECORDER_GROUP, self.CONSUMER, {stream: start}, count=1, block=block_ms
        )
        found: list[tuple[bytes, Mapping[bytes, bytes]]] = [entry for _, entries in reply for entry in entries]
        return [(entry_id, fields.get(wire.FIELD, b"")[:RECORD_BYTES]) for entry_id, fields in found]


async def count_stored_asyncio(redis: AsyncRedis) -> int:
    """How many results were ever stored. Raises RedisError."""
    count: Any = await redis.get(keys.STORED)
    return keys.number(count)


def latest_results(redis: Redis, count: int) -> list[Results]:
    """The latest entries of results in the stream, newest first; what is none is left out. Raises RedisError."""
    entries = read_tail(redis, keys.DIRECTIONS, LATEST, count, latest=True)
    found = []
    for _, fields in entries:
        with suppress(InvalidEvent):
            found.append(wire.decode_results(_payload(fields)))
    return found


def payloads(redis: Redis, stream: str) -> Iterator[bytes]:
    """The payloads of all entries of a stream, as far as an event's may reach. Raises RedisError."""
    tail = Tail(redis, stream, 1000, MAX_PAYLOAD_BYTES)
    while entries := tail.read():
        for fields in entries:
            yield fields.get(wire.FIELD, b"")


def _payload(fields: Sequence[bytes]) -> bytes:
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(wire.FIELD, b"")
