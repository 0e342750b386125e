"""Chapter 3: an event goes in, a direction comes out."""

import time
from collections.abc import Callable
from typing import Any

from icestream import wire
from icestream.streams import keys
from tests.events import event
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import wait_until


def test_an_event_goes_in_and_a_direction_comes_out(
    redis: Any, redis_server: RedisProcess, triton: TritonProcess, program: Callable[..., Program]
) -> None:
    bridge = program("bridge", redis_url=redis_server.url, triton_url=triton.url)

    # Anybody may write an event: one field, the bytes of docs/wire.md.
    redis.xadd(keys.EVENTS, {wire.FIELD: wire.encode_event(event(event_id=42), time.time_ns())})

    [(_, fields)] = wait_until(lambda: redis.xrange(keys.DIRECTIONS), "a result")
    [result] = wire.decode_results(fields[wire.FIELD])
    assert result.event_id == 42
    assert abs(sum(part**2 for part in result.direction) - 1) < 1e-5
    assert result.kappa > 0
    assert (result.model, result.model_version) == ("icemix", "1")
    assert result.emitted_ns < result.read_ns < result.sent_ns < result.answered_ns <= result.stored_ns

    # The entry has left the stream in the same step: its length is the backlog.
    assert redis.xlen(keys.EVENTS) == 0
    assert bridge.metric("icestream_bridge_rejected_total") == 0


def test_what_is_no_event_is_put_aside_with_its_reason(
    redis: Any, redis_server: RedisProcess, triton: TritonProcess, program: Callable[..., Program]
) -> None:
    program("bridge", redis_url=redis_server.url, triton_url=triton.url)
    redis.xadd(keys.EVENTS, {wire.FIELD: b"good morning"})
    [(_, fields)] = wait_until(lambda: redis.xrange(keys.REJECTED), "the rejected entry")
    assert fields[b"e"] == b"good morning"
    assert fields[b"reason"] == b"undecodable"
