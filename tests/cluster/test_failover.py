"""A Redis whose host dies: Sentinels make a replica the primary, and the stream goes on."""

import os
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.crc import key_slot

from icestream.detector import nominal_icecube86
from icestream.sources.simulation.simulator import simulated_events
from icestream.streams import keys
from icestream.streams.connection import RedisError, connect
from icestream.streams.publisher import Publisher
from tests.cluster.redis import Cluster, Server, Watched
from tests.recorder.streams import spooled
from tests.servers import Program, TritonProcess
from tests.waiting import wait_until
from tritonserver.process import HOST

pytestmark = pytest.mark.cluster
Start = Callable[..., Program]
FAILOVERS = int(os.environ.get("FAILOVERS", "6"))  # 50 were run by hand
RUN_ID, SEED = 4, 42


class Stream:
    """The processes around a Redis at this address."""

    def __init__(self, url: str, folder: Path, triton: TritonProcess, program: Start, **emitter: object):
        self.redis: Any = connect(url)
        self._spool = folder / "spool"
        self.emitter = program("emitter", redis_url=url, run_id=RUN_ID, seed=SEED, **emitter)
        for _ in range(2):
            program("bridge", redis_url=url, triton_url=triton.url, claim_idle_s=1)
        program("recorder", redis_url=url, mlflow_url="http://127.0.0.1:1", spool_dir=self._spool, window_s=0.5)

    def book(self, name: str) -> int:
        with suppress(RedisError):
            return int(self.redis.hget(keys.run(RUN_ID), name) or 0)
        return -1

    def grows(self) -> Callable[[], bool]:
        """Whether results are stored since now."""
        before = self.book("stored")
        return lambda: self.book("stored") > max(before, 0) + 20

    def all_recorded_once(self) -> int:
        """Stop emitting; every event that was emitted is recorded, and once. Returns how many."""
        assert self.emitter.stop() == 0
        emitted = wait_until(lambda: max(self.book("emitted"), 0), "how many were emitted")
        wait_until(lambda: len(set(spooled(self._spool))) >= emitted, "all are recorded", 120)
        wait_until(lambda: self.redis.xlen(keys.EVENTS) == 0, "nothing is left to do", 60)
        found = Counter(spooled(self._spool))
        made = islice(simulated_events(nominal_icecube86(), SEED, RUN_ID), emitted)
        assert found.keys() == {event.event_id for event, _ in made}
        assert {number for number, times in found.items() if times > 1} == set()
        assert self.redis.xlen(keys.REJECTED) == 0
        return int(emitted)


def fail_over(watched: Watched, stream: Stream, *, hangs: bool) -> float:
    """Kill the primary, or let it hang; seconds until results are stored again, at another one."""
    before, began_s = watched.primary, time.monotonic()
    if hangs:
        before.pause()
    else:
        before.kill()
    wait_until(lambda: watched.primary is not before, "a replica is the primary", 60)
    wait_until(stream.grows(), "results are stored again", 90)
    return time.monotonic() - began_s


def come_back(watched: Watched, server: Server, *, hung: bool) -> None:
    """As a replica."""
    if hung:
        server.resume()
    else:
        server.start()
    wait_until(watched.whole, "the old primary follows", 90)


@pytest.mark.timeout(600 + 30 * FAILOVERS)
@pytest.mark.parametrize("watched", [("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")], indirect=True)
def test_events_that_a_replica_has_are_never_lost(
    watched: Watched, tmp_path: Path, triton: TritonProcess, program: Start
) -> None:
    """With durability=replicated: the primary is killed, hangs, comes back as a replica, again and again under load."""
    stream = Stream(watched.url, tmp_path, triton, program, rate=60, durability="replicated")
    wait_until(stream.grows(), "the stream runs", 60)
    confirmed, took_s = 0, []
    for number in range(FAILOVERS):
        confirmed = max(confirmed, stream.emitter.metric("icestream_emitter_events_total"))  # type: ignore[assignment]
        hangs, before = number % 2 == 1, watched.primary
        took_s.append(fail_over(watched, stream, hangs=hangs))
        assert stream.book("emitted") >= confirmed  # what was confirmed to the emitter is there
        come_back(watched, before, hung=hangs)
    emitted = stream.all_recorded_once()
    print(
        f"\n    {FAILOVERS} failovers, {emitted} events; results again after {min(took_s):.1f} to {max(took_s):.1f} s"
    )


