"""Redis as users run it: what would lose events is refused in words, and what has become a replica is left."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ReadOnlyError

from icestream.streams import keys
from icestream.streams.connection import connect, connect_asyncio
from launcher.redis_server import cut_zeros
from tests.events import event, put
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import wait_until

Start = Callable[..., Program]


@pytest.fixture
def writer(program: Start, triton: TritonProcess, tmp_path: Path, own_redis: RedisProcess) -> Callable[[str], Program]:
    """Starts the emitter, the bridge or the recorder on a Redis of its own."""
    settings: dict[str, dict[str, object]] = {
        "emitter": {"count": 10, "rate": "max"},
        "bridge": {"triton_url": triton.url},
        "recorder": {"spool_dir": tmp_path / "spool", "mlflow_url": "http://127.0.0.1:9"},
    }

    def start(name: str) -> Program:
        return program(name, redis_url=own_redis.url, **settings[name])

    return start


WRITERS = ("emitter", "bridge", "recorder")


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_redis_that_evicts_is_refused(own_redis: RedisProcess, writer: Any, name: str, policy: str) -> None:
    own_redis.client.config_set("maxmemory", "100mb")
    own_redis.client.config_set("maxmemory-policy", policy)
    process = writer(name)
    assert process.process.wait(60) == 1
    assert f"(maxmemory-policy {policy}): set it to noeviction" in process.log
    assert "Traceback" not in process.log


@pytest.mark.parametrize("name", WRITERS)
def test_a_wrong_password_ends_a_process_with_a_sentence(own_redis: RedisProcess, writer: Any, name: str) -> None:
    own_redis.client.config_set("requirepass", "secret")
    process = writer(name)
    assert process.process.wait(60) == 1
    assert "Redis refuses this user or password" in process.log
    assert "Traceback" not in process.log


@pytest.mark.parametrize("name", WRITERS)
def test_a_redis_that_keeps_no_log_is_warned_of(own_redis: RedisProcess, writer: Any, name: str) -> None:
    own_redis.client.config_set("appendonly", "no")
    process = writer(name)
    wait_until(lambda: "set appendonly yes" in process.log, "the warning")


@pytest.fixture
def replica(own_redis: RedisProcess) -> Iterator[Callable[[], None]]:
    """Makes the server a replica of a primary that is not there."""
    yield lambda: own_redis.client.execute_command("REPLICAOF", "127.0.0.1", "9")
    own_redis.client.execute_command("REPLICAOF", "NO", "ONE")


def test_a_server_that_has_become_a_replica_is_left(own_redis: RedisProcess, replica: Callable[[], None]) -> None:
    client: Any = connect(own_redis.url)
    before = client.client_id()
    assert client.client_id() == before
    replica()
    with pytest.raises(ReadOnlyError):
        client.set("a", 1)
    assert client.client_id() != before

    async def the_same() -> None:
        client: Any = connect_asyncio(own_redis.url)
        before = await client.client_id()
        with pytest.raises(ReadOnlyError):
            await client.set("a", 1)
        assert await client.client_id() != before
        await client.aclose()

    asyncio.run(the_same())
    client.close()


@pytest.mark.parametrize("zeros", [1, 4096, 200_000])
def test_zeros_at_the_end_of_the_append_only_file_are_cut(own_redis: RedisProcess, tmp_path: Path, zeros: int) -> None:
    own_redis.client.config_set("appendfsync", "always")
    put(own_redis.client, *(event(number) for number in range(50)))
    own_redis.kill()
    [path] = (tmp_path / "appendonlydir").glob("*.incr.aof")
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * zeros)
    cut_zeros(tmp_path)
    assert path.read_bytes() == whole
    own_redis.start()
    assert own_redis.client.xlen(keys.EVENTS) == 50
    [copy] = path.parent.glob("*.before-*")
    assert copy.stat().st_size == len(whole) + zeros
    own_redis.kill()
    whole = path.read_bytes()
    cut_zeros(tmp_path)
    assert path.read_bytes() == whole
    own_redis.start()
