"""Writes events and their truths: all of a batch or nothing, and never twice."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

from icestream import wire
from icestream.event import RawEvent
from icestream.sources.source import Position
from icestream.streams import keys
from icestream.streams.adoption import adopt_old_names
from icestream.streams.connection import ConnectionError, Redis
from icestream.streams.scripts import load
from icestream.streams.suitability import check_server
from icestream.truth import Truth

ALIVE_MS = 5000  # that a sign of life lasts
ON_DISK_S = 2.0  # after which a write is on the disk of a Redis that writes its append-only file to it every second
REPLICATED_MS = 2000  # for a replica to have what was written
DESCRIBED, DESCRIBED_LENGTH = ("source", "rate", "seed", "truth"), 500  # characters of each
CONTENTS = "contents"  # of the source: what a run is continued with


class AnotherWriter(Exception):
    """Another writer has begun the run since: it continues it, this one must end."""


class AnotherSource(Exception):
    """The run was begun with another source: its position means nothing in this one."""


class PositionLost(Exception):
    """Redis came back without its last writes: call `begin_if_lost`, read the position again and continue from there."""


@dataclass(frozen=True)
class Backlog:
    """What waits in the stream of events."""

    entries: int
    size: int  # bytes in Redis


class Publisher:
    """The writer of one run. There is one at a time: the one that called `begin` last.

    Args:
        run_id: names the run; a run that was begun is continued after its last event.
        replicated: an event counts as written when a replica of Redis has it as well.
        fails_over: a replica may take over, which has less than what is on the primary's disk.
    """

    def __init__(self, redis: Redis, run_id: int, *, replicated: bool = False, fails_over: bool = False):
        self._fails_over = fails_over
        self._redis, self._run_id, self._replicated = redis, run_id, replicated
        self._publish, self._begin = redis.register_script(load("publish")), redis.register_script(load("begin"))
        self._key = keys.run(run_id)
        self._name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        self._writer = f"{0:012d} {self._name}"
        self._begun_s = time.monotonic()
        self._on_disk = False  # the beginning of the run

    def check_server(self) -> list[str]:
        """Warnings about the server; raises RedisError or UnsuitableRedis."""
        return check_server(self._redis)

    def begin(self, description: Mapping[str, str], contents: Sequence[str] = ()) -> None:
        """Become the writer of the run, and write what its events are, for readers of its results.

        Args:
            contents: what the source is made of; a run that has events is continued if it was begun with these, or the first of them.

        Raises:
            RedisError: call again.
            AnotherSource: the run was begun with another source.
        """
        adopt_old_names(self._redis, {f"icestream:emitted:{self._run_id}": self._key})
        begun, emitted = cast("list[bytes | None]", self._redis.hmget(self._key, CONTENTS, "emitted"))
        resumed = emitted is not None
        if begun and int(emitted or 0):
            before = begun.decode(errors="replace").split("\n")
            if before != list(contents[: len(before)]):
                differing = next((one for one, other in zip_longest(before, contents) if one != other), None)
                raise AnotherSource(
                    f"run {self._run_id} has {int(emitted or 0)} events of another source ({differing})"
                )
        self._become_writer(description, contents, only_if_lost=False)
        self._on_disk = resumed

    def begin_if_lost(self, description: Mapping[str, str], contents: Sequence[str] = ()) -> None:
        """The same, if Redis knows of no writer of the run any more."""
        self._become_writer(description, contents, only_if_lost=True)

    def _become_writer(self, description: Mapping[str, str], contents: Sequence[str], only_if_lost: bool) -> None:
        words = [word for pair in {**description, CONTENTS: "\n".join(contents)}.items() for word in pair]
        arguments: list[str | int] = [self._name, keys.RUN_KEPT_S, int(only_if_lost), *words]
        if (writer := self._begin(keys=[self._key], args=arguments)) is not None:
            self._writer, self._begun_s, self._on_disk = writer.decode(), time.monotonic(), False

    def position(self) -> tuple[int, Position | None]:
        """How many events of the run are in the stream, and the last of them."""
        values: Any = self._redis.hmget(self._key, "emitted", "run_id", "event_id")
        emitted, run_id, event_id = values
        return (0, None) if run_id is None else (int(emitted), Position(int(run_id), int(event_id)))

    def publish(self, first: int, pairs: Sequence[tuple[RawEvent, Truth | None]], now_ns: int) -> int:
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
        truths = [truth for _, truth in pairs if truth is not None]
        arguments: list[bytes | str | int] = [
            self._writer, first, wire.FIELD, last.run_id, last.event_id, keys.RUN_KEPT_S,
            int(self._on_disk and not self._fails_over),
            wire.encode_truths(truths) if truths else b"",
            *(wire.encode_event(event, now_ns) for event, _ in pairs),
        ]  # fmt: skip
        passes = {event.run_id for event, _ in pairs} - {self._run_id}
        began_s = time.monotonic()
        streams = [keys.EVENTS, keys.TRUTH, self._key, *map(keys.run, passes)]
        backlog = self._write(streams, arguments)
        if backlog == -1:
            raise AnotherWriter(f"another emitter writes run {self._run_id} now")
        if backlog == -2:
            raise PositionLost(f"run {self._run_id} ends before event number {first}")
        self._on_disk = self._on_disk or began_s - self._begun_s > ON_DISK_S
        return backlog

    def _write(self, streams: Sequence[str], arguments: Sequence[bytes | str | int]) -> int:
        if not self._replicated:
            return int(self._publish(keys=streams, args=arguments))
        with self._redis.pipeline(transaction=False) as pipe:  # WAIT is about the writes of its own connection
            self._publish(keys=streams, args=arguments, client=pipe)
            pipe.wait(1, REPLICATED_MS)
            backlog, replicas = pipe.execute()
        if backlog >= 0 and not replicas:
            raise ConnectionError(f"no replica of Redis has the events after {REPLICATED_MS} ms")
        return int(backlog)

    def show_alive(self) -> None:
        """Show that there is an emitter although it writes nothing just now."""
        began_s = time.monotonic()
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.set(keys.EMITTER, self._writer, px=ALIVE_MS)
            pipe.exists(self._key)
            _, exists = pipe.execute()
        self._on_disk = self._on_disk or (bool(exists) and began_s - self._begun_s > ON_DISK_S)

    def backlog(self) -> Backlog:
        """What waits in the stream of events."""
        size: Any = self._redis.memory_usage(keys.EVENTS, samples=0)  # 0: all of its nodes
        return Backlog(int(self._redis.xlen(keys.EVENTS)), int(size or 0))


def read_description(redis: Redis, run_id: int) -> dict[str, str]:
    """The description that an emitter wrote of its run: source, rate, seed, truth; empty if there is none. Raises RedisError."""
    found: Any = redis.hmget(keys.run(run_id), *DESCRIBED)
    return {
        name: value.decode(errors="replace")[:DESCRIBED_LENGTH]
        for name, value in zip(DESCRIBED, found, strict=True)
        if value is not None
    }


@dataclass(frozen=True, kw_only=True)
class RunCounts:
    """Events of a run, as Redis counted them."""

    emitted: int
    latest: int  # id of the latest pass over a folder: each is a run of its own, with the next id
    forgotten: int  # of those that were emitted, before all keys were deleted: what became of them is not known
    stored: int  # results, those of later passes included
    repeated: int  # entries of an event that has a result, of the same runs
    rejected: int  # the same


def count_run(redis: Redis, run_id: int) -> RunCounts:
    """The counts of a run. Raises RedisError."""
    own: Any = redis.hmget(keys.run(run_id), "emitted", "forgotten", "run_id")
    emitted, forgotten, latest = map(keys.number, own)
    latest = max(latest, run_id)
    done = [0, 0, 0]
    for key in redis.scan_iter(f"{keys.EMITTED}:*", count=1000):
        number = key.rsplit(b":", 1)[1]
        if keys.INTEGER.fullmatch(number) and run_id <= int(number) <= latest:
            found: Any = redis.hmget(key, "stored", "repeated", "rejected")
            done = [total + keys.number(value) for total, value in zip(done, found, strict=True)]
    stored, repeated, rejected = done
    return RunCounts(
        emitted=emitted, latest=latest, forgotten=forgotten, stored=stored, repeated=repeated, rejected=rejected
    )
