"""Dead letters on a real Redis: what is kept of them, how they are counted, and their way back."""

import hashlib
from typing import Any

import pytest
from msgspec.structs import replace
from redis import ResponseError

from icestream import wire
from icestream.streams import keys
from icestream.streams.connection import RedisError, connect
from icestream.streams.event_queue import Rejection
from icestream.streams.publisher import Publisher, count_run, read_description
from icestream.streams.rejected import DeadLetters, Replayed
from tests.events import event, put
from tests.icestream.streams.queues import queue_of, with_client
from tests.servers import RedisProcess


@pytest.mark.parametrize("key", [keys.REJECTED, keys.REJECTED_BYTES])
def test_a_rejection_that_fails_leaves_the_entry_and_no_dead_letter(
    redis: Any, redis_server: RedisProcess, key: str
) -> None:
    async def use(client: Any) -> None:
        put(redis, event(1), event(2))
        queue = queue_of(client)
        first, entry = await queue.read(10)
        await queue.reject(Rejection(entry=first, reason="empty", detail=""))
        redis.rename(key, "kept")
        redis.rpush(key, "of another type")
        for _ in range(3):
            with pytest.raises(ResponseError):
                await queue.reject(Rejection(entry=entry, reason="empty", detail=""))
        assert redis.xpending(keys.EVENTS, keys.BRIDGE_GROUP)["pending"] == 1
        redis.rename("kept", key)
        assert await queue.reject(Rejection(entry=entry, reason="empty", detail=""))
        assert (redis.xlen(keys.REJECTED), redis.xlen(keys.EVENTS)) == (2, 0)

    with_client(redis_server, use)


def test_a_rejected_entry_is_kept_with_its_reason_and_bytes(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        redis.xadd(keys.EVENTS, {"e": b"\x01bad"})
        [entry] = await queue_of(client).read(10)
        queue = queue_of(client)
        rejection = Rejection(entry=replace(entry, tries=3), reason="undecodable", detail="why")
        assert await queue.reject(rejection)
        assert not await queue.reject(rejection)
        [(_, fields)] = redis.xrange(keys.REJECTED)
        assert fields == {
            b"e": b"\x01bad",
            b"bytes": b"4",
            b"sha1": hashlib.sha1(b"\x01bad").hexdigest().encode(),
            b"reason": b"undecodable",
            b"detail": b"why",
            b"tries": b"3",
            b"entry": entry.entry_id,
            b"run": b"",
        }
        assert redis.xlen(keys.EVENTS) == 0

    with_client(redis_server, use)


def test_dead_letters_are_limited_in_bytes(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        payload = b"x" * (2 * keys.REJECTED_PAYLOAD_BYTES)
        queue = queue_of(client)
        fit = keys.REJECTED_KEPT_BYTES // keys.REJECTED_PAYLOAD_BYTES
        for _ in range(fit + 20):
            redis.xadd(keys.EVENTS, {"e": payload})
            [entry] = await queue.read(10)
            assert await queue.reject(Rejection(entry=entry, reason="undecodable", detail=""))
        assert redis.xlen(keys.REJECTED) == fit
        assert int(redis.get(keys.REJECTED_BYTES)) == keys.REJECTED_KEPT_BYTES
        letter = next(DeadLetters(redis).latest())
        assert (letter.size, len(letter.payload)) == (len(payload), keys.REJECTED_PAYLOAD_BYTES)
        assert letter.sha1 == hashlib.sha1(payload).hexdigest()
        assert DeadLetters(redis).replay(letter.id) is Replayed.TRUNCATED

    with_client(redis_server, use)


def test_a_dead_letter_is_replayed_once(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        Publisher(connect(redis_server.url), run_id=7).begin({})
        put(redis, event(1), event(2))
        queue = queue_of(client)
        for entry in await queue.read(10):
            await queue.reject(Rejection(entry=entry, reason="refused_by_model", detail="why"))
        letters = DeadLetters(redis)
        second, first = letters.latest()
        assert [letters.replay(first.id), letters.replay(first.id)] == [Replayed.REPLAYED, Replayed.UNKNOWN]
        assert [letters.drop(second.id), letters.drop(second.id)] == [True, False]
        assert list(letters.latest()) == []
        assert int(redis.get(keys.REJECTED_BYTES)) == 0
        [entry] = await queue.read(10)
        assert wire.decode_event(entry.payload).event_id == 1
        assert count_run(redis, 7).rejected == 1

    with_client(redis_server, use)


def test_a_dead_letter_whose_payload_was_cut_is_counted(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        Publisher(connect(redis_server.url), run_id=7).begin({})
        put(redis, event(1, pulses=20_000))
        queue = queue_of(client)
        [entry] = await queue.read(10)
        assert await queue.reject(Rejection(entry=entry, reason="refused_by_model", detail=""))
        assert count_run(redis, 7).rejected == 1

    with_client(redis_server, use)


def test_a_replay_that_is_refused_changes_no_count(redis: Any, redis_server: RedisProcess) -> None:
    async def use(client: Any) -> None:
        Publisher(connect(redis_server.url), run_id=7).begin({})
        put(redis, event(1))
        queue = queue_of(client)
        [entry] = await queue.read(10)
        await queue.reject(Rejection(entry=entry, reason="refused_by_model", detail=""))
        redis.delete(keys.EVENTS)
        redis.set(keys.EVENTS, "of another type")
        letters = DeadLetters(redis)
        [letter] = letters.latest()
        for _ in range(3):
            with pytest.raises(RedisError, match="WRONGTYPE"):
                letters.replay(letter.id)
        assert count_run(redis, 7).rejected == len(list(letters.latest())) == 1

    with_client(redis_server, use)


def test_what_a_writer_says_of_its_run_ends_no_reader(redis: Any, redis_server: RedisProcess) -> None:
    client = connect(redis_server.url)
    said = {
        "source": b"kaggle:/data/caf\xe9",
        "rate": b"1" * 10**6,
        "emitted": b"many",
        "run_id": b"\xff",
        "stored": b"x",
    }
    redis.hset(keys.run(7), mapping=said)
    found = read_description(client, 7)
    assert found["source"] == "kaggle:/data/caf\ufffd"
    assert len(found["rate"]) == 500
    assert count_run(client, 7).emitted == 0


@pytest.mark.parametrize("size", [b"9" * 5000, b"\xb2", b""])
def test_a_dead_letter_of_any_size_is_listed(redis: Any, redis_server: RedisProcess, size: bytes) -> None:
    redis.xadd(keys.REJECTED, {"e": b"abc", "bytes": size, "tries": size, "reason": b"\xff"})
    [letter] = DeadLetters(connect(redis_server.url)).latest(10)
    assert (letter.size, letter.tries) == (3, 0)
