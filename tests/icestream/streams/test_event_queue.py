"""The event queue on a real Redis: every event gives exactly one result, whatever is repeated or dies."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from icestream import wire
from icestream.streams import keys
from icestream.streams.connection import RedisError, connect, connect_asyncio
from icestream.streams.event_queue import Entry, EventQueue, Outcome, Rejection
from icestream.streams.publisher import Publisher, stored_since
from icestream.streams.status import StreamStatus, read_status, read_status_asyncio
from tests.events import event, made_result, put, results
from tests.servers import RedisProcess
from tests.waiting import ROOT


def with_client(server: RedisProcess, use: Callable[[Any], Awaitable[None]]) -> None:
    """Run a coroutine with a client of its own."""

    async def main() -> None:
        client = connect_asyncio(server.url)
        try:
            await EventQueue(client, "one", 10).join()
            await use(client)
        finally:
            await client.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("refused", [keys.DIRECTIONS, keys.DONE[0], keys.REJECTED])
def test_an_entry_stays_pending_until_its_result_or_dead_letter_is_written(
    redis: Any, redis_server: RedisProcess, refused: str
) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2))
        redis.set(refused, "of another type", ex=600)
        queue = EventQueue(client, "one", 10)
        first, second = await queue.read(10)
        done, gone = [(first.entry_id, made_result(1))], Rejection(entry=second, reason="undecodable", detail="")
        if refused == keys.REJECTED:
            with pytest.raises(RedisError, match="WRONGTYPE"):
                await queue.reject(gone)
        else:
            with pytest.raises(RedisError, match="WRONGTYPE"):
                await queue.complete(done)
        assert redis.xlen(keys.EVENTS) == 2
        assert redis.xpending(keys.EVENTS, keys.BRIDGE_GROUP)["pending"] == 2
        redis.delete(refused)
        assert await queue.complete(done) == [Outcome.STORED]
        assert await queue.reject(gone)
        assert (redis.xlen(keys.EVENTS), redis.xlen(keys.DIRECTIONS), redis.xlen(keys.REJECTED)) == (0, 1, 1)

    with_client(redis_server, use)


def test_deliveries_are_counted_for_each_entry_however_many_lie_between(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, *(event(number) for number in range(2002)))
        entries = await EventQueue(client, "dead", 10).read(3000)
        let_pass(redis, "dead", 0)
        redis.xclaim(
            keys.EVENTS, keys.BRIDGE_GROUP, "dead", 0, [entry.entry_id for entry in entries[1:-1]], justid=True
        )
        for entry, deliveries in ((entries[0], 4), (entries[-1], 7)):
            redis.xclaim(
                keys.EVENTS, keys.BRIDGE_GROUP, "dead", 0, [entry.entry_id], idle=60_000, retrycount=deliveries
            )
        claimed = await claim_all(EventQueue(client, "one", 30))
        assert {entry.entry_id: entry.tries for entry in claimed} == {
            entries[0].entry_id: 5, entries[-1].entry_id: 8,
        }  # fmt: skip

    with_client(redis_server, use)


def test_results_are_counted_by_run(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2), event(2), event(1, run_id=8), event(1, run_id=0))
        queue = EventQueue(client, "one", 10)
        entries = await queue.read(10)
        events = [(1, 7), (2, 7), (2, 7), (1, 8), (1, 0)]
        await queue.complete(
            [(entry.entry_id, made_result(number, run)) for entry, (number, run) in zip(entries, events, strict=True)]
        )
        assert redis.hget(keys.run(7), "stored") == b"2"
        assert 0 < redis.ttl(keys.run(7)) <= keys.RUN_KEPT_S
        assert stored_since(redis, 7) == 3  # a foreign writer's run 0 is not of this session

    with_client(redis_server, use)


def test_a_result_and_the_removal_of_its_entry_are_one_step(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        [entry] = await EventQueue(client, "one", 10).read(10)
        assert await EventQueue(client, "one", 10).complete([(entry.entry_id, made_result(1))]) == [Outcome.STORED]
        assert (redis.xlen(keys.EVENTS), redis.xlen(keys.DIRECTIONS)) == (0, 1)
        assert (await read_status_asyncio(client)).pending == 0

    with_client(redis_server, use)


def test_storing_again_adds_nothing(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        [entry] = await EventQueue(client, "one", 10).read(10)
        queue = EventQueue(client, "one", 10)
        await queue.complete([(entry.entry_id, made_result(1))])
        assert await queue.complete([(entry.entry_id, made_result(1))]) == [Outcome.WAS_DONE]
        assert len(results(redis)) == 1

    with_client(redis_server, use)


def test_an_event_that_was_written_twice_gives_one_result(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2), event(1), event(1, run_id=8))
        entries = await EventQueue(client, "one", 10).read(10)
        pairs = [(entries[0], 1, 7), (entries[1], 2, 7), (entries[2], 1, 7), (entries[3], 1, 8)]
        stored = await EventQueue(client, "one", 10).complete(
            [(entry.entry_id, made_result(number, run)) for entry, number, run in pairs]
        )
        assert stored == [Outcome.STORED, Outcome.STORED, Outcome.DUPLICATE, Outcome.STORED]
        assert [(one.run_id, one.event_id) for one in results(redis)] == [(7, 1), (7, 2), (8, 1)]
        assert redis.xlen(keys.EVENTS) == 0

    with_client(redis_server, use)


def test_finished_events_are_not_remembered_for_ever(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        [entry] = await EventQueue(client, "one", 10).read(10)
        await EventQueue(client, "one", 10).complete([(entry.entry_id, made_result(1))])
        assert 300 < redis.ttl(keys.DONE[0]) <= 600
        put(redis, event(2), event(1), event(3))
        second, again, third = await EventQueue(client, "one", 10).read(10)
        redis.expire(keys.DONE[0], 300)  # as it is half a window later
        queue = EventQueue(client, "one", 10)
        stored = await queue.complete([(second.entry_id, made_result(2)), (again.entry_id, made_result(1))])
        assert stored == [Outcome.STORED, Outcome.DUPLICATE]
        assert redis.smembers(keys.DONE[1]) == {b"7:1"}
        assert redis.ttl(keys.DONE[1]) <= 300 < redis.ttl(keys.DONE[0])
        redis.expire(keys.DONE[0], 300)
        await queue.complete([(third.entry_id, made_result(3))])
        assert (redis.smembers(keys.DONE[1]), redis.smembers(keys.DONE[0])) == ({b"7:2"}, {b"7:3"})

    with_client(redis_server, use)


async def claim_all(queue: EventQueue, held: Sequence[bytes] = ()) -> list[Entry]:
    """Claim all abandoned entries."""
    claimed = [await queue.claim(pending) for pending in await queue.abandoned(held)]
    return [entry for entry in claimed if entry is not None]


def let_pass(redis: Any, consumer: str, idle_ms: int) -> None:
    """Make the entries of a consumer look as if it had not renewed them for this long."""
    for entry in redis.xpending_range(keys.EVENTS, keys.BRIDGE_GROUP, "-", "+", 100, consumer):
        redis.xclaim(keys.EVENTS, keys.BRIDGE_GROUP, consumer, 0, [entry["message_id"]], idle=idle_ms, justid=True)


def test_entries_of_a_dead_bridge_are_claimed_and_their_deliveries_counted(
    redis: Any, redis_server: RedisProcess
) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2))
        assert len(await EventQueue(client, "dead", 10).read(10)) == 2
        alive = EventQueue(client, "alive", 10)
        assert await claim_all(alive) == []  # not idle for long enough
        let_pass(redis, "dead", 10_000)
        claimed = await claim_all(alive)
        assert [entry.tries for entry in claimed] == [2, 2]
        assert all(entry.payload for entry in claimed)

    with_client(redis_server, use)


def test_a_living_bridge_keeps_what_it_renews(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        slow, other = EventQueue(client, "slow", 10), EventQueue(client, "other", 10)
        [entry] = await slow.read(10)
        for _ in range(4):
            let_pass(redis, "slow", 9_000)
            await slow.renew([entry.entry_id])
            assert await claim_all(other) == []
        let_pass(redis, "slow", 10_000)
        [claimed] = await claim_all(other)
        assert claimed.tries == 2  # renewing is no delivery

    with_client(redis_server, use)


def test_a_bridge_does_not_claim_what_it_holds(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2))
        queue = EventQueue(client, "one", 10)
        first, second = await queue.read(10)
        let_pass(redis, "one", 10_000)
        [again] = await claim_all(queue, held=[first.entry_id])
        assert again.entry_id == second.entry_id

    with_client(redis_server, use)


def test_a_rejected_entry_is_kept_with_its_reason_and_bytes(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        redis.xadd(keys.EVENTS, {"e": b"\x01bad"})
        [entry] = await EventQueue(client, "one", 10).read(10)
        queue = EventQueue(client, "one", 10)
        rejection = Rejection(entry=replace(entry, tries=3), reason="undecodable", detail="why")
        assert await queue.reject(rejection)
        assert not await queue.reject(rejection)
        [(_, fields)] = redis.xrange(keys.REJECTED)
        assert fields == {
            b"e": b"\x01bad",
            b"reason": b"undecodable",
            b"detail": b"why",
            b"tries": b"3",
            b"entry": entry.entry_id,
        }
        assert redis.xlen(keys.EVENTS) == 0

    with_client(redis_server, use)


def test_a_bridge_that_leaves_with_nothing_in_hand_leaves_no_name(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        queue = EventQueue(client, "one", 10)
        [entry] = await queue.read(10)
        await queue.leave()
        assert [one["name"] for one in redis.xinfo_consumers(keys.EVENTS, keys.BRIDGE_GROUP)] == [b"one"]
        await EventQueue(client, "one", 10).complete([(entry.entry_id, made_result(1))])
        await queue.leave()
        assert redis.xinfo_consumers(keys.EVENTS, keys.BRIDGE_GROUP) == []

    with_client(redis_server, use)


def test_the_status_of_the_streams_is_read_whoever_is_away(redis: Any, redis_server: RedisProcess) -> None:
    def old(stream: str, payload: bytes, age_s: float) -> bytes:
        """An entry that was written some time ago."""
        entry_id: bytes = redis.xadd(stream, {wire.FIELD: payload}, id=f"{int((time.time() - age_s) * 1000)}-0")
        return entry_id

    async def use(client: Any) -> None:
        redis.delete(keys.EVENTS)
        assert (await read_status_asyncio(client)) == StreamStatus(
            backlog=0, pending=0, oldest_pending_s=0, last_event_s=None, unrecorded=0, oldest_unrecorded_s=0,
            emitted_total=0, stored_total=0, rejected_total=0, bridges=0, recorders=0,
        )  # fmt: skip
        queue = EventQueue(client, "one", 10)
        await queue.join()
        for number in (1, 2):
            old(keys.EVENTS, wire.encode_event(event(number), 1), 100 - number)
        [first] = await queue.read(1)
        status = await read_status_asyncio(client)
        assert (status.backlog, status.pending, status.bridges, status.emitted_total) == (2, 1, 1, 2)
        assert status.oldest_pending_s == pytest.approx(99, abs=10)
        assert status.last_event_s == pytest.approx(98, abs=10)
        entry_id = old(keys.DIRECTIONS, wire.RESULT.encode(made_result(1)), 50)
        for group in (None, "0"):  # no recorder has ever joined; it has joined and not read
            if group is not None:
                redis.xgroup_create(keys.DIRECTIONS, keys.RECORDER_GROUP, id=group)
            status = await read_status_asyncio(client)
            assert (status.unrecorded, status.recorders) == (1, 0)
            assert status.oldest_unrecorded_s == pytest.approx(50, abs=10)
        redis.xreadgroup(keys.RECORDER_GROUP, "recorder", {keys.DIRECTIONS: ">"})
        status = read_status(connect(redis_server.url))
        assert (status.unrecorded, status.recorders) == (1, 1)  # read, and not on disk
        assert status.oldest_unrecorded_s == pytest.approx(50, abs=10)
        redis.xack(keys.DIRECTIONS, keys.RECORDER_GROUP, entry_id)
        status = await read_status_asyncio(client)
        assert (status.unrecorded, status.oldest_unrecorded_s, status.stored_total) == (0, 0, 1)
        await queue.reject(Rejection(entry=first, reason="undecodable", detail=""))
        assert (await read_status_asyncio(client)).rejected_total == 1

    with_client(redis_server, use)


def test_every_key_of_a_script_is_declared() -> None:
    for path in (ROOT / "icestream" / "streams" / "scripts").glob("*.lua"):
        text = path.read_text()
        assert text.startswith("-- "), path
        assert "-- KEYS: " in text, path
        for call in re.findall(r"redis\.p?call\((.*)", text):
            command = re.match(r"'(\w+)', ?(?:'[A-Z]+', )?(\w+)", call)
            assert command is None or command[2] in ("KEYS", "key"), f"{path.name}: {call}"


def test_a_full_redis_takes_no_events_but_still_gives_out_results(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, *(event(number) for number in range(5)))
        redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(RedisError, match="used memory"):
                Publisher(connect(redis_server.url), run_id=7).publish(0, [(event(9), None)], 1)
            entries = await EventQueue(client, "one", 10).read(10)
            pairs = [(entry.entry_id, made_result(number)) for number, entry in enumerate(entries)]
            assert await EventQueue(client, "one", 10).complete(pairs) == [Outcome.STORED] * 5
        finally:
            redis.config_set("maxmemory", 0)
        assert [result.event_id for result in results(redis)] == [0, 1, 2, 3, 4]

    with_client(redis_server, use)
