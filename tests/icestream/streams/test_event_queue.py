"""The event queue on a real Redis: every event gives exactly one result, whatever is repeated or dies."""

import asyncio
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from icestream import wire
from icestream.streams import keys
from icestream.streams.connection import RedisError, connect, is_away
from icestream.streams.event_queue import MAX_PAYLOAD_BYTES, Entry, EventQueue, Outcome, Rejection
from icestream.streams.publisher import Publisher, RunCounts, count_run
from icestream.streams.results import GroupReader
from icestream.streams.status import Oldest, StreamStatus, read_status, read_status_asyncio
from tests.events import encoded, event, made_result, put, results
from tests.icestream.streams.queues import complete, queue_of, with_client
from tests.servers import RedisProcess
from tests.waiting import ROOT


@pytest.mark.parametrize("refused", [keys.DIRECTIONS, keys.DONE, keys.REJECTED])
def test_an_entry_stays_pending_until_its_result_or_dead_letter_is_written(
    redis: Any, redis_server: RedisProcess, refused: str
) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2))
        redis.set(refused, "of another type", ex=600)
        queue = queue_of(client)
        first, second = await queue.read(10)
        done, gone = [(first.entry_id, made_result(1))], Rejection(entry=second, reason="undecodable", detail="")
        if refused == keys.REJECTED:
            with pytest.raises(RedisError, match="WRONGTYPE"):
                await queue.reject(gone)
        else:
            with pytest.raises(RedisError, match="WRONGTYPE"):
                await complete(queue, done)
        assert redis.xlen(keys.EVENTS) == 2
        assert redis.xpending(keys.EVENTS, keys.BRIDGE_GROUP)["pending"] == 2
        redis.delete(refused)
        assert await complete(queue, done) == [Outcome.STORED]
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
        publisher = Publisher(connect(redis_server.url), run_id=7)
        publisher.begin({})
        passes = [event(1), event(2), event(1, run_id=8)]  # run 8 is a second pass over the source
        publisher.publish(0, [(one, None) for one in passes], 1)
        redis.delete(keys.EVENTS)
        await queue_of(client).join()
        put(redis, event(1), event(2), event(2), event(1, run_id=8), event(1, run_id=0), event(3))
        queue = queue_of(client)
        *entries, bad = await queue.read(10)
        events = [(1, 7), (2, 7), (2, 7), (1, 8), (1, 0)]
        await complete(
            queue,
            [(entry.entry_id, made_result(number, run)) for entry, (number, run) in zip(entries, events, strict=True)],
        )
        assert redis.hget(keys.run(7), "stored") == b"2"
        assert 0 < redis.ttl(keys.run(7)) <= keys.RUN_KEPT_S
        assert await queue.reject(Rejection(entry=bad, reason="refused_by_model", detail=""))
        assert redis.keys(keys.run(0)) == []  # nobody has begun it: anybody may write events of any run
        for other in ("x", "9"):  # another emitter's run
            redis.hset(f"{keys.EMITTED}:{other}", "stored", 5)
        found = count_run(redis, 7)
        assert found == RunCounts(emitted=3, latest=8, forgotten=0, stored=3, repeated=1, rejected=1)

    with_client(redis_server, use)


