"""Which models are served: written by the deployer alone, followed by every bridge and display."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from icestream.streams import keys
from icestream.streams.connection import AsyncRedis, Redis, RedisError
from icestream.streams.scripts import load

LOOK_S = 1.0
_SCRIPT = load("serve")
_FIELDS = ["epoch", "state", "since_s"]


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A version of the registered model that Triton serves and that was proved."""

    version: str  # of the registered model
    name: str  # in Triton


class Serving(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is served.

    Attributes:
        epoch: number of this state; each change has a greater one.
        since_s: Unix time of the change.
        registered: name of the registered model.
        champion: answers the stream.
        challenger: answers copies of some events, to be compared.
        share: of the events that are copied.
        previous: the champion before this one.
        withdrawn: by name in Triton, why a champion was replaced by the one before it without being told to.
    """

    epoch: int = 0
    since_s: int = 0
    registered: str = ""
    champion: Served
    challenger: Served | None = None
    share: float = 0.0
    previous: Served | None = None
    withdrawn: dict[str, str] = msgspec.field(default_factory=dict)


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the deployer found at its last look that was another than the one before.

    Attributes:
        problems: by alias, why the version that it asks for is not served.
        loaded: by address of each Triton, the models it has loaded.
    """

    problems: dict[str, str] = msgspec.field(default_factory=dict)
    loaded: dict[str, list[str]] = msgspec.field(default_factory=dict)


def read_serving(redis: Redis) -> Serving | None:
    """The state; None before the first one, or where it is none that this version understands. Raises RedisError."""
    return _parse(redis.hmget(keys.SERVING, _FIELDS))


async def read_serving_asyncio(redis: AsyncRedis) -> Serving | None:
    """The same for asyncio."""
    reply: Any = redis.hmget(keys.SERVING, _FIELDS)
    return _parse(await reply)


async def read_epoch_asyncio(redis: AsyncRedis) -> int:
    """The number of the state, whether or not it is understood; 0 before the first one. Raises RedisError."""
    reply: Any = redis.hget(keys.SERVING, "epoch")
    text = await reply
    return keys.number(text)


async def replace_serving(redis: AsyncRedis, epoch: int, after: Serving) -> bool:
    """Change the state with this number; False if somebody else has changed it meanwhile. Raises RedisError."""
    state = msgspec.json.encode(msgspec.structs.replace(after, epoch=0, since_s=0))
    over = {*keys.challenge(epoch), keys.dropped(epoch), keys.COMPARISON} - {keys.ALONE}
    return bool(await redis.register_script(_SCRIPT)(keys=[keys.SERVING, *over], args=[epoch, state]))


def read_report(redis: Redis) -> Report:
    """Raises RedisError."""
    text: Any = redis.hget(keys.SERVING, "report")
    with suppress(msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(text or b"{}", type=Report)
    return Report()


async def write_report(redis: AsyncRedis, report: Report) -> None:
    """Raises RedisError."""
    reply: Any = redis.hset(keys.SERVING, "report", msgspec.json.encode(report))
    await reply


async def follow_serving(redis: AsyncRedis, follow: Callable[[Serving], None]) -> None:
    """Tell the state again and again, for ever; nothing while Redis is away."""
    while True:
        with suppress(RedisError):
            if serving := await read_serving_asyncio(redis):
                follow(serving)
        await asyncio.sleep(LOOK_S)


def _parse(reply: Any) -> Serving | None:
    epoch, state, since_s = reply
    try:
        found = msgspec.json.decode(state or b"", type=Serving)
        return msgspec.structs.replace(found, epoch=int(epoch), since_s=int(since_s or 0))
    except (msgspec.DecodeError, ValueError, TypeError):
        return None
