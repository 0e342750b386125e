"""What has become of the events that a bridge was given."""

from collections.abc import Callable
from typing import Any

from icestream import wire
from icestream.streams import keys
from tests.events import stored


def finished(redis: Any, number: int) -> Callable[[], bool]:
    return lambda: stored(redis) + redis.xlen(keys.REJECTED) >= number and redis.xlen(keys.EVENTS) == 0


def rejected(redis: Any) -> dict[int, bytes]:
    """event_id → reason of the rejected entries."""
    found = [fields for _, fields in redis.xrange(keys.REJECTED)]
    return {wire.decode_event(fields[b"e"]).event_id: fields[b"reason"] for fields in found}