@pytest.mark.parametrize(
    "watched",
    [
        (
            "--min-replicas-to-write",
            "1",
            "--min-replicas-max-lag",
            "2",
            "--user",
            "stream",
            "on",
            ">stream",
            "~*",
            "&*",
            "+@all",
        )
    ],
    indirect=True,
)
def test_a_primary_that_only_the_stream_still_reaches_is_left(
    watched: Watched, tmp_path: Path, triton: TritonProcess, program: Start
) -> None:
    """A partition: replicas and Sentinels, which log in as `default`, are let in no more, and the processes are."""
    url = watched.url.replace("sentinel://", "sentinel://stream:stream@")
    stream = Stream(url, tmp_path, triton, program, rate=60, durability="replicated")
    wait_until(stream.grows(), "the stream runs", 60)
    before = watched.primary
    with Redis(host=HOST, port=before.port, protocol=2, username="stream", password="stream") as inside:
        inside.acl_setuser("default", enabled=False)
        inside.execute_command("CLIENT", "KILL", "USER", "default")
        wait_until(lambda: watched.primary is not before, "a replica is the primary", 60)
        assert inside.ping()
        stream.redis.connection_pool.disconnect()
        wait_until(stream.grows(), "results are stored at the new primary", 90)
        inside.acl_setuser("default", enabled=True)
    wait_until(watched.whole, "the old primary follows", 90)
    stream.all_recorded_once()


def test_without_that_what_a_failover_takes_back_is_emitted_again_and_recorded_once(
    watched: Watched, tmp_path: Path, triton: TritonProcess, program: Start
) -> None:
    stream = Stream(watched.url, tmp_path, triton, program, rate=100)
    wait_until(stream.grows(), "the stream runs", 60)
    for _ in range(2):
        before = watched.primary
        for server in watched.servers:
            if server is not before:
                server.ask("CLIENT", "KILL", "TYPE", "master")  # so that it lags
        fail_over(watched, stream, hangs=False)
        come_back(watched, before, hung=False)
    stream.all_recorded_once()


def test_commands_that_are_sent_together_find_the_slot_as_well(cluster: Cluster) -> None:
    publisher = Publisher(connect(cluster.url), RUN_ID)
    publisher.begin({})
    publisher.show_alive()
    cluster.move(keys.EVENTS)
    with pytest.raises(RedisError):
        publisher.show_alive()
    publisher.show_alive()
    assert publisher.position() == (0, None)


def test_a_node_that_is_cut_off_from_its_cluster_is_left(cluster: Cluster) -> None:
    client: Any = connect(cluster.url)
    client.set(keys.EMITTER, "x")
    before, slot = client.client_id(), str(key_slot(keys.EMITTER.encode()))
    others = [server for server in cluster.servers if not server.ask("CLUSTER", "COUNTKEYSINSLOT", slot)]
    for server in others:
        server.pause()
    with pytest.raises(RedisError, match="cluster is down"):
        wait_until(lambda: client.set(keys.EMITTER, "x") is None, "it says that it is cut off")
    for server in others:
        server.resume()
    wait_until(cluster.well, "the cluster is well")
    assert client.client_id() != before


def test_the_stream_runs_on_a_cluster_and_finds_its_slot_again(
    cluster: Cluster, tmp_path: Path, triton: TritonProcess, program: Start
) -> None:
    """All keys lie in one slot; the slot moves to another node while events come."""
    stream = Stream(cluster.url, tmp_path, triton, program, rate=60)
    wait_until(stream.grows(), "the stream runs", 60)
    for _ in range(2):
        cluster.move(keys.EVENTS)
        wait_until(stream.grows(), "results are stored where it is now", 60)
    stream.all_recorded_once()
