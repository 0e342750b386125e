"""Copies of events for the challenger, on a real Redis."""

import asyncio
from typing import Any

import pytest

from icestream import wire
from icestream.result import pack
from icestream.results.comparison import Comparison
from icestream.streams import keys
from icestream.streams.challenge import read_challenges, read_comparison, read_copies, write_comparison
from icestream.streams.connection import connect_asyncio
from icestream.streams.event_queue import EventQueue, Outcome, Rejection
from icestream.streams.publisher import Publisher, count_run
from icestream.streams.serving import Served, Serving, read_serving, replace_serving
from tests.events import event, made_result, put, results
from tests.icestream.streams.queues import queue_of, with_client
from tests.servers import RedisProcess

CHALLENGE = keys.challenge(1)
CHAMPION, CHALLENGER = Served(version="1", name="icemix"), Served(version="2", name="icemix-v2")


def challengers_queue(client: Any) -> EventQueue:
    return EventQueue(client, "challenger", 10, CHALLENGE)


async def answer(client: Any, redis: Any, *numbers: int, copied: Any = None) -> list[Outcome]:
    """Events come in, and are answered in one request; all of them are copied, or these."""
    put(redis, *(event(number) for number in numbers))
    queue = queue_of(client)
    entries = await queue.read(len(numbers))
    found = pack([made_result(number) for number in numbers])
    return await queue.complete(
        [entry.entry_id for entry in entries], found, copied=copied or range(len(numbers)), epoch=1
    )


def test_a_copy_is_made_of_what_is_stored_and_the_stream_does_not_see_it(
    redis: Any, redis_server: RedisProcess
) -> None:
    async def use(client: Any) -> None:
        Publisher(redis, run_id=7).begin({})
        await answer(client, redis, 1, 2, 3, copied=[0, 2])
        assert await answer(client, redis, 3) == [Outcome.DUPLICATE]
        queue = challengers_queue(client)
        await queue.join()
        entries = await queue.read(10)
        assert [wire.decode_event(entry.payload).event_id for entry in entries] == [1, 3]
        ids = [entry.entry_id for entry in entries]
        assert await queue.complete(ids[:1], pack([made_result(1)])) == [Outcome.STORED]
        assert await queue.reject(Rejection(entry=entries[1], reason="refused_by_model", detail="no"))
        copies = read_copies(redis, 1)
        assert (copies.copied, copies.answered, copies.refused, copies.dropped) == (2, 1, 1, 0)
        [found], _ = read_challenges(redis, 1, "0-0")
        assert found.events == [(7, 1)]
        assert len(results(redis)) == 3
        assert redis.xlen(keys.REJECTED) == 0
        run = count_run(redis, 7)
        assert (run.stored, run.repeated, run.rejected) == (3, 1, 0)

    with_client(redis_server, use)


def test_copies_are_bounded_and_those_that_came_too_fast_are_counted(
    redis: Any, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "COPIES_KEPT", 10)

    async def use(client: Any) -> None:
        await answer(client, redis, *range(100))
        assert (redis.xlen(CHALLENGE.events), read_copies(redis, 1).dropped) == (10, 0)  # it is not there yet
        queue = challengers_queue(client)
        await queue.join()
        one, *held = await queue.read(4)
        assert await queue.complete([one.entry_id], pack([made_result(90)])) == [Outcome.STORED]
        await answer(client, redis, *range(100, 105))
        assert (redis.xlen(CHALLENGE.events), read_copies(redis, 1).dropped) == (10, 4)
        # What it holds is not dropped, however long it takes.
        await answer(client, redis, *range(105, 150))
        await queue.renew([entry.entry_id for entry in held])
        ids = [entry.entry_id for entry in held]
        assert (
            await queue.complete(ids, pack([made_result(91 + number) for number in range(3)])) == [Outcome.STORED] * 3
        )
        assert (redis.xlen(CHALLENGE.events), read_copies(redis, 1).dropped) == (7, 49)
        large = event(1000, pulses=10_000)
        put(redis, large)
        [entry] = await queue_of(client).read(1)
        await queue_of(client).complete([entry.entry_id], pack([made_result(1000)]), copied=[0], epoch=1)
        assert read_copies(redis, 1).copied == 150

    with_client(redis_server, use)


@pytest.mark.parametrize("key", [CHALLENGE.events, keys.dropped(1), CHALLENGE.stored])
def test_a_copy_that_cannot_be_made_holds_up_no_result(redis: Any, redis_server: RedisProcess, key: str) -> None:
    async def use(client: Any) -> None:
        redis.hset(key, "of another", "type")
        assert await answer(client, redis, 1, 2) == [Outcome.STORED, Outcome.STORED]
        assert redis.xlen(keys.EVENTS) == 0

    with_client(redis_server, use)


def test_an_entry_that_somebody_deleted_is_stored_without_a_copy(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1))
        queue = queue_of(client)
        [entry] = await queue.read(1)
        redis.xdel(keys.EVENTS, entry.entry_id)
        assert await queue.complete([entry.entry_id], pack([made_result(1)]), copied=[0], epoch=1) == [Outcome.STORED]
        assert read_copies(redis, 1).copied == 0

    with_client(redis_server, use)


def test_another_state_begins_another_comparison(redis: Any, redis_server: RedisProcess) -> None:
    """Also where an answer to an old copy is still under way."""

    async def main() -> None:
        client = connect_asyncio(redis_server.url)
        state = Serving(champion=CHAMPION, challenger=CHALLENGER, share=0.5)
        assert await replace_serving(client, 0, state)
        assert not await replace_serving(client, 0, state)
        await queue_of(client).join()
        await answer(client, redis, 1, 2)
        queue = challengers_queue(client)
        await queue.join()
        first, second = await queue.read(2)
        await queue.complete([first.entry_id], pack([made_result(1)]))
        write_comparison(redis, Comparison(epoch=1, champion_version="1", challenger_version="2", pairs=1))
        assert read_comparison(redis, 1) is not None
        assert await replace_serving(client, 1, Serving(champion=CHALLENGER, previous=CHAMPION))
        serving = read_serving(redis)
        assert serving is not None
        assert (serving.epoch, serving.champion, serving.previous) == (2, CHALLENGER, CHAMPION)
        assert serving.since_s > 0
        assert await queue.complete([second.entry_id], pack([made_result(2)])) == [Outcome.WAS_DONE]
        assert read_challenges(redis, 1, "0-0") == ([], "0-0")
        assert read_comparison(redis, 2) is None
        copies = read_copies(redis, 1)
        assert (copies.copied, copies.answered) == (0, 0)
        await client.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("noise", [b"", b"noise", b'{"epoch": 1}', b"[1]"])
def test_what_is_no_comparison_is_none(redis: Any, noise: bytes) -> None:
    redis.set(keys.COMPARISON, noise)
    assert read_comparison(redis, 1) is None
