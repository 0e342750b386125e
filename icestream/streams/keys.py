"""The streams in Redis, who reads them, and how to connect."""

from typing import Any

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from redis.backoff import NoBackoff

EVENTS = "icestream:events"  # emitter → bridge; an entry leaves when its result is stored, so its length is the backlog
TRUTH = "icestream:truth"  # emitter → recorder; an entry leaves when it is recorded
DIRECTIONS = "icestream:directions"  # bridge → recorder and anyone who reads
REJECTED = "icestream:rejected"  # entries that can never succeed, with reason and bytes
SHOWN = "icestream:shown"  # bridge → display: a few events with their pulses and results, where somebody looks
DONE = "icestream:done"  # prefix of the sets of lately finished (run_id, event_id)
EMITTED = "icestream:emitted"  # prefix of the hashes that say how far each emitter's run has come
MODEL = "icestream:model"  # prefix of the hashes that say what a bridge found served: MODEL:name

BRIDGE_GROUP = "bridge"  # reads EVENTS
RECORDER_GROUP = "recorder"  # reads DIRECTIONS and TRUTH
# Asking for what a consumer holds beyond this id finds nothing and is a sign of life; before Redis 7.2, a read of new entries
# that finds none is not.
END = "18446744073709551615-0"

REJECTED_KEPT = 10_000  # entries; the counters go on beyond
SHOWN_KEPT = 500  # entries; some minutes

SOCKET_TIMEOUT_S = 10.0  # longer than any read blocks
CONNECT_TIMEOUT_S = 5.0
BLOCK_MS = 500  # a blocking read returns at least this often, so that a stop is noticed


def connect(url: str, password: str | None = None) -> redis.Redis:
    """A client that never retries by itself: a write that is sent twice is the caller's decision."""
    retry = redis.retry.Retry(NoBackoff(), 0)
    return redis.Redis.from_url(url, retry=retry, **_options(password))


def connect_asyncio(url: str, password: str | None = None) -> redis.asyncio.Redis:
    """The same for asyncio."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    return redis.asyncio.Redis.from_url(url, retry=retry, **_options(password))


def _options(password: str | None) -> dict[str, Any]:
    options = {"protocol": 2, "socket_timeout": SOCKET_TIMEOUT_S, "socket_connect_timeout": CONNECT_TIMEOUT_S}
    return options if password is None else {**options, "password": password}
