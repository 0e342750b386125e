"""The emitter as a process, and its publisher, on a real Redis."""

import threading
from collections.abc import Callable
from itertools import islice
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prometheus_client import CollectorRegistry

from emitter.emission import Emission
from emitter.metrics import EmitterMetrics
from emitter.pacing import Pacing
from icestream import wire
from icestream.detector import nominal_icecube86
from icestream.service.logs import configure_logs
from icestream.sources.kaggle import open_folder, write_folder
from icestream.sources.replay import Replay
from icestream.sources.simulation.simulator import Simulation, simulated_events
from icestream.sources.source import Position
from icestream.streams import keys, publisher
from icestream.streams.connection import connect
from icestream.streams.publisher import ON_DISK_S, AnotherWriter, Backlog, Publisher, count_run
from icestream.streams.status import read_status
from tests.events import event, stored, truth
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import wait_until

Start = Callable[..., Program]


def emitted(redis: Any) -> list[tuple[int, int]]:
    found = [wire.decode_event(fields[wire.FIELD]) for _, fields in redis.xrange(keys.EVENTS)]
    return [(one.run_id, one.event_id) for one in found]


def test_a_write_whose_reply_was_lost_may_be_sent_again(redis: Any, redis_server: RedisProcess) -> None:
    publisher = Publisher(connect(redis_server.url), run_id=7)
    publisher.begin({})
    pairs = [(event(number), truth(7, number, 1.0, 1.0)) for number in range(5)]
    for _ in range(3):
        publisher.publish(0, pairs[:3], 1)
    publisher.publish(3, pairs[3:], 1)
    assert emitted(redis) == [(7, number) for number in range(5)]
    assert redis.xlen(keys.TRUTH) == 2  # one for each write
    assert publisher.position() == (5, Position(7, 4))


def test_the_latest_writer_of_a_run_is_its_only_one(redis: Any, redis_server: RedisProcess, program: Start) -> None:
    first = program("emitter", redis_url=redis_server.url, rate=50, run_id=9, seed=1)  # without an end
    wait_until(lambda: redis.xlen(keys.EVENTS) > 20, "some events")
    second = program("emitter", redis_url=redis_server.url, count=5000, rate="max", run_id=9, seed=1)
    assert first.process.wait(60) == 1
    assert second.process.wait(60) == 0
    assert "another emitter writes run 9 now; give another run id, or stop one of the two" in first.log
    assert "Traceback" not in first.log
    found = emitted(redis)
    assert len(found) == len(set(found)) == 5000


def test_after_a_lost_second_the_run_continues_where_redis_ends(
    redis: Any, redis_server: RedisProcess, program: Start
) -> None:
    emitter = program("emitter", redis_url=redis_server.url, count=1000, rate=300, run_id=9, seed=1)
    wait_until(lambda: redis.xlen(keys.EVENTS) > 100, "some events")
    with redis.pipeline() as pipe:  # Redis is as it was some writes ago
        [(_, fields)] = redis.xrange(keys.EVENTS, count=1, min=redis.xrange(keys.EVENTS, count=50)[-1][0])
        pipe.xtrim(keys.EVENTS, maxlen=0)
        one = wire.decode_event(fields[wire.FIELD])
        pipe.hset(keys.run(9), mapping={"emitted": 50, "run_id": 9, "event_id": one.event_id})
        pipe.execute()
    assert emitter.process.wait(60) == 0
    expected = [(9, event.event_id) for event, _ in islice(simulated_events(nominal_icecube86(), 1, 9), 1000)]
    assert emitted(redis) == expected[50:]


@pytest.mark.parametrize(
    ("on_disk_s", "fails_over"),
    [(inf, False), (0.0, True)],
    ids=["the first second", "whenever a replica that has nothing may have taken over"],
)
def test_what_redis_has_lost_is_emitted_again(
    redis: Any, redis_server: RedisProcess, monkeypatch: pytest.MonkeyPatch, on_disk_s: float, fails_over: bool
) -> None:
    monkeypatch.setattr(publisher, "ON_DISK_S", on_disk_s)  # however slow this machine is
    emission = Emission(
        Publisher(connect(redis_server.url), run_id=9, fails_over=fails_over),
        Pacing(100, np.random.default_rng(1)),
        metrics=EmitterMetrics(CollectorRegistry()),
        log=configure_logs("emitter"),
        stop=threading.Event(),
    )
    limits = {"limit": 500, "max_backlog": Backlog(10_000, 2**30)}
    running = threading.Thread(
        target=emission.run,
        args=(Simulation(nominal_icecube86(), 1), 9),
        kwargs={**limits, "description": {"seed": "1"}},
        daemon=True,
    )
    running.start()
    wait_until(lambda: redis.xlen(keys.EVENTS) > 10, "some events")
    redis.flushall()  # Redis is as it was before the emitter began
    running.join(60)
    expected = [(9, event.event_id) for event, _ in islice(simulated_events(nominal_icecube86(), 1, 9), 500)]
    assert emitted(redis) == expected
    assert redis.hget(keys.run(9), "seed") == b"1"
    assert count_run(redis, 9).forgotten == 0


