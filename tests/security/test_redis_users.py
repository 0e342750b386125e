"""Each user of Redis may do all that its process does, and nothing of a list of attacks."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError

from icestream import wire
from icestream.result import pack
from icestream.results.comparison import Comparison
from icestream.streams import keys
from icestream.streams.challenge import (
    gave_no_answer_asyncio,
    read_challenge,
    read_challenges,
    read_comparison,
    read_copies,
    write_comparison,
)
from icestream.streams.connection import AsyncRedis, ConnectionError, Redis, connect, connect_asyncio
from icestream.streams.event_queue import EventQueue, Outcome, Rejection
from icestream.streams.publisher import Publisher, read_description
from icestream.streams.rejected import DeadLetters, NewRejections
from icestream.streams.results import GroupReader, Tail, count_stored_asyncio, latest_results
from icestream.streams.serving import (
    Report,
    Served,
    Serving,
    read_epoch_asyncio,
    read_serving,
    read_serving_asyncio,
    replace_serving,
    write_report,
)
from icestream.streams.status import read_status, read_status_asyncio
from icestream.streams.users import acl_file, user_names
from tests.events import event, made_result, truth
from tests.servers import RedisProcess
from tritonserver.process import HOST

SERVING = Serving(
    champion=Served(version="1", name="icemix"), challenger=Served(version="2", name="icemix-v2"), share=1.0
)
CHALLENGE = keys.challenge(1)
REFUSED_IN_A_SCRIPT = "ACL failure in script|The user executing the script can't"  # by Redis 7.0; by later ones, Valkey


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisProcess]:
    """A Redis with the users of the stream; the password of each is its name."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "users.acl").write_text(acl_file({name: name for name in user_names()}))
    process = RedisProcess(folder, folder / "users.acl")
    yield process
    process.close()


def address(server: RedisProcess, user: str) -> tuple[str, str]:
    return f"redis://{user}@{HOST}:{server.port}", user


def as_user(server: RedisProcess, user: str) -> Redis:
    return connect(*address(server, user))


def emit(server: RedisProcess, *numbers: int) -> None:
    publisher = Publisher(as_user(server, "emitter"), run_id=7)
    assert publisher.check_server() == []
    publisher.begin({"source": "simulate", "truth": "known"})
    first, _ = publisher.position()
    publisher.publish(first, [(event(number), truth(7, number, 1.0, 1.0)) for number in numbers], 1)
    publisher.show_alive()
    assert publisher.backlog().entries >= len(numbers)
    with pytest.raises(ConnectionError, match="no replica"):  # WAIT was let through: there is none
        Publisher(as_user(server, "emitter"), run_id=8, replicated=True).publish(0, [(event(90, run_id=8), None)], 1)


async def with_queue(server: RedisProcess, user: str, names: keys.Queue, use: Callable[..., Awaitable[Any]]) -> Any:
    client = connect_asyncio(*address(server, user))
    try:
        return await use(client, EventQueue(client, user, 0.001, names))
    finally:
        await client.aclose()


async def work(client: AsyncRedis, queue: EventQueue, names: keys.Queue) -> None:
    """All that a bridge does: answer, reject, claim what another has left, ask alone."""
    assert await queue.check_server() == []
    await queue.join()
    done, bad, left = [entry for _ in range(3) for entry in await queue.read(1)]
    await queue.renew([left.entry_id])
    results = pack([made_result(1)])
    shown = (0, b"event")
    assert await queue.complete([done.entry_id], results, shown=shown, copied=[0], epoch=1) == [Outcome.STORED]
    assert await queue.reject(Rejection(entry=bad, reason="no_answer", detail="no"))
    while not (found := await queue.abandoned([])):
        pass
    [abandoned] = found
    assert await queue.claim(abandoned)
    await queue.complete([left.entry_id], pack([made_result(3)]))
    await queue.read(1, at_most_bytes=1)
    await queue.renew([])
    await queue.tidy()
    assert await queue.take_turn(5)
    await queue.give_turn()
    assert (await read_status_asyncio(client, names)).stored_total == 2
    await read_serving_asyncio(client)
    await queue.leave()


