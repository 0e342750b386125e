"""The dead letters: entries that can never succeed, as they are; and their way back into the stream."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from icestream import wire
from icestream.event import InvalidEvent
from icestream.streams import keys
from icestream.streams.connection import AsyncRedis, Redis
from icestream.streams.keys import INTEGER
from icestream.streams.scripts import load

PAGE = 100  # entries read at once


@dataclass(frozen=True, kw_only=True)
class DeadLetter:
    """One rejected entry."""

    id: str
    reason: str
    detail: str
    tries: int
    entry: str  # its id in the stream of events
    payload: bytes  # as far as it was kept
    size: int  # bytes of the whole payload
    sha1: str  # of the whole payload

    @property
    def age_s(self) -> float:
        """Seconds since it was rejected, by this machine's clock."""
        return time.time() - int(self.id.split("-")[0]) / 1000

    @property
    def event(self) -> str | None:
        """RUN-EVENT, if the entry is an event."""
        try:
            event = wire.decode_event(self.payload)
        except InvalidEvent:
            return None
        return f"{event.run_id}-{event.event_id}"


class Replayed(IntEnum):
    """The outcome of a replay."""

    TRUNCATED = -1
    UNKNOWN = 0
    REPLAYED = 1


class DeadLetters:
    """The rejected entries. Every method may raise RedisError."""

    def __init__(self, redis: Redis):
        self._redis = redis
        self._replay, self._drop = redis.register_script(load("replay")), redis.register_script(load("drop"))

    def latest(self, page: int = PAGE) -> Iterator[DeadLetter]:
        """All, the latest first, `page` of them read at once."""
        before = "+"
        while True:
            found: Any = self._redis.xrevrange(keys.REJECTED, max=before, count=page)
            for entry_id, fields in found:
                yield _dead_letter(entry_id, fields)
            if len(found) < page:
                return
            before = "(" + found[-1][0].decode()

    def replay(self, letter_id: str) -> Replayed:
        """Move one back into the stream of events, in one step: repeated calls move it once."""
        found: Any = self._redis.xrange(keys.REJECTED, letter_id, letter_id)
        run_id = found[0][1].get(b"run", b"") if found else b""
        run = [keys.run(int(run_id))] if INTEGER.fullmatch(run_id) else []
        streams = [keys.EVENTS, keys.REJECTED, keys.REJECTED_BYTES, *run]
        return Replayed(int(self._replay(keys=streams, args=[letter_id, wire.FIELD])))

    def drop(self, letter_id: str) -> bool:
        """Delete one; False if there is none."""
        return bool(self._drop(keys=[keys.REJECTED, keys.REJECTED_BYTES], args=[letter_id, wire.FIELD]))


def _dead_letter(entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    payload = fields.get(wire.FIELD, b"")
    text = {
        name: fields.get(name.encode(), b"").decode(errors="replace") for name in ("reason", "detail", "entry", "sha1")
    }
    tries, size = fields.get(b"tries", b"0"), fields.get(b"bytes", b"")
    return DeadLetter(
        id=entry_id.decode(),
        payload=payload,
        size=keys.number(size, len(payload)),
        tries=keys.number(tries),
        **text,
    )


class NewRejections:
    """What is rejected from now on."""

    def __init__(self, redis: AsyncRedis):
        self._redis, self._read_to = redis, b""

    async def read(self) -> list[tuple[str, bytes]]:
        """Reasons, and payloads that were kept whole, since the last call; the first call finds none. Raises RedisError."""
        if not self._read_to:
            latest: Any = await self._redis.xrevrange(keys.REJECTED, count=1)
            self._read_to = latest[0][0] if latest else b"0-0"
            return []
        found: list[tuple[str, bytes]] = []
        while True:
            page: Any = await self._redis.xrange(keys.REJECTED, b"(" + self._read_to, count=PAGE)
            if not page:
                return found
            self._read_to = page[-1][0]
            for _, fields in page:
                payload = fields.get(wire.FIELD, b"")
                whole = fields.get(b"bytes") == str(len(payload)).encode()
                found.append((fields.get(b"reason", b"").decode(errors="replace"), payload if whole else b""))