def test_a_result_and_the_removal_of_its_entry_are_one_step(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        [entry] = await queue_of(client).read(10)
        assert await complete(queue_of(client), [(entry.entry_id, made_result(1))]) == [Outcome.STORED]
        assert (redis.xlen(keys.EVENTS), redis.xlen(keys.DIRECTIONS)) == (0, 1)
        assert (await read_status_asyncio(client)).pending == 0

    with_client(redis_server, use)


def test_storing_again_adds_nothing(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        [entry] = await queue_of(client).read(10)
        queue = queue_of(client)
        await complete(queue, [(entry.entry_id, made_result(1))])
        assert await complete(queue, [(entry.entry_id, made_result(1))]) == [Outcome.WAS_DONE]
        assert len(results(redis)) == 1

    with_client(redis_server, use)


def test_an_event_that_was_written_twice_gives_one_result(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2), event(1), event(1, run_id=8))
        entries = await queue_of(client).read(10)
        pairs = [(entries[0], 1, 7), (entries[1], 2, 7), (entries[2], 1, 7), (entries[3], 1, 8)]
        stored = await complete(
            queue_of(client), [(entry.entry_id, made_result(number, run)) for entry, number, run in pairs]
        )
        assert stored == [Outcome.STORED, Outcome.STORED, Outcome.DUPLICATE, Outcome.STORED]
        assert [(one.run_id, one.event_id) for one in results(redis)] == [(7, 1), (7, 2), (8, 1)]
        assert redis.xlen(keys.EVENTS) == 0

    with_client(redis_server, use)


def test_results_of_one_request_are_one_entry_less_those_that_another_bridge_has_stored(
    redis: Any, redis_server: RedisProcess
) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2), event(3), event(2), event(4))
        queue, other = queue_of(client), EventQueue(client, "other", 10)
        entries = await queue.read(10)
        pairs = [(entry.entry_id, made_result(number)) for entry, number in zip(entries, (1, 2, 3, 2, 4), strict=True)]
        assert await complete(other, [pairs[2]]) == [Outcome.STORED]  # it was faster
        redis.xgroup_delconsumer(keys.EVENTS, keys.BRIDGE_GROUP, "one")  # the others are nobody's now
        stored, done, again = Outcome.STORED, Outcome.WAS_DONE, Outcome.DUPLICATE
        assert await complete(queue, pairs) == [stored, stored, done, again, stored]
        assert [one.event_id for one in results(redis)] == [3, 1, 2, 4]
        assert redis.xlen(keys.DIRECTIONS) == 2
        assert redis.zrange(keys.DONE, 0, -1) == [b"7:1", b"7:2", b"7:3", b"7:4"]
        assert (redis.xlen(keys.EVENTS), (await read_status_asyncio(client)).stored_total) == (0, 4)
        assert await complete(queue, pairs) == [done] * 5
        assert redis.xlen(keys.DIRECTIONS) == 2

    with_client(redis_server, use)


def test_of_two_entries_of_an_event_the_one_that_is_left_gives_its_result(
    redis: Any, redis_server: RedisProcess
) -> None:
    """As after Redis has lost its last second: a bridge holds an entry that is no more, and the event was written again."""

    async def use(client: Any) -> None:
        put(redis, event(1), event(1), event(2))
        queue = queue_of(client)
        lost, again, other = await queue.read(10)
        redis.xack(keys.EVENTS, keys.BRIDGE_GROUP, lost.entry_id)
        redis.xdel(keys.EVENTS, lost.entry_id)
        pairs = [(lost.entry_id, made_result(1)), (again.entry_id, made_result(1)), (other.entry_id, made_result(2))]
        assert await complete(queue, pairs) == [Outcome.WAS_DONE, Outcome.STORED, Outcome.STORED]
        assert [one.event_id for one in results(redis)] == [1, 2]
        assert redis.zrange(keys.DONE, 0, -1) == [b"7:1", b"7:2"]
        assert (redis.xlen(keys.EVENTS), (await read_status_asyncio(client)).stored_total) == (0, 2)

    with_client(redis_server, use)


def at(redis: Any, number: int, second: int) -> None:
    """Write an event as if it were so many seconds after 2001."""
    redis.xadd(keys.EVENTS, {wire.FIELD: wire.encode_event(event(number), 1)}, id=f"{10**12 + second * 1000}-*")


