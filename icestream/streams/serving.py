"""Which model is served: written by the deployer alone, followed by every bridge and display."""

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
_FIELDS = ["epoch", "state"]


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A version of the registered model that Triton serves and that was proved."""

    version: str  # of the registered model
    name: str  # in Triton


class Serving(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is served.

    Attributes:
        epoch: number of this state; each change has a greater one.
        champion: answers the stream.
    """

    epoch: int = 0
    champion: Served


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
    return int(text) if keys.INTEGER.fullmatch(text or b"") else 0


async def replace_serving(redis: AsyncRedis, epoch: int, after: Serving) -> bool:
    """Change the state with this number; False if somebody else has changed it meanwhile. Raises RedisError."""
    return bool(await redis.register_script(_SCRIPT)(keys=[keys.SERVING], args=[epoch, msgspec.json.encode(after)]))


def read_problems(redis: Redis) -> dict[str, str]:
    """By alias, why the version that it asks for is not served. Raises RedisError."""
    text: Any = redis.hget(keys.SERVING, "problems")
    with suppress(msgspec.DecodeError):
        return msgspec.json.decode(text or b"{}", type=dict[str, str])
    return {}


async def write_problems(redis: AsyncRedis, problems: dict[str, str]) -> None:
    """Raises RedisError."""
    reply: Any = redis.hset(keys.SERVING, "problems", msgspec.json.encode(problems))
    await reply


async def follow_serving(redis: AsyncRedis, follow: Callable[[str], None]) -> None:
    """Name the champion's model again and again, for ever; nothing while Redis is away."""
    while True:
        with suppress(RedisError):
            if serving := await read_serving_asyncio(redis):
                follow(serving.champion.name)
        await asyncio.sleep(LOOK_S)


def _parse(reply: Any) -> Serving | None:
    epoch, state = reply
    try:
        return msgspec.structs.replace(msgspec.json.decode(state or b"", type=Serving), epoch=int(epoch))
    except (msgspec.DecodeError, ValueError, TypeError):
        return None
