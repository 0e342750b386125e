"""Redis clients. No client retries by itself: whether a write is sent again is the caller's decision.

An address is that of one server, or names servers that know where the primary is: Sentinels, or the nodes of a cluster (all keys lie in
one slot, so that one primary has them). It is looked up for every new connection, and one that leads elsewhere by now is left.
"""

import random
from collections.abc import Sequence
from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.connection
import redis.retry
import redis.sentinel
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)

from icestream.service.redis_url import Several
from icestream.streams import keys
from icestream.tasks import in_thread

__all__ = [
    "BLOCK_MS", "AsyncRedis", "AuthenticationError", "ConnectionError", "Redis", "RedisError", "ResponseError", "connect", "connect_asyncio", "is_away",
]  # fmt: skip

SOCKET_TIMEOUT_S = 10.0  # longer than any read blocks
CONNECT_TIMEOUT_S = 5.0
LOOKUP_TIMEOUT_S = 1.0  # of a server that says where the primary is; there are others
BLOCK_MS = 500  # a blocking read returns at least this often, so that a stop request is noticed
# This server has become a replica, has given the slot away, or is cut off from the others of its cluster.
ELSEWHERE = (ReadOnlyError, MovedError, ClusterDownError)


def _is_elsewhere(error: ResponseError) -> bool:
    """Whether a server is not the primary any more, or may not know yet: its replicas have left it."""
    return isinstance(error, ELSEWHERE) or str(error).startswith("NOREPLICAS")


class _Leaving:
    """Leaves a server that is not the primary any more."""

    def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        try:
            return super().parse_response(connection, command_name, **options)  # type: ignore[misc]
        except ResponseError as error:
            if _is_elsewhere(error):
                connection.disconnect()
            raise


class _Pipeline(_Leaving, redis.client.Pipeline):
    pass


class _Client(_Leaving, Redis):
    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> _Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


_packer: Any = redis.connection.HiredisRespSerializer()


class _Packing:
    """Packs commands as connections for threads do; redis-py 8 packs them in Python."""

    def pack_command(self, *args: Any) -> list[bytes]:
        packed: list[bytes] = _packer.pack(*args)
        return packed


class _AsyncConnection(_Packing, redis.asyncio.Connection):
    pass


class _AsyncLookedUpConnection(_Packing, redis.asyncio.sentinel.SentinelManagedConnection):
    pass


class _AsyncClient(AsyncRedis):
    """The same for asyncio."""

    async def parse_response(self, connection: Any, command_name: Any, **options: Any) -> Any:
        try:
            return await super().parse_response(connection, command_name, **options)
        except ResponseError as error:
            if _is_elsewhere(error):
                await connection.disconnect()
            raise


class _SlotOwner:
    """Finds the node of a cluster that has the stream's slot. In the place of a `Sentinel`, for its connection pool."""

    def __init__(self, several: Several, password: str | None):
        self._several, self._login = several, {**several.login, **({"password": password} if password else {})}
        self._slot = key_slot(keys.EVENTS.encode())

    def discover_master(self, _: str) -> tuple[str, int]:
        error: Exception | None = None
        for host, port in random.sample(self._several.hosts, len(self._several.hosts)):
            client: Any = Redis(host=host, port=port, protocol=2, **_LOOKUP, **self._login)
            try:
                owner, its_port = self._owner(client.execute_command("CLUSTER", "SLOTS"))
                return owner or host, its_port  # a node that knows no name for itself means the one it was asked by
            except RedisError as said:
                error = said
            finally:
                client.close()
        raise ConnectionError(f"no node of the cluster says who has the stream's slot: {error}")

    def _owner(self, slots: Sequence[Any]) -> tuple[str, int]:
        for first, last, (host, port, *_), *_ in slots:  # the primary, then its replicas
            if first <= self._slot <= last:
                return (host or b"").decode(), port
        raise ConnectionError("no node of the cluster has the stream's slot")


class _AsyncSlotOwner(_SlotOwner):
    """The same for asyncio. A look-up takes one round trip, once for each connection."""

    async def discover_master(self, name: str) -> tuple[str, int]:  # type: ignore[override]
        return await in_thread(lambda: _SlotOwner.discover_master(self, name))


_TIMEOUTS: dict[str, Any] = {"socket_timeout": LOOKUP_TIMEOUT_S, "socket_connect_timeout": LOOKUP_TIMEOUT_S}
_LOOKUP = {**_TIMEOUTS, "retry": redis.retry.Retry(NoBackoff(), 0)}
_ASYNC_LOOKUP = {**_TIMEOUTS, "retry": redis.asyncio.retry.Retry(NoBackoff(), 0)}


def connect(url: str, password: str | None = None) -> Redis:
    """A client for threads."""
    options = {"retry": redis.retry.Retry(NoBackoff(), 0), **_options(password)}
    if several := Several.of(url):
        manager: Any = (
            redis.sentinel.Sentinel(list(several.hosts), sentinel_kwargs=_LOOKUP)  # type: ignore[no-untyped-call]
            if several.name
            else _SlotOwner(several, password)
        )
        pool = redis.sentinel.SentinelConnectionPool(several.name, manager, **{**several.login, **options})  # type: ignore[no-untyped-call]
        return _Client.from_pool(pool)
    return _Client.from_url(url, **options)


def connect_asyncio(url: str, password: str | None = None) -> AsyncRedis:
    """A client for an event loop."""
    options = {"retry": redis.asyncio.retry.Retry(NoBackoff(), 0), **_options(password)}
    if several := Several.of(url):
        manager: Any = (
            redis.asyncio.sentinel.Sentinel(list(several.hosts), sentinel_kwargs=_ASYNC_LOOKUP)  # type: ignore[no-untyped-call]
            if several.name
            else _AsyncSlotOwner(several, password)
        )
        pool = redis.asyncio.sentinel.SentinelConnectionPool(  # type: ignore[no-untyped-call]
            several.name, manager, connection_class=_AsyncLookedUpConnection, **{**several.login, **options}
        )
        return _AsyncClient.from_pool(pool)
    return _AsyncClient.from_url(url, connection_class=_AsyncConnection, **options)


# The client has a class for some errors, and takes their code off the message.
AWAY_CLASSES = (
    ConnectionError, TimeoutError, OutOfMemoryError, ReadOnlyError, MovedError, AskError, ClusterDownError,
    TryAgainError,
)  # fmt: skip
AWAY_CODES = ("MISCONF", "NOREPLICAS", "NOGROUP", "BUSY")


def is_away(error: Exception) -> bool:
    """Whether an error passes by itself: Redis is away, starting, full, or a replica. Others do not, such as a key of another type."""
    if isinstance(error, AuthenticationError):
        return False
    return isinstance(error, AWAY_CLASSES) or str(error).startswith(AWAY_CODES)


def _options(password: str | None) -> dict[str, Any]:
    # No driver_info: a user with few rights may not set it, and a new connection is made sooner.
    options = {
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
    }
    return options if password is None else {**options, "password": password}
