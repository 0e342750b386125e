"""What is known of a challenge: the challenger's results, what became of the copies, and how the two compare."""

from contextlib import suppress
from typing import Any

import msgspec

from icestream import wire
from icestream.event import InvalidEvent
from icestream.result import Results
from icestream.results.comparison import Comparison, Copies
from icestream.streams import keys
from icestream.streams.connection import AsyncRedis, Redis
from icestream.streams.results import read_tail
from icestream.streams.serving import Serving, read_serving
from icestream.streams.status import read_status

LOOKED_AT = 20  # latest rejected copies: the one without an answer was the last
READ_AT_ONCE = 1000  # entries, of one result at least

Challenge = tuple[Serving, Comparison, Copies]


def read_challenges(redis: Redis, epoch: int, after: str) -> tuple[list[Results], str]:
    """The challenger's results after an entry, as many as are read at once, and the last entry of them; what is none is left out.
    Raises RedisError."""
    found: list[Results] = []
    entries = read_tail(redis, keys.challenge(epoch).directions, after, READ_AT_ONCE)
    for _, fields in entries:
        with suppress(InvalidEvent):
            found.append(wire.decode_results(dict(zip(fields[::2], fields[1::2], strict=True)).get(wire.FIELD, b"")))
    return found, entries[-1][0].decode() if entries else after


def read_copies(redis: Redis, epoch: int) -> Copies:
    """What became of the copies. Raises RedisError."""
    status, dropped = read_status(redis, keys.challenge(epoch)), redis.get(keys.dropped(epoch))
    return Copies(
        copied=status.emitted_total,
        answered=status.stored_total,
        refused=status.rejected_total,
        dropped=keys.number(dropped),
    )


def read_comparison(redis: Redis, epoch: int) -> Comparison | None:
    """How the two compare since the serving state of this epoch; None if nothing is known. Raises RedisError."""
    text: Any = redis.get(keys.COMPARISON)
    try:
        found = msgspec.json.decode(text or b"", type=Comparison)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return found if found.epoch == epoch else None


async def gave_no_answer_asyncio(redis: AsyncRedis, epoch: int) -> bool:
    """Whether the challenger has left an event, asked alone and again, without an answer. Raises RedisError."""
    latest: Any = await redis.xrevrange(keys.challenge(epoch).rejected, count=LOOKED_AT)
    return any(fields.get(b"reason") == b"no_answer" for _, fields in latest)


def write_comparison(redis: Redis, comparison: Comparison) -> None:
    """Keep it and what belongs to it, and delete the results that it counts. Raises RedisError."""
    redis.set(keys.COMPARISON, msgspec.json.encode(comparison))
    for name in {*keys.challenge(comparison.epoch), keys.dropped(comparison.epoch)} - {keys.ALONE}:
        redis.expire(name, keys.CHALLENGE_KEPT_S)
    redis.xtrim(keys.challenge(comparison.epoch).directions, minid=comparison.read_to, approximate=False)


def read_challenge(redis: Redis) -> Challenge | None:
    """The challenge under way; None if there is none, or nothing was compared yet. Raises RedisError."""
    serving = read_serving(redis)
    found = read_comparison(redis, serving.epoch) if serving and serving.challenger else None
    return (serving, found, read_copies(redis, serving.epoch)) if serving and found else None