def test_two_entries_of_an_event_are_one_whenever_they_are_finished(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        queue = queue_of(client)
        for number, second in ((1, 0), (1, 1), (2, 1), (3, 700), (1, 701)):
            at(redis, number, second)
        first, again, second, third, later = await queue.read(10)
        assert await complete(queue, [(first.entry_id, made_result(1))]) == [Outcome.STORED]
        # Events that are 700 s younger are finished before the second entry of event 1 is.
        assert await complete(queue, [(third.entry_id, made_result(3))]) == [Outcome.STORED]
        assert await complete(queue, [(again.entry_id, made_result(1))]) == [Outcome.DUPLICATE]
        assert await complete(queue, [(second.entry_id, made_result(2))]) == [Outcome.STORED]
        assert await complete(queue, [(later.entry_id, made_result(1))]) == [Outcome.STORED]  # after the five minutes
        assert redis.zrange(keys.DONE, 0, -1) == [
            b"7:3",
            b"7:1",
        ]  # what no entry to come can be a duplicate of is forgotten

    with_client(redis_server, use)


def test_a_result_bears_the_time_at_which_redis_stored_it(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        queue = queue_of(client)
        [entry] = await queue.read(10)
        before_us = int(redis.time()[0]) * 10**6 + redis.time()[1]
        await complete(queue, [(entry.entry_id, made_result(1, stored_ns=10**18))])
        after_us = int(redis.time()[0]) * 10**6 + redis.time()[1]
        [result] = results(redis)
        assert before_us <= result.stored_ns // 1000 <= after_us
        assert result == made_result(1, stored_ns=result.stored_ns)

    with_client(redis_server, use)


def test_what_is_read_at_once_is_limited_in_bytes(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, *(event(number, pulses=1000) for number in range(20)))
        redis.xadd(keys.EVENTS, {"e": b"x" * (MAX_PAYLOAD_BYTES + 5)})
        queue = queue_of(client)
        assert [len(await queue.read(100, at_most_bytes=40_000)) for _ in range(5)] == [4] * 5
        [huge] = await queue.read(100)
        assert (len(huge.payload), huge.size) == (MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES + 5)

    with_client(redis_server, use)


def test_entries_that_are_nobodys_are_taken_up(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2), event(3), event(4))
        gone, alive = EventQueue(client, "gone", 10), EventQueue(client, "alive", 10)
        assert len(await gone.read(2)) == 2
        redis.xgroup_delconsumer(keys.EVENTS, keys.BRIDGE_GROUP, "gone")  # as operators' scripts do
        redis.xgroup_setid(keys.EVENTS, keys.BRIDGE_GROUP, redis.xrange(keys.EVENTS)[2][0])
        assert (await read_status_asyncio(client)).oldest_unheld.age_s > 0
        assert [await alive.tidy(), await alive.tidy()] == [(3, 0), (0, 0)]
        claimed = await claim_all(alive)
        assert [wire.decode_event(entry.payload).event_id for entry in claimed] == [1, 2, 3]
        assert [entry.tries for entry in claimed] == [2, 2, 2]
        assert [wire.decode_event(entry.payload).event_id for entry in await alive.read(10)] == [4]
        assert (await alive.tidy(), (await read_status_asyncio(client)).oldest_unheld) == ((0, 0), Oldest())

    with_client(redis_server, use)


@pytest.mark.parametrize("recorder", [False, True])
def test_results_that_no_recorder_has_asked_for_are_trimmed(
    redis: Any, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch, recorder: bool
) -> None:
    monkeypatch.setattr(keys, "UNASKED_BYTES", 10_000)

    async def use(client: Any) -> None:
        with redis.pipeline() as pipe:
            for _ in range(1000):
                pipe.xadd(keys.DIRECTIONS, {wire.FIELD: b"a result"})
                pipe.xadd(keys.TRUTH, {wire.FIELD: b"a truth"})
            pipe.execute()
        if recorder:  # it may be away: what it has not read stays
            for stream in (keys.DIRECTIONS, keys.TRUTH):
                redis.xgroup_create(stream, keys.RECORDER_GROUP, id="0")
        _, trimmed = await EventQueue(client, "bridge", 10).tidy()
        left = {redis.xlen(keys.DIRECTIONS), redis.xlen(keys.TRUTH)}
        assert (trimmed, left) == ((0, {1000}) if recorder else (1000 - max(left), left))
        assert (
            recorder or max(map(redis.memory_usage, (keys.DIRECTIONS, keys.TRUTH))) < 15_000
        )  # Redis frees whole nodes
        assert recorder or 100 < max(left) < 900

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
        queue = queue_of(client)
        first, second = await queue.read(10)
        let_pass(redis, "one", 10_000)
        [again] = await claim_all(queue, held=[first.entry_id])
        assert again.entry_id == second.entry_id

    with_client(redis_server, use)


def test_bridges_take_turns(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        one, other = queue_of(client), EventQueue(client, "other", 10)
        assert await one.take_turn(10)
        assert not await other.take_turn(10)
        assert await one.take_turn(10)
        await other.give_turn()  # it is not its own
        assert not await other.take_turn(10)
        await one.give_turn()
        assert await other.take_turn(0.05)
        while redis.exists(keys.ALONE):
            await asyncio.sleep(0.01)
        assert await one.take_turn(10)

    with_client(redis_server, use)


def test_streams_with_old_names_are_taken_over(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        redis.delete(keys.EVENTS)
        redis.xadd("icestream:events", {wire.FIELD: wire.encode_event(event(1), 1)})
        redis.xgroup_create("icestream:events", keys.BRIDGE_GROUP, id="0")
        queue = queue_of(client)
        await queue.join()
        [entry] = await queue.read(10)
        assert wire.decode_event(entry.payload).event_id == 1
        assert not redis.exists("icestream:events")

    with_client(redis_server, use)


def test_a_bridge_that_leaves_with_nothing_in_hand_leaves_no_name(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        queue = queue_of(client)
        [entry] = await queue.read(10)
        await queue.leave()
        assert [one["name"] for one in redis.xinfo_consumers(keys.EVENTS, keys.BRIDGE_GROUP)] == [b"one"]
        await complete(queue_of(client), [(entry.entry_id, made_result(1))])
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
            backlog=0, pending=0, oldest_pending=Oldest(), oldest_unheld=Oldest(), unrecorded=0, oldest_unrecorded=Oldest(),
            emitted_total=0, stored_total=0, rejected_total=0, rejected=0, emitters=0, bridges=0, recorders=0,
        )  # fmt: skip
        queue = queue_of(client)
        await queue.join()
        for number in (1, 2):
            old(keys.EVENTS, wire.encode_event(event(number), 1), 100 - number)
        [first] = await queue.read(1)
        status = await read_status_asyncio(client)
        assert (status.backlog, status.pending, status.bridges, status.emitted_total) == (2, 1, 1, 2)
        assert status.oldest_pending.age_s == pytest.approx(99, abs=10)
        entry_id = old(keys.DIRECTIONS, encoded(made_result(1)), 50)
        for group in (None, "0"):  # no recorder has ever joined; it has joined and not read
            if group is not None:
                redis.xgroup_create(keys.DIRECTIONS, keys.RECORDER_GROUP, id=group)
            status = await read_status_asyncio(client)
            assert (status.unrecorded, status.recorders) == (1, 0)
            assert status.oldest_unrecorded.age_s == pytest.approx(50, abs=10)
        redis.xreadgroup(keys.RECORDER_GROUP, "recorder", {keys.DIRECTIONS: ">"})
        status = read_status(connect(redis_server.url))
        assert (status.unrecorded, status.recorders) == (1, 1)  # read, and not on disk
        assert status.oldest_unrecorded.age_s == pytest.approx(50, abs=10)
        redis.xack(keys.DIRECTIONS, keys.RECORDER_GROUP, entry_id)
        status = await read_status_asyncio(client)
        assert (status.unrecorded, status.oldest_unrecorded) == (0, Oldest())
        await queue.reject(Rejection(entry=first, reason="undecodable", detail=""))
        assert (await read_status_asyncio(client)).rejected_total == 1

    with_client(redis_server, use)


def test_every_key_of_a_script_is_declared() -> None:
    for path in (ROOT / "icestream" / "streams" / "scripts").glob("*.lua"):
        text = path.read_text()
        assert text.startswith("-- "), path
        assert "-- KEYS: " in text, path
        for call in re.findall(r"redis\.p?call\((.*)", text):
            command = re.match(r"'(\w+)', ?(?:'GROUP'.*'STREAMS', |'[A-Z]+', )?(\w+)", call)
            assert command is None or command[2] in ("KEYS", "key"), f"{path.name}: {call}"


def test_a_full_redis_takes_no_events_but_still_gives_out_results(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, *(event(number) for number in range(5)))
        redis.config_set("maxmemory", 1)
        try:
            with pytest.raises(RedisError, match="used memory") as refused:
                Publisher(connect(redis_server.url), run_id=7).publish(0, [(event(9), None)], 1)
            assert is_away(refused.value)
            reader = GroupReader(connect(redis_server.url))  # a recorder begins
            reader.take()
            reader.join()
            redis.xgroup_destroy(keys.EVENTS, keys.BRIDGE_GROUP)
            await queue_of(client).join()  # a bridge begins
            assert await queue_of(client).take_turn(1)
            entries = await queue_of(client).read(10)
            pairs = [(entry.entry_id, made_result(number)) for number, entry in enumerate(entries)]
            assert await complete(queue_of(client), pairs) == [Outcome.STORED] * 5
        finally:
            redis.config_set("maxmemory", 0)
        assert [result.event_id for result in results(redis)] == [0, 1, 2, 3, 4]

    with_client(redis_server, use)
