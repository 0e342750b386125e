"""Clocks that were ahead, and are set back: leases, signs of life and ids keep the time of before."""

import asyncio
import time
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from bridge.metrics import BridgeMetrics
from icestream import wire
from icestream.result import pack
from icestream.streams import keys
from icestream.streams.connection import connect
from icestream.streams.event_queue import EventQueue, Outcome
from icestream.streams.results import AnotherReader, GroupReader
from icestream.streams.status import read_status
from tests.events import event, made_result, put
from tests.icestream.streams.queues import with_client
from tests.servers import RedisProcess

HOUR_MS = 3_600_000


def test_a_lease_that_ends_later_than_it_may_is_over(redis: Any, redis_server: RedisProcess) -> None:
    one, other = (GroupReader(connect(redis_server.url)) for _ in range(2))
    one.take()
    with pytest.raises(AnotherReader):
        other.take()
    redis.pexpire(keys.RECORDER, 2 * HOUR_MS)  # as the log of a crashed Redis says, whose clock was two hours ahead
    other.take()
    with pytest.raises(AnotherReader):
        one.renew()
    other.leave()
    one.take()


@pytest.mark.parametrize("name", ["one", "bridge of Anna", "bridge 7"])
def test_a_turn_is_its_takers_until_it_is_given_back(redis: Any, redis_server: RedisProcess, name: str) -> None:
    async def use(client: Any) -> None:
        one, other = EventQueue(client, name, 10), EventQueue(client, "other", 10)
        assert [await one.take_turn(60), await one.take_turn(60), await other.take_turn(60)] == [True, True, False]
        await one.give_turn()
        assert await other.take_turn(60)

    with_client(redis_server, use)


def test_a_sign_of_life_that_lasts_too_long_is_none(redis: Any, redis_server: RedisProcess) -> None:
    client = connect(redis_server.url)
    redis.set(keys.EMITTER, "an emitter", px=5000)
    assert read_status(client).emitters == 1
    redis.set(keys.EMITTER, "an emitter", px=HOUR_MS)
    assert read_status(client).emitters == 0


def test_an_entry_is_as_old_as_it_has_been_the_oldest(
    redis: Any, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis.xadd(keys.EVENTS, {wire.FIELD: wire.encode_event(event(1), 1)}, id=f"{int(time.time() * 1000) + HOUR_MS}-0")
    redis.xadd(keys.EVENTS, {wire.FIELD: wire.encode_event(event(2), 1)})
    registry, now_s = CollectorRegistry(), 100.0
    metrics, client = BridgeMetrics(registry), connect(redis_server.url)
    monkeypatch.setattr("bridge.metrics.time.monotonic", lambda: now_s)

    def age_s() -> float:
        status = read_status(client)
        assert status.emitters == 0
        metrics.stream_status(status)
        return registry.get_sample_value("icestream_stream_oldest_unheld_age_seconds") or 0.0

    assert age_s() == 0
    now_s = 170.0
    assert age_s() == 70
    redis.xtrim(keys.EVENTS, maxlen=1, approximate=False)  # the second is the oldest now
    assert age_s() == 0
    redis.xtrim(keys.EVENTS, maxlen=0, approximate=False)
    now_s = 200.0
    assert age_s() == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_entries_of_a_dead_bridge_are_claimed_whatever_the_clock_was(
    redis: Any, redis_server: RedisProcess, restarted: bool
) -> None:
    """And none of one that lives. A consumer that is read from the log of a Redis that crashed has been seen just now."""

    async def use(client: Any) -> None:
        put(redis, *(event(number) for number in range(30)))
        dead, alive, third = (EventQueue(client, name, 0.2) for name in ("dead", "alive", "third"))
        await dead.join()
        held = [entry.entry_id for entry in await dead.read(20)]
        own = [entry.entry_id for entry in await alive.read(10)]
        ahead_ms = int(time.time() * 1000) + HOUR_MS
        redis.xclaim(keys.EVENTS, keys.BRIDGE_GROUP, "dead", 0, held, time=ahead_ms, justid=True)
        if restarted:
            redis.xgroup_createconsumer(keys.EVENTS, keys.BRIDGE_GROUP, "another")

        async def renew() -> None:
            while True:
                await alive.renew(own)
                await asyncio.sleep(0.037)

        renewing = asyncio.create_task(renew())
        async with asyncio.timeout(60):
            while not (found := await third.abandoned([])):
                await third.tidy()
                await asyncio.sleep(0.01)
        renewing.cancel()
        assert {one.entry_id for one in found} == set(held)

    with_client(redis_server, use)


@pytest.mark.parametrize("emitted_ns", [0, 2**62])
def test_a_stamp_that_no_clock_has_set_does_not_outweigh_all_others(emitted_ns: int) -> None:
    registry = CollectorRegistry()
    metrics, now_ns = BridgeMetrics(registry), time.time_ns()
    times = {"read_ns": now_ns + 10**6, "sent_ns": now_ns + 2 * 10**6, "emitted_ns": now_ns}
    results = [made_result(number, **times) for number in range(999)] + [
        made_result(999, **times | {"emitted_ns": emitted_ns})
    ]
    metrics.completed(pack(results), [Outcome.STORED] * 1000, now_ns + 3 * 10**6)
    name, stage = "icestream_bridge_stage_duration_seconds", {"stage": "queued"}
    assert registry.get_sample_value(f"{name}_count", stage) == 1000
    assert 0.9 < (registry.get_sample_value(f"{name}_sum", stage) or 0) < 300
