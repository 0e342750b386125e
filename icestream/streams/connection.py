"""Redis clients. No client retries by itself: whether a write is sent again is the caller's decision."""

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.connection
import redis.retry
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

__all__ = [
    "BLOCK_MS", "AsyncRedis", "AuthenticationError", "Redis", "RedisError", "ResponseError", "connect", "connect_asyncio", "is_away",
]  # fmt: skip

SOCKET_TIMEOUT_S = 10.0  # longer than any read blocks
CONNECT_TIMEOUT_S = 5.0
BLOCK_MS = 500  # a blocking read returns at least this often, so that a stop request is noticed


class _Client(Redis):
    """A client that leaves a server which has become a replica: the address may lead to another server by now."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except ReadOnlyError:
            connection.disconnect()
            raise


_packer: Any = redis.connection.HiredisRespSerializer()


class _AsyncConnection(redis.asyncio.Connection):
    """A connection that packs commands as those for threads do; redis-py 8 packs them in Python."""

    def pack_command(self, *args: Any) -> list[bytes]:
        packed: list[bytes] = _packer.pack(*args)
        return packed


class _AsyncClient(AsyncRedis):
    """The same for asyncio."""

    async def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        try:
            return await super().parse_response(connection, command_name, **options)
        except ReadOnlyError:
            await connection.disconnect()
            raise


def connect(url: str, password: str | None = None) -> Redis:
    """A client for threads."""
    retry = redis.retry.Retry(NoBackoff(), 0)
    return _Client.from_url(url, retry=retry, **_options(password))


def connect_asyncio(url: str, password: str | None = None) -> AsyncRedis:
    """A client for an event loop."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    return _AsyncClient.from_url(url, retry=retry, connection_class=_AsyncConnection, **_options(password))


# The client has a class for some errors, and takes their code off the message.
AWAY_CLASSES = (
    ConnectionError, TimeoutError, OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError,
)  # fmt: skip
AWAY_CODES = ("MISCONF", "NOREPLICAS", "NOGROUP", "BUSY")


def is_away(error: Exception) -> bool:
    """Whether an error passes by itself: Redis is away, starting, full, or a replica. Others do not, such as a key of another type."""
    if isinstance(error, AuthenticationError):
        return False
    return isinstance(error, AWAY_CLASSES) or str(error).startswith(AWAY_CODES)


def _options(password: str | None) -> dict[str, Any]:
    options = {"protocol": 2, "socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S}
    return options if password is None else {**options, "password": password}