async def deploy(server: RedisProcess) -> None:
    client = connect_asyncio(*address(server, "deployer"))
    rejections = NewRejections(client)
    await rejections.read()
    epoch = await read_epoch_asyncio(client)
    assert await replace_serving(client, epoch, SERVING)
    await write_report(client, Report(problems={"champion": "none"}))
    assert await read_serving_asyncio(client)
    assert await rejections.read() == []
    assert await count_stored_asyncio(client) >= 0
    await client.aclose()
    operator = as_user(server, "deployer")  # `icestream models`, in its container
    read_comparison(operator, 1)
    read_copies(operator, 1)


def record(server: RedisProcess) -> None:
    redis = as_user(server, "recorder")
    reader = GroupReader(redis)
    assert reader.check_server() == []
    reader.take()
    reader.join()
    assert list(reader.pending(keys.TRUTH, 10)) == []
    found, truths = reader.new(keys.DIRECTIONS, 10, block_ms=1), reader.new(keys.TRUTH, 10)
    assert found
    assert truths
    reader.show_alive()
    reader.acknowledge([one for one, _ in found], [one for one, _ in truths], found[0][0])
    reader.renew()
    assert read_description(redis, 7)["source"] == "simulate"
    assert read_serving(redis)
    challenges, _ = read_challenges(redis, 1, "0-0")
    assert challenges
    write_comparison(redis, Comparison(epoch=1, champion_version="1", challenger_version="2"))
    assert read_challenge(redis)
    reader.leave()


def show(server: RedisProcess) -> None:
    redis = as_user(server, "display")
    for stream in (keys.DIRECTIONS, keys.TRUTH, keys.SHOWN):
        Tail(redis, stream, 10).read(block_ms=1)
    assert read_status(redis).emitted_total >= 3
    assert read_challenge(redis)
    assert len(list(DeadLetters(redis).latest())) == 1
    assert read_description(redis, 7)
    assert latest_results(redis, 10)


def test_each_process_may_do_all_that_it_does(guarded: RedisProcess) -> None:
    guarded.client.flushall()
    guarded.client.acl_log_reset()
    asyncio.run(deploy(guarded))
    emit(guarded, 1, 2, 3, 4)

    async def answer(client: AsyncRedis, queue: EventQueue) -> None:
        await work(client, queue, keys.STREAM)

    async def challenge(client: AsyncRedis, queue: EventQueue) -> None:
        await work(client, queue, CHALLENGE)
        assert await gave_no_answer_asyncio(client, 1)

    asyncio.run(with_queue(guarded, "bridge", keys.STREAM, answer))
    for number in (1, 2, 3, 4):  # copies, of which the bridge has made one
        guarded.client.xadd(CHALLENGE.events, {wire.FIELD: wire.encode_event(event(number), 1)})
    asyncio.run(with_queue(guarded, "challenger", CHALLENGE, challenge))
    record(guarded)
    show(guarded)
    assert as_user(guarded, "keda").xlen(keys.EVENTS) >= 0
    assert guarded.client.acl_log() == []


def test_streams_of_before_the_hash_tag_are_taken_over(guarded: RedisProcess) -> None:
    guarded.client.flushall()
    for name in keys.OLD_NAMES:
        guarded.client.xadd(name, {wire.FIELD: b"old"})
    guarded.client.hset("icestream:emitted:7", mapping={"emitted": 3, "run_id": 7, "event_id": 3})
    GroupReader(as_user(guarded, "recorder")).join()
    publisher = Publisher(as_user(guarded, "emitter"), run_id=7)
    publisher.begin({})
    assert publisher.position()[0] == 3
    assert all(guarded.client.xlen(name) == 1 for name in keys.OLD_NAMES.values())


@pytest.mark.parametrize("user", ["emitter", "bridge", "recorder"])
@pytest.mark.parametrize("old", ["icestream:emitted:5", "icestream:shown"])
def test_what_has_an_old_name_takes_the_place_of_nothing_else(guarded: RedisProcess, user: str, old: str) -> None:
    guarded.client.hset(old, "emitted", 1) if "emitted" in old else guarded.client.xadd(old, {"e": "x"})
    with as_user(guarded, user) as client, pytest.raises(NoPermissionError):
        client.rename(old, keys.DIRECTIONS)


