"""The queue of events that the bridges share: one consumer group of the stream of events.

Delivery is at least once, results are stored exactly once: an entry leaves the stream in the same step in which its result is
stored (`complete`) or its dead letter is written (`reject`). An entry that a bridge does not renew for `claim_idle_s` can be
claimed by any other bridge.
"""

import math
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgspec

from icestream import wire
from icestream.result import Results
from icestream.streams import keys
from icestream.streams.adoption import adopt_old_names_asyncio
from icestream.streams.connection import BLOCK_MS, AsyncRedis, ResponseError
from icestream.streams.scripts import load
from icestream.streams.suitability import check_server_asyncio

LISTED = 1000  # abandoned entries that are listed at a time
LOOKED_AT = 10  # oldest entries of the stream that are looked at whether they are anybody's
STALE_MS = 60_000  # a consumer that holds nothing and has sent no command for so long is deleted
MAX_PAYLOAD_BYTES = 4 * 2**20  # more than the largest event has; of a larger payload only the beginning is read
READ_BYTES = 16 * 2**20  # read at once, where the stream has more than may be read
SIZED_S, SIZED_ENTRIES = 0.1, 20_000  # how long its size holds, and how long a stream is measured
DETAIL_CHARACTERS = 1000  # of a dead letter
IMMEDIATE_S = 0.002  # a blocking read that returns within it found an entry that was there


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entry of the stream of events, as delivered to this bridge."""

    entry_id: bytes
    payload: bytes  # empty if the entry has no such field; at most MAX_PAYLOAD_BYTES
    size: int  # bytes of the whole payload
    tries: int  # deliveries, this one included
    read_ns: int  # Unix time


@dataclass(frozen=True, kw_only=True)
class PendingEntry:
    """An entry that was delivered to some bridge."""

    entry_id: bytes
    deliveries: int


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """An entry that can never succeed."""

    entry: Entry
    reason: str  # one of icestream.event.REASONS
    detail: str


class Outcome(IntEnum):
    """The outcome of storing a result."""

    WAS_DONE = 0  # the entry was no longer pending: another bridge was faster, or this call is a repetition
    STORED = 1
    DUPLICATE = 2  # an earlier entry of the same event has a result


OUTCOMES = list(Outcome)


class EventQueue:
    """One consumer of the bridges' group.

    Every method may raise RedisError, and every call may be repeated until it returns: an entry whose delivery was lost is
    not renewed and is claimed later; `complete` and `reject` skip entries that are no longer pending.

    Args:
        consumer: name in the group, unique among bridges.
        claim_idle_s: seconds without renewal after which an entry may be claimed.
        names: of its keys.
    """

    def __init__(self, redis: AsyncRedis, consumer: str, claim_idle_s: float, names: keys.Queue = keys.STREAM):
        self._redis, self._consumer, self._idle_ms = redis, consumer, int(claim_idle_s * 1000)
        self._ahead: dict[bytes, float] = {}  # entries that were delivered at no time, so far → since when
        self._names = names
        self._is_stream = names == keys.STREAM  # a copy of an event is none of its run, and is not kept
        self._complete = redis.register_script(load("complete"))
        self._reject = redis.register_script(load("reject"))
        self._leave = redis.register_script(load("leave"))
        self._read = redis.register_script(load("read"))
        self._claim = redis.register_script(load("claim"))
        self._tidy = redis.register_script(load("tidy"))
        self._lease = redis.register_script(load("lease"))
        self._join = redis.register_script(load("join"))
        self._waited = False  # for the last entry: the stream was empty
        self._bytes, self._sized_s = 0.0, -math.inf  # of the stream, and when it was measured

    async def check_server(self) -> list[str]:
        """Warnings about the server; raises UnsuitableRedis."""
        return await check_server_asyncio(self._redis)

    async def join(self) -> None:
        """Create the group, from the first entry of the stream, if it does not exist."""
        if self._is_stream:
            await adopt_old_names_asyncio(self._redis)
        await self._join(keys=[self._names.events], args=[keys.BRIDGE_GROUP])

    async def read(self, count: int, at_most_bytes: int = READ_BYTES) -> list[Entry]:
        """New entries: as many as wanted, or until they have so many bytes; waits for the first one for at most BLOCK_MS.

        A script that looks at the size of each entry costs Redis three times as much as to read them: it is used only where the
        stream as a whole has more bytes.
        """
        try:
            if not self._waited:
                small = await self._size() <= at_most_bytes
                if entries := await (
                    self._read_new(count) if small else self._read_limited(count, min(at_most_bytes, READ_BYTES))
                ):
                    return entries
            began = time.monotonic()
            entries = await self._read_new(1, BLOCK_MS)
            # Never twice: a server that is far away takes as long for an entry that was there.
            self._waited = not self._waited and time.monotonic() - began > IMMEDIATE_S
        except ResponseError as error:
            if "NOGROUP" in str(error):  # the stream was deleted
                await self.join()
            raise
        return entries

    async def _size(self) -> float:
        """Bytes of the stream, as of a moment ago; endless where it would take Redis long to count them."""
        if time.monotonic() > self._sized_s + SIZED_S:
            few = int(await self._redis.xlen(self._names.events)) <= SIZED_ENTRIES
            size: Any = await self._redis.memory_usage(self._names.events, samples=0) if few else math.inf
            self._bytes, self._sized_s = float(size or 0), time.monotonic()
        return self._bytes

    async def _read_new(self, count: int, block_ms: int | None = None) -> list[Entry]:
        reply: Any = await self._redis.xreadgroup(
            keys.BRIDGE_GROUP, self._consumer, {self._names.events: ">"}, count=count, block=block_ms
        )
        payloads = [(entry_id, fields.get(wire.FIELD, b"")) for _, entries in reply for entry_id, fields in entries]
        return [_entry(entry_id, payload[:MAX_PAYLOAD_BYTES], len(payload)) for entry_id, payload in payloads]

    async def _read_limited(self, count: int, at_most_bytes: int) -> list[Entry]:
        found: list[Any] = await self._read(
            keys=[self._names.events],
            args=[keys.BRIDGE_GROUP, self._consumer, count, at_most_bytes, wire.FIELD, MAX_PAYLOAD_BYTES, ">"],
        )
        return [_entry(entry_id, payload, size) for entry_id, payload, size in found]

    async def abandoned(self, held: Iterable[bytes]) -> list[PendingEntry]:
        """Entries that their bridge no longer renews, the oldest first, except those that this bridge still holds."""
        own = set(held)
        try:
            found: list[Any] = await self._redis.xpending_range(
                self._names.events, keys.BRIDGE_GROUP, min="-", max="+", count=LISTED, idle=self._idle_ms
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return []  # the stream was deleted; `read` joins again
        return [
            PendingEntry(entry_id=entry["message_id"], deliveries=int(entry["times_delivered"]))
            for entry in found
            if entry["message_id"] not in own
        ]

    async def claim(self, pending: PendingEntry) -> Entry | None:
        """Take over an abandoned entry; None if another bridge was faster, or if it was deleted."""
        found: list[Any] | None = await self._claim(
            keys=[self._names.events],
            args=[
                keys.BRIDGE_GROUP, self._consumer, self._idle_ms, pending.entry_id, wire.FIELD, MAX_PAYLOAD_BYTES,
            ],
        )  # fmt: skip
        if found is None:
            return None
        payload, size, deliveries = found
        return _entry(pending.entry_id, payload, size, int(deliveries))

    async def tidy(self, held: Collection[bytes] = ()) -> tuple[int, int]:
        """Make entries claimable that are nobody's, delete consumers that hold nothing, trim results that no recorder asked for.

        Args:
            held: what this bridge has renewed just now.

        Returns:
            The number of entries that were nobody's, and of entries of results that were trimmed.
        """
        arguments: list[str | int] = [
            keys.BRIDGE_GROUP, self._consumer, self._idle_ms, LOOKED_AT, STALE_MS, keys.UNASKED_BYTES,
        ]  # fmt: skip
        streams = [self._names.events, self._names.directions, *([keys.TRUTH] if self._is_stream else [])]
        found, trimmed = await self._tidy(keys=streams, args=arguments)
        await self._date_anew(held)
        if not self._is_stream:
            await self.expire()
        return int(found), int(trimmed)

    async def _date_anew(self, held: Collection[bytes]) -> None:
        """Make entries claimable whose delivery lies in the future, because Redis' clock was set back.

        Redis says that no time has passed since. That is also so of an entry that another bridge has just renewed, but not at each look.
        """
        group = (self._names.events, keys.BRIDGE_GROUP)
        oldest: list[Any] = await self._redis.xpending_range(*group, min="-", max="+", count=LOOKED_AT)
        now_s = time.monotonic()
        ahead = {
            one["message_id"]: one["consumer"]
            for one in oldest
            if one["time_since_delivered"] == 0 and one["message_id"] not in held
        }
        self._ahead = {entry_id: self._ahead.get(entry_id, now_s) for entry_id in ahead}
        for consumer in {
            ahead[entry_id] for entry_id, since_s in self._ahead.items() if now_s - since_s > self._idle_ms / 1000
        }:
            theirs: list[Any] = await self._redis.xpending_range(
                *group, min="-", max="+", count=LISTED, consumername=consumer
            )
            ids = [
                one["message_id"]
                for one in theirs
                if one["time_since_delivered"] == 0 and one["message_id"] not in held
            ]
            if ids:
                await self._redis.xclaim(
                    *group, consumer, min_idle_time=0, message_ids=ids, idle=self._idle_ms, justid=True
                )

    async def expire(self) -> None:
        """Let the keys of a challenge end by themselves, if nobody writes there any more."""
        for name in set(self._names) - {keys.ALONE}:
            await self._redis.expire(name, keys.CHALLENGE_KEPT_S)

    async def renew(self, held: Iterable[bytes]) -> None:
        """Extend the lease on entries that this bridge still works on."""
        ids: list[Any] = list(held)
        if ids:
            await self._redis.xclaim(
                self._names.events, keys.BRIDGE_GROUP, self._consumer, min_idle_time=0, message_ids=ids, justid=True
            )
        else:
            await self._redis.xreadgroup(keys.BRIDGE_GROUP, self._consumer, {self._names.events: keys.END}, count=1)

    async def complete(
        self,
        entry_ids: Sequence[bytes],
        results: Results,
        *,
        shown: tuple[int, bytes] | None = None,
        copied: Sequence[int] = (),
        epoch: int = 0,
    ) -> list[Outcome]:
        """Store results and remove the entries of their events.

        Args:
            entry_ids: of the event of each result.
            shown: an event to show: the index of its result, and its payload.
            copied: the indices of the results whose events the challenger is to answer, too,
            epoch: of the serving state that names it.
        """
        names, events = self._names, results.events
        runs = {run_id: number for number, run_id in enumerate(dict.fromkeys(run_id for run_id, _ in events), 1)}
        index, event = shown or (0, b"")
        arguments: list[bytes | str | int] = [
            keys.BRIDGE_GROUP, wire.FIELD, keys.REMEMBERED_MS, keys.REMEMBERED_MOST, keys.SHOWN_KEPT, keys.RUN_KEPT_S,
            wire.results_head(results), results.rows.tobytes(), event, index + 1,
            " ".join(str(number + 1) for number in copied), keys.COPIES_KEPT, keys.COPY_BYTES, keys.CHALLENGE_KEPT_S,
        ]  # fmt: skip
        for entry_id, (run_id, event_id) in zip(entry_ids, events, strict=True):
            arguments += (entry_id, f"{run_id}:{event_id}", runs[run_id])
        challenge = keys.challenge(epoch)
        outcomes = await self._complete(
            keys=[
                names.events, names.directions, names.shown, names.done, names.stored,
                challenge.events, keys.dropped(epoch), challenge.stored,
                *(keys.run(run_id) for run_id in runs if self._is_stream),
            ],
            args=arguments,
        )  # fmt: skip
        return [OUTCOMES[outcome] for outcome in outcomes]

    async def reject(self, rejection: Rejection) -> bool:
        """Move an entry to the dead letters; False if another bridge has dealt with it."""
        entry, run_id = rejection.entry, wire.run_of(rejection.entry.payload)
        arguments: list[bytes | str | int] = [
            keys.BRIDGE_GROUP, entry.entry_id, wire.FIELD,
            keys.REJECTED_KEPT, keys.REJECTED_KEPT_BYTES, keys.REJECTED_PAYLOAD_BYTES,
            rejection.reason, rejection.detail[:DETAIL_CHARACTERS], entry.tries, "" if run_id is None else run_id,
        ]  # fmt: skip
        run = [keys.run(run_id)] if run_id is not None and self._is_stream else []
        return bool(
            await self._reject(
                keys=[self._names.events, self._names.rejected, self._names.rejected_bytes, *run], args=arguments
            )
        )

    async def take_turn(self, for_s: float) -> bool:
        """Take the bridges' turn at asking Triton alone, for so many seconds; False while another bridge has it."""
        holder: bytes = await self._lease(keys=[self._names.alone], args=[self._consumer, int(for_s * 1000)])
        return holder.decode(errors="replace") == self._consumer

    async def give_turn(self) -> None:
        """Let another bridge ask alone."""
        await self._lease(keys=[self._names.alone], args=[self._consumer, 0])

    async def leave(self) -> None:
        """Leave the group, unless entries are still pending: those must stay claimable."""
        await self._leave(keys=[self._names.events], args=[keys.BRIDGE_GROUP, self._consumer])


def _entry(entry_id: bytes, payload: bytes, size: int, tries: int = 1) -> Entry:
    return Entry(entry_id=entry_id, payload=payload, size=size, tries=tries, read_ns=time.time_ns())
