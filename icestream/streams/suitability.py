"""Whether a Redis server keeps what is written to it: looked at once, when a process starts."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from icestream.streams.connection import AsyncRedis, AuthenticationError, Redis, ResponseError


class UnsuitableRedis(Exception):
    """Redis would lose what is written to it, or does not let this process in; the message names the cause and the cure."""


def check_server(redis: Redis) -> list[str]:
    """Warnings, in words.

    Raises:
        UnsuitableRedis: it evicts keys, or refuses the password.
        RedisError: it does not answer.
    """
    try:
        found: Any = redis.ping()
        found = {}
        with suppress(ResponseError):  # the user may not see it
            found = {**redis.info("memory"), **redis.info("persistence")}
    except AuthenticationError as error:
        raise _refused(error) from None
    return _warnings(found)


async def check_server_asyncio(redis: AsyncRedis) -> list[str]:
    """The same for asyncio."""
    try:
        found: Any = await redis.ping()
        found = {}
        with suppress(ResponseError):
            found = {**await redis.info("memory"), **await redis.info("persistence")}
    except AuthenticationError as error:
        raise _refused(error) from None
    return _warnings(found)


def _refused(error: AuthenticationError) -> UnsuitableRedis:
    return UnsuitableRedis(f"Redis refuses this user or password ({error}): see *_REDIS_URL and *_REDIS_PASSWORD_FILE")


def _warnings(info: Mapping[str, Any]) -> list[str]:
    policy, limit = info.get("maxmemory_policy", "noeviction"), int(info.get("maxmemory", 0))
    if policy != "noeviction" and limit:
        raise UnsuitableRedis(
            f"Redis deletes events when its memory is full (maxmemory-policy {policy}): set it to noeviction"
        )
    found = []
    if policy != "noeviction":
        found.append(f"Redis would delete events if it had a memory limit (maxmemory-policy {policy}): set noeviction")
    if str(info.get("aof_enabled", "1")) == "0":
        found.append("Redis does not keep a log of its writes: a restart of it loses events; set appendonly yes")
    return found
