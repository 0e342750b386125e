"""Writes events and their truths: all of a batch or nothing, and never twice."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icestream import wire
from icestream.event import Event
from icestream.sources.source import Position
from icestream.streams import keys
from icestream.streams.adoption import adopt_old_names
from icestream.streams.connection import Redis
from icestream.streams.scripts import load
from icestream.streams.suitability import check_server
from icestream.truth import Truth

ALIVE_MS = 5000  # that a sign of life lasts
DESCRIBED = ("source", "rate", "seed")


class AnotherWriter(Exception):
    """Another writer has begun the run since: it continues it, this one must end."""


class PositionLost(Exception):
    """Redis came back without its last writes: read the position again and continue from there."""


@dataclass(frozen=True)
class Backlog:
    """What waits in the stream of events."""

    entries: int
    size: int  # bytes in Redis


class Publisher:
    """The writer of one run. There is one at a time: the one that called `begin` last.

    Args:
        run_id: names the run; a run that was begun is continued after its last event.
    """

    def __init__(self, redis: Redis, run_id: int):
        self._redis, self._run_id = redis, run_id
        self._publish = redis.register_script(load("publish"))
        self._key = keys.run(run_id)
        self._writer = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"

    def check_server(self) -> list[str]:
        """Warnings about the server; raises RedisError or UnsuitableRedis."""
        return check_server(self._redis)

    def begin(self, description: Mapping[str, str]) -> None:
        """Become the writer of the run, and write what its events are, for readers of its results. Raises RedisError."""
        adopt_old_names(self._redis, {f"icestream:emitted:{self._run_id}": self._key})
        mapping: dict[Any, Any] = {**description, "writer": self._writer}
        self._redis.hset(self._key, mapping=mapping)
        self._redis.expire(self._key, keys.RUN_KEPT_S)

    def position(self) -> tuple[int, Position | None]:
        """How many events of the run are in the stream, and the last of them."""
        values: Any = self._redis.hmget(self._key, "emitted", "run_id", "event_id")
        emitted, run_id, event_id = values
        return (0, None) if emitted is None else (int(emitted), Position(int(run_id), int(event_id)))

    def publish(self, first: int, pairs: Sequence[tuple[Event, Truth | None]], now_ns: int) -> int:
        """Write events; may be called again with the same arguments until it returns.

        Args:
            first: number of the first event in its run, counted from 0.
            now_ns: Unix time that the events are stamped with.

        Returns:
            entries in the stream of events.

        Raises:
            RedisError: it is not known whether the events were written; call again.
            AnotherWriter, PositionLost: nothing was written.
        """
        last = pairs[-1][0]
        arguments: list[bytes | str | int] = [
            self._writer, first, wire.FIELD, last.run_id, last.event_id, keys.RUN_KEPT_S,
        ]  # fmt: skip
        for event, truth in pairs:
            arguments += [wire.encode_event(event, now_ns), b"" if truth is None else wire.TRUTH.encode(truth)]
        backlog = int(self._publish(keys=[keys.EVENTS, keys.TRUTH, self._key], args=arguments))
        if backlog == -1:
            raise AnotherWriter(f"another emitter writes run {self._run_id} now")
        if backlog == -2:
            raise PositionLost(f"run {self._run_id} ends before event number {first}")
        return backlog

    def show_alive(self) -> None:
        """Show that there is an emitter although it writes nothing just now."""
        self._redis.set(keys.EMITTER, self._writer, px=ALIVE_MS)

    def backlog(self) -> Backlog:
        """What waits in the stream of events."""
        size: Any = self._redis.memory_usage(keys.EVENTS, samples=0)  # 0: all of its nodes
        return Backlog(int(self._redis.xlen(keys.EVENTS)), int(size or 0))


def read_description(redis: Redis, run_id: int) -> dict[str, str]:
    """The description that an emitter wrote of its run: source, rate, seed; empty if there is none. Raises RedisError."""
    found: Any = redis.hmget(keys.run(run_id), *DESCRIBED)
    return {name: value.decode() for name, value in zip(DESCRIBED, found, strict=True) if value is not None}


@dataclass(frozen=True, kw_only=True)
class RunCounts:
    """Events of a run, as Redis counted them."""

    emitted: int
    forgotten: int  # of those, before all keys were deleted: what became of them is not known
    stored: int  # results, those of runs with larger ids (later passes over a folder) included
    repeated: int  # entries of an event that has a result, the same runs included


def count_run(redis: Redis, run_id: int) -> RunCounts:
    """The counts of a run. Raises RedisError."""
    own: Any = redis.hmget(keys.run(run_id), "emitted", "forgotten")
    done = [0, 0]
    for key in redis.scan_iter(f"{keys.EMITTED}:*", count=1000):
        if int(key.rsplit(b":", 1)[1]) >= run_id:
            found: Any = redis.hmget(key, "stored", "repeated")
            done = [total + int(value or 0) for total, value in zip(done, found, strict=True)]
    return RunCounts(emitted=int(own[0] or 0), forgotten=int(own[1] or 0), stored=done[0], repeated=done[1])
