"""Intake and outlet on a real Redis: every event gives exactly one result, whatever is repeated or dies."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis import RedisError

from icestream.streams import connect, connect_asyncio
from icestream.streams import keys as streams
from icestream.streams.event_queue import Intake
from icestream.streams.outlet import Outcome, Outlet
from icestream.streams.publisher import Publisher
from icestream.streams.status import Standing, look
from tests.conftest import RedisProcess
from tests.events import event, put, reconstruction, results


def with_client(server: RedisProcess, use: Callable[[Any], Awaitable[None]]) -> None:
    """Run a coroutine with a client of its own."""

    async def main() -> None:
        client = connect_asyncio(server.url)
        try:
            await Intake(client, "one", 10).prepare()
            await use(client)
        finally:
            await client.aclose()

    asyncio.run(main())


def test_a_result_and_the_removal_of_its_entry_are_one_step(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        [entry] = await Intake(client, "one", 10).read(10)
        assert await Outlet(client).store([(entry.entry_id, reconstruction(1))]) == [Outcome.STORED]
        assert (redis.xlen(streams.EVENTS), redis.xlen(streams.DIRECTIONS)) == (0, 1)
        assert (await look(client)).pending == 0

    with_client(redis_server, use)


def test_storing_again_adds_nothing(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        [entry] = await Intake(client, "one", 10).read(10)
        outlet = Outlet(client)
        await outlet.store([(entry.entry_id, reconstruction(1))])
        assert await outlet.store([(entry.entry_id, reconstruction(1))]) == [Outcome.WAS_DONE]
        assert len(results(redis)) == 1

    with_client(redis_server, use)


def test_an_event_that_was_written_twice_gives_one_result(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2), event(1), event(1, run_id=8))
        entries = await Intake(client, "one", 10).read(10)
        pairs = [(entries[0], 1, 7), (entries[1], 2, 7), (entries[2], 1, 7), (entries[3], 1, 8)]
        stored = await Outlet(client).store(
            [(entry.entry_id, reconstruction(number, run)) for entry, number, run in pairs]
        )
        assert stored == [Outcome.STORED, Outcome.STORED, Outcome.DUPLICATE, Outcome.STORED]
        assert [(one.run_id, one.event_id) for one in results(redis)] == [(7, 1), (7, 2), (8, 1)]
        assert redis.xlen(streams.EVENTS) == 0

    with_client(redis_server, use)


def test_finished_events_are_not_remembered_for_ever(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        [entry] = await Intake(client, "one", 10).read(10)
        await Outlet(client).store([(entry.entry_id, reconstruction(1))])
        [key] = redis.keys(f"{streams.DONE}:*")
        assert 300 < redis.ttl(key) <= 600

    with_client(redis_server, use)


def test_what_a_dead_bridge_held_is_taken_over_and_counted(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2))
        assert len(await Intake(client, "dead", 10).read(10)) == 2
        alive = Intake(client, "alive", 0.5)
        assert await alive.claim(10, held=[]) == []  # not idle for long enough
        await asyncio.sleep(0.6)
        taken = await alive.claim(10, held=[])
        assert [entry.tries for entry in taken] == [2, 2]
        assert all(entry.payload for entry in taken)

    with_client(redis_server, use)


def test_a_living_bridge_keeps_what_it_renews(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        slow, other = Intake(client, "slow", 0.5), Intake(client, "other", 0.5)
        [entry] = await slow.read(10)
        for _ in range(4):
            await asyncio.sleep(0.3)
            await slow.renew([entry.entry_id])
            assert await other.claim(10, held=[]) == []
        await asyncio.sleep(0.6)
        [taken] = await other.claim(10, held=[])
        assert taken.tries == 2  # renewing is no delivery

    with_client(redis_server, use)


def test_a_bridge_does_not_take_over_from_itself(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2))
        intake = Intake(client, "one", 0.5)
        first, second = await intake.read(10)
        await asyncio.sleep(0.6)
        [again] = await intake.claim(10, held=[first.entry_id])
        assert again.entry_id == second.entry_id

    with_client(redis_server, use)


def test_a_rejected_entry_is_kept_with_its_reason_and_bytes(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        redis.xadd(streams.EVENTS, {"e": b"\x01bad"})
        [entry] = await Intake(client, "one", 10).read(10)
        outlet = Outlet(client)
        assert await outlet.reject(entry.entry_id, entry.payload, "undecodable", "why", 3)
        assert not await outlet.reject(entry.entry_id, entry.payload, "undecodable", "why", 3)
        [(_, fields)] = redis.xrange(streams.REJECTED)
        assert fields == {
            b"e": b"\x01bad",
            b"reason": b"undecodable",
            b"detail": b"why",
            b"tries": b"3",
            b"entry": entry.entry_id,
        }
        assert redis.xlen(streams.EVENTS) == 0

    with_client(redis_server, use)


def test_a_bridge_that_leaves_with_nothing_in_hand_leaves_no_name(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        intake = Intake(client, "one", 10)
        [entry] = await intake.read(10)
        await intake.leave()
        assert [one["name"] for one in redis.xinfo_consumers(streams.EVENTS, streams.BRIDGE_GROUP)] == [b"one"]
        await Outlet(client).store([(entry.entry_id, reconstruction(1))])
        await intake.leave()
        assert redis.xinfo_consumers(streams.EVENTS, streams.BRIDGE_GROUP) == []

    with_client(redis_server, use)


def test_how_the_streams_stand_is_seen_whoever_is_away(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        assert (await look(client)) == Standing(0, 0, 0.0, 0.0)
        put(redis, event(1), event(2))
        entries = await Intake(client, "one", 10).read(1)
        await asyncio.sleep(0.2)
        stands = await look(client)
        assert (stands.backlog, stands.pending) == (2, 1)
        assert stands.oldest_pending_s > 0.1
        await Outlet(client).store([(entries[0].entry_id, reconstruction(1))])
        await asyncio.sleep(0.2)
        assert (await look(client)).unrecorded_s > 0.1  # no recorder has ever been there
        redis.xgroup_create(streams.DIRECTIONS, streams.RECORDER_GROUP, id="0")
        assert (await look(client)).unrecorded_s > 0.1  # it has not read it
        [[_, [[entry_id, _]]]] = redis.xreadgroup(streams.RECORDER_GROUP, "recorder", {streams.DIRECTIONS: ">"})
        assert (await look(client)).unrecorded_s > 0.1  # it has not put it on disk
        redis.xack(streams.DIRECTIONS, streams.RECORDER_GROUP, entry_id)
        assert (await look(client)).unrecorded_s == 0

    with_client(redis_server, use)


def test_a_full_redis_takes_no_events_but_still_gives_out_results(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, *(event(number) for number in range(5)))
        redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(RedisError, match="used memory"):
                Publisher(connect(redis_server.url), run_id=7).publish(0, [(event(9), None)], 1)
            entries = await Intake(client, "one", 10).read(10)
            pairs = [(entry.entry_id, reconstruction(number)) for number, entry in enumerate(entries)]
            assert await Outlet(client).store(pairs) == [Outcome.STORED] * 5
        finally:
            redis.config_set("maxmemory", 0)
        assert [result.event_id for result in results(redis)] == [0, 1, 2, 3, 4]

    with_client(redis_server, use)