@pytest.mark.parametrize("user", ["emitter", "bridge", "challenger", "recorder", "display", "deployer"])
def test_each_may_ask_a_cluster_where_the_stream_is(guarded: RedisProcess, user: str) -> None:
    with as_user(guarded, user) as client, pytest.raises(ResponseError, match="cluster support disabled"):
        client.execute_command("CLUSTER", "SLOTS")


def test_what_was_written_is_there_after_a_restart(guarded: RedisProcess) -> None:
    guarded.client.flushall()
    emit(guarded, 1, 2, 3)
    guarded.kill()
    guarded.start()
    assert guarded.client.xlen(keys.EVENTS) == 4
    assert guarded.client.xlen(keys.TRUTH) == 1


def test_nobody_gets_in_without_a_password(guarded: RedisProcess) -> None:
    with pytest.raises(AuthenticationError):
        connect(f"redis://{HOST}:{guarded.port}").ping()
    for password in ("", "default", "nopass"):
        with pytest.raises(AuthenticationError):
            connect(f"redis://default@{HOST}:{guarded.port}", password).ping()
    with pytest.raises(AuthenticationError):
        connect(f"redis://display@{HOST}:{guarded.port}", "admin").ping()


ANYBODY = [
    "FLUSHALL", "FLUSHDB", "SHUTDOWN NOSAVE", "REPLICAOF 10.0.0.1 6379", "CONFIG SET dir /tmp", "CONFIG SET maxmemory 1",
    "ACL SETUSER display on nopass ~* +@all", "ACL LIST", "MONITOR", "CLIENT KILL TYPE normal", "CLIENT LIST", "KEYS *",
    "SCAN 0", "SAVE", "BGREWRITEAOF", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION LOAD x", "SWAPDB 0 1", "MOVE k 1",
    "MIGRATE 10.0.0.1 6379 k 0 9", "DUMP {icestream}:events", "RESTORE k 0 x", "SUBSCRIBE x", "PUBLISH x y", "FAILOVER", "SYNC", "GET other",
    "SET other x", "SET {icestream}:events x", "XGROUP DESTROY {icestream}:events bridge",
    "XGROUP SETID {icestream}:events bridge $", "XTRIM {icestream}:events MAXLEN 0", "EXPIRE {icestream}:events 0", "DEL {icestream}:events",
    "DEL {icestream}:directions", "DEL {icestream}:truth", "RENAME {icestream}:truth {icestream}:events",
    "RENAME {icestream}:events other", "XRANGE other - +", "LATENCY RESET", "CLIENT NO-EVICT ON",
]  # fmt: skip
FORGERY = ["XADD {icestream}:directions * p x", "XADD {icestream}:rejected * p x", "HSET {icestream}:serving epoch 9"]
TRUTH = [
    "XRANGE {icestream}:truth - +", "XREVRANGE {icestream}:truth + -", "XREAD STREAMS {icestream}:truth 0", "XINFO STREAM {icestream}:truth",
    "XREADGROUP GROUP recorder x STREAMS {icestream}:truth >",
]  # fmt: skip
DONE = ["ZADD {icestream}:done 1 7:4", "SADD {icestream}:done 7:4", "DEL {icestream}:done"]
ATTACKS: Mapping[str, list[str]] = {
    "emitter": [
        *FORGERY, *TRUTH, *DONE, "XRANGE {icestream}:events - +", "XDEL {icestream}:events 1-1", "XDEL {icestream}:truth 1-1",
        "SET {icestream}:stored 0", "XREADGROUP GROUP bridge x STREAMS {icestream}:events >", "DEL {icestream}:emitted:7",
        "XADD {icestream}:challenge:1:events * p x",
    ],
    "bridge": [
        *TRUTH, "XADD {icestream}:events * p x", "XADD {icestream}:truth * p x", "XDEL {icestream}:truth 1-1",
        "HSET {icestream}:serving epoch 9", "HSET {icestream}:emitted:7 writer x", "DEL {icestream}:rejected", "SET {icestream}:stored 0",
        "SET {icestream}:comparison x", "SET {icestream}:recorder x",
    ],
    "challenger": [
        *FORGERY, *TRUTH, *DONE, "XADD {icestream}:events * p x", "XDEL {icestream}:events 1-1",
        "XREADGROUP GROUP bridge x STREAMS {icestream}:events >", "XACK {icestream}:events bridge 1-1", "SET {icestream}:comparison x",
        "HINCRBY {icestream}:emitted:7 stored 1",
    ],
    "recorder": [
        *FORGERY, *DONE, "XADD {icestream}:events * p x", "XADD {icestream}:truth * p x", "XACK {icestream}:events bridge 1-1",
        "HSET {icestream}:emitted:7 source x", "XADD {icestream}:challenge:1:directions * p x",
    ],
    "display": [
        *FORGERY, *DONE, "XADD {icestream}:events * p x", "XADD {icestream}:truth * p x", "XADD {icestream}:shown * p x",
        "XDEL {icestream}:directions 1-1", "XDEL {icestream}:rejected 1-1", "EVAL return 0", "SCRIPT LOAD x",
        "XACK {icestream}:directions recorder 1-1", "INFO", "HSET {icestream}:emitted:7 source x",
    ],
    "deployer": [
        *TRUTH, *DONE, *FORGERY[:2], "XADD {icestream}:events * p x", "XRANGE {icestream}:events - +", "HGETALL {icestream}:emitted:7",
        "SET {icestream}:stored 0", "XDEL {icestream}:rejected 1-1",
    ],
    "exporter": [
        *FORGERY, *DONE, "XRANGE {icestream}:truth - +", "XRANGE {icestream}:events - +", "XREAD STREAMS {icestream}:directions 0",
        "EVAL return 0", "CONFIG REWRITE", "SLOWLOG RESET",
    ],
    "keda": [*FORGERY, *TRUTH, *DONE, "XRANGE {icestream}:events - +", "INFO", "CONFIG GET *", "XLEN {icestream}:truth"],
}  # fmt: skip


