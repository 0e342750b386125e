"""Streams of a version that named its keys otherwise are taken over, with their consumer groups."""

from collections.abc import Mapping
from contextlib import suppress

from icestream.streams import keys
from icestream.streams.connection import AsyncRedis, Redis, ResponseError
from icestream.streams.scripts import load

_SCRIPT = load("adopt")


def adopt_old_names(redis: Redis, names: Mapping[str, str] = keys.OLD_NAMES) -> None:
    """Rename keys that have an old name. A server that does not permit it (ACL, cluster) has none."""
    with suppress(ResponseError):
        redis.eval(_SCRIPT, 2 * len(names), *_pairs(names))


async def adopt_old_names_asyncio(redis: AsyncRedis) -> None:
    """The same for asyncio."""
    with suppress(ResponseError):
        await redis.eval(_SCRIPT, 2 * len(keys.OLD_NAMES), *_pairs(keys.OLD_NAMES))


def _pairs(names: Mapping[str, str]) -> list[str]:
    return [name for pair in names.items() for name in pair]