def test_the_latest_writer_stays_it_where_redis_has_lost_that_it_began(redis: Any, redis_server: RedisProcess) -> None:
    first, second = (Publisher(connect(redis_server.url), run_id=7) for _ in range(2))
    first.begin({})
    first.publish(0, [(event(1), None)], 1)
    before = redis.dump(keys.run(7))
    second.begin({})
    redis.restore(keys.run(7), 0, before, replace=True)
    second.publish(1, [(event(2), None)], 1)
    with pytest.raises(AnotherWriter):
        first.publish(2, [(event(3), None)], 1)
    assert emitted(redis) == [(7, 1), (7, 2)]


def test_a_run_that_is_resumed_is_not_begun_again_when_all_keys_are_deleted(
    redis: Any, redis_server: RedisProcess
) -> None:
    first, second = (Publisher(connect(redis_server.url), run_id=7) for _ in range(2))
    first.begin({})
    first.publish(0, [(event(1), None)], 1)
    second.begin({})
    redis.flushall()
    second.publish(1, [(event(2), None)], 1)
    assert emitted(redis) == [(7, 2)]
    assert count_run(redis, 7).forgotten == 1


def test_events_from_before_all_keys_were_deleted_are_forgotten_not_lost(
    redis: Any, redis_server: RedisProcess, program: Start
) -> None:
    emitter = program("emitter", redis_url=redis_server.url, count=2000, rate=200, run_id=9, seed=1)
    wait_until(lambda: redis.xlen(keys.EVENTS) > 1.5 * ON_DISK_S * 200, "the beginning of the run is on the disk")
    redis.flushall()
    assert emitter.process.wait(60) == 0
    found = count_run(redis, 9)
    assert (found.emitted, found.emitted - found.forgotten) == (2000, len(emitted(redis)))
    assert found.forgotten > 50


def test_it_waits_when_the_stream_has_too_many_bytes(redis: Any, redis_server: RedisProcess, program: Start) -> None:
    emitter = program("emitter", redis_url=redis_server.url, count=5000, rate="max", max_backlog_mb=1)
    wait_until(lambda: emitter.metric("icestream_emitter_backpressure_seconds_total") > 0.3, "back-pressure")
    assert 2**20 <= redis.memory_usage(keys.EVENTS, samples=0) < 3 * 2**20


def test_a_slow_emitter_is_seen_to_live(redis: Any, redis_server: RedisProcess, program: Start) -> None:
    emitter = program("emitter", redis_url=redis_server.url, rate=0.001)
    wait_until(lambda: read_status(connect(redis_server.url)).emitters == 1, "it is alive, and has written nothing")
    assert redis.xlen(keys.EVENTS) <= 1
    emitter.kill()
    wait_until(lambda: read_status(connect(redis_server.url)).emitters == 0, "it is dead")


def test_an_event_without_truth_leaves_none(redis: Any, redis_server: RedisProcess) -> None:
    Publisher(connect(redis_server.url), run_id=7).publish(0, [(event(), None)], 1)
    assert redis.xlen(keys.TRUTH) == 0


def test_the_bridge_finds_no_truth_in_what_it_reads(redis: Any, redis_server: RedisProcess) -> None:
    Publisher(connect(redis_server.url), run_id=7).publish(0, [(event(), truth(7, 1, 1.0, 1.0))], 1)
    [(_, fields)] = redis.xrange(keys.EVENTS)
    assert list(fields) == [wire.FIELD]
    assert wire.decode_event(fields[wire.FIELD]).n_pulses == 20


def test_a_count_is_emitted_and_no_more(redis: Any, redis_server: RedisProcess, program: Start) -> None:
    emitter = program("emitter", redis_url=redis_server.url, count=150, rate="max", run_id=9, seed=1)
    assert emitter.process.wait(60) == 0
    expected = [(9, event.event_id) for event, _ in islice(simulated_events(nominal_icecube86(), 1, 9), 150)]
    assert emitted(redis) == expected


def test_a_killed_emitter_goes_on_where_it_was(redis: Any, redis_server: RedisProcess, program: Start) -> None:
    first = program("emitter", redis_url=redis_server.url, count=1500, rate=300, run_id=9, seed=1)
    wait_until(lambda: redis.xlen(keys.EVENTS) > 100, "some events")
    first.kill()
    assert redis.xlen(keys.EVENTS) < 1500
    second = program("emitter", redis_url=redis_server.url, count=1500, rate="max", run_id=9, seed=1)
    assert second.process.wait(60) == 0
    expected = [(9, event.event_id) for event, _ in islice(simulated_events(nominal_icecube86(), 1, 9), 1500)]
    assert emitted(redis) == expected