@pytest.mark.parametrize(("user", "attack"), [(user, one) for user, own in ATTACKS.items() for one in [*ANYBODY, *own]])
def test_an_attack_is_refused(guarded: RedisProcess, user: str, attack: str) -> None:
    with as_user(guarded, user) as client, pytest.raises(NoPermissionError):
        client.execute_command(*attack.split())


@pytest.mark.parametrize("user", ["emitter", "bridge", "challenger", "recorder", "deployer"])
@pytest.mark.parametrize(
    "script",
    [
        "return redis.call('FLUSHALL')",
        "return redis.call('DEL', KEYS[1])",
        "return redis.call('RENAME', KEYS[1], KEYS[2])",
        "return redis.call('SET', KEYS[1], 'x')",
        "redis.setresp(3) return redis.call('KEYS', '*')",
    ],
)
def test_a_script_may_do_no_more_than_its_user(guarded: RedisProcess, user: str, script: str) -> None:
    guarded.client.xadd(keys.TRUTH, {wire.FIELD: b"secret"})
    with as_user(guarded, user) as client, pytest.raises(ResponseError, match=REFUSED_IN_A_SCRIPT):
        client.eval(script, 2, keys.TRUTH, keys.EVENTS)


@pytest.mark.parametrize("user", ["emitter", "bridge", "challenger", "deployer"])
@pytest.mark.parametrize("command", ["'XRANGE', KEYS[1], '-', '+'", "'XINFO', 'STREAM', KEYS[1]"])
def test_no_script_reads_the_truth(guarded: RedisProcess, user: str, command: str) -> None:
    guarded.client.xadd(keys.TRUTH, {wire.FIELD: b"secret"})
    with as_user(guarded, user) as client, pytest.raises(ResponseError, match=REFUSED_IN_A_SCRIPT):
        client.eval(f"return redis.call({command})", 1, keys.TRUTH)


def test_the_file_holds_no_password_and_only_those_who_have_one_get_in() -> None:
    lines = acl_file({"emitter": "secret"}).splitlines()
    assert "secret" not in "".join(lines)
    assert hashlib.sha256(b"secret").hexdigest() in next(line for line in lines if line.startswith("user emitter"))
    assert lines[0].startswith("user default off ")
    assert all(line.split()[2] == "off" for line in lines[1:] if line.split()[1] != "emitter")
