"""What the bridges found Triton to serve, one hash per model: so that results can be traced to their weights."""

from typing import Any

from icestream.streams import keys
from icestream.streams.connection import AsyncRedis, Redis


async def announce(redis: AsyncRedis, name: str, max_pulses: int) -> None:
    """Write the pulse limit of a served model."""
    fields: Any = redis.hset(f"{keys.MODEL}:{name}", mapping={"max_pulses": max_pulses})
    await fields


async def announce_problem(redis: AsyncRedis, name: str, problem: str) -> None:
    """Write why a model is not used."""
    fields: Any = redis.hset(f"{keys.MODEL}:{name}", mapping={"problem": problem})
    await fields


def problem(redis: Redis) -> str:
    """Why a served model is not used; empty if none was written."""
    for key in redis.scan_iter(f"{keys.MODEL}:*"):
        found: Any = redis.hget(key, "problem")
        return (found or b"").decode()
    return ""


def max_pulses(redis: Redis) -> int:
    """The pulse limit of the served model; 0 until a bridge has written it."""
    for key in redis.scan_iter(f"{keys.MODEL}:*"):
        found: Any = redis.hget(key, "max_pulses")
        return int(found or 0)
    return 0


def forget(redis: Redis) -> None:
    """Delete what earlier bridges have written."""
    for key in redis.scan_iter(f"{keys.MODEL}:*"):
        redis.delete(key)
