"""Redis clients. No client retries by itself: whether a write is sent again is the caller's decision."""

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

__all__ = ["BLOCK_MS", "AsyncRedis", "Redis", "RedisError", "ResponseError", "connect", "connect_asyncio"]

SOCKET_TIMEOUT_S = 10.0  # longer than any read blocks
CONNECT_TIMEOUT_S = 5.0
BLOCK_MS = 500  # a blocking read returns at least this often, so that a stop request is noticed


def connect(url: str, password: str | None = None) -> Redis:
    """A client for threads."""
    retry = redis.retry.Retry(NoBackoff(), 0)
    return Redis.from_url(url, retry=retry, **_options(password))


def connect_asyncio(url: str, password: str | None = None) -> AsyncRedis:
    """A client for an event loop."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    return AsyncRedis.from_url(url, retry=retry, **_options(password))


def _options(password: str | None) -> dict[str, Any]:
    options = {"protocol": 2, "socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S}
    return options if password is None else {**options, "password": password}