def test_it_waits_when_the_stream_is_full_and_trims_nothing(
    redis: Any, redis_server: RedisProcess, program: Start
) -> None:
    emitter = program("emitter", redis_url=redis_server.url, count=500, rate="max", max_backlog=100)
    wait_until(lambda: emitter.metric("icestream_emitter_backpressure_seconds_total") > 0.3, "back-pressure")
    full = redis.xlen(keys.EVENTS)
    assert 100 <= full < 170
    redis.xtrim(keys.EVENTS, maxlen=0)  # somebody has worked it off
    wait_until(lambda: redis.xlen(keys.EVENTS) >= 100, "more events")
    assert emitter.process.poll() is None


def test_it_survives_redis_going_away(own_redis: RedisProcess, program: Start) -> None:
    emitter = program("emitter", redis_url=own_redis.url, count=2000, rate=300, run_id=9, seed=1)
    wait_until(lambda: own_redis.client.xlen(keys.EVENTS) > 100, "some events")
    own_redis.kill()
    wait_until(lambda: emitter.metric("icestream_emitter_publish_failures_total") > 0, "a failed write")
    beat = emitter.metric("icestream_emitter_heartbeat_timestamp_seconds")
    wait_until(lambda: emitter.metric("icestream_emitter_heartbeat_timestamp_seconds") > beat, "a heartbeat meanwhile")
    own_redis.start()
    assert emitter.process.wait(60) == 0
    found = emitted(own_redis.client)
    assert len(found) == len(set(found)) == 2000


def test_sigterm_ends_it_with_status_0(redis: Any, redis_server: RedisProcess, program: Start) -> None:
    emitter = program("emitter", redis_url=redis_server.url)
    wait_until(lambda: redis.xlen(keys.EVENTS) > 5, "some events")
    assert emitter.stop() == 0


def test_each_pass_over_a_folder_is_a_run_of_its_own(tmp_path: Path) -> None:
    original = list(islice(simulated_events(nominal_icecube86(), 1, 1), 10))
    ids = [event.event_id for event, _ in original]
    write_folder(tmp_path, original)
    looped = [
        (event.run_id, event.event_id)
        for event, _ in islice(Replay(open_folder(tmp_path), loop=True).events(5, None), 25)
    ]
    assert looped == [(5, i) for i in ids] + [(6, i) for i in ids] + [(7, i) for i in ids[:5]]
    resumed = [
        (event.run_id, event.event_id)
        for event, _ in islice(Replay(open_folder(tmp_path), loop=True).events(5, Position(6, ids[7])), 4)
    ]
    assert resumed == [(6, ids[8]), (6, ids[9]), (7, ids[0]), (7, ids[1])]
    assert len(list(Replay(open_folder(tmp_path), loop=False).events(5, None))) == 10


def test_a_run_is_continued_only_by_its_own_source(
    redis: Any, redis_server: RedisProcess, program: Start, tmp_path: Path
) -> None:
    simulated = list(islice(simulated_events(nominal_icecube86(), seed=2, run_id=1), 30))
    write_folder(tmp_path / "one", simulated[:10])
    write_folder(tmp_path / "other", simulated[10:20])

    def replay(folder: str) -> Program:
        started = program(
            "emitter", redis_url=redis_server.url, source=f"kaggle:{tmp_path / folder}", rate="max", run_id=1
        )
        started.process.wait(60)
        return started

    assert replay("one").process.returncode == 0
    refused = replay("other")
    assert refused.process.returncode == 1
    assert "run 1 has 10 events of another source (train/batch_1.parquet" in refused.log
    assert "give another run id" in refused.log
    assert "Traceback" not in refused.log
    assert len(emitted(redis)) == 10
    write_folder(tmp_path / "more", simulated[20:])  # the first folder grows by a file
    (tmp_path / "more" / "train" / "batch_1.parquet").rename(tmp_path / "one" / "train" / "batch_2.parquet")
    assert replay("one").process.returncode == 0
    expected = [event.event_id for event, _ in simulated[:10] + simulated[20:]]
    assert [event_id for _, event_id in emitted(redis)] == expected


def test_a_broken_event_of_a_file_is_rejected_and_no_other(
    redis: Any, redis_server: RedisProcess, triton: TritonProcess, program: Start, tmp_path: Path
) -> None:
    write_folder(tmp_path, list(islice(simulated_events(nominal_icecube86(), seed=2, run_id=1), 20)))
    path = tmp_path / "train" / "batch_1.parquet"
    rows = pd.read_parquet(path)
    rows.loc[3, "charge"] = np.nan
    rows.to_parquet(path)
    program("bridge", redis_url=redis_server.url, triton_url=triton.url)
    emitter = program("emitter", redis_url=redis_server.url, source=f"kaggle:{tmp_path}", rate="max", run_id=1)
    assert emitter.process.wait(60) == 0
    wait_until(lambda: stored(redis) == 19, "all other results")
    [(_, fields)] = redis.xrange(keys.REJECTED)
    assert fields[b"reason"] == b"not_finite"
    assert count_run(redis, 1).rejected == 1


def test_a_simulation_resumes_behind_its_last_event() -> None:
    source = Simulation(nominal_icecube86(), seed=1)
    events = [event.event_id for event, _ in islice(source.events(1, None), 12)]
    assert [event.event_id for event, _ in islice(source.events(1, Position(1, events[4])), 7)] == events[5:]
