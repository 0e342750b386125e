"""The bridge as a process, between a real Redis and a real Triton."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from msgspec.structs import replace

from bridge.suspects import MAX_ALONE
from icestream import wire
from icestream.detector import nominal_icecube86
from icestream.direction import opening_angle
from icestream.sources.simulation.simulator import simulated_events
from icestream.streams import keys
from icestream.tensors import pad
from tests.bridge.crashing_bridge import POISON
from tests.bridge.outcome import finished
from tests.events import HOSTILE, event, put, results, stored
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until

Start = Callable[..., Program]


def consumer(redis: Any, name: bytes) -> dict[str, Any]:
    """A consumer of the bridges' group."""
    found = {one["name"]: one for one in redis.xinfo_consumers(keys.EVENTS, keys.BRIDGE_GROUP)}
    return dict(found[name])


def test_directions_are_those_of_the_network_whatever_shares_their_batch(redis: Any, bridge: Start) -> None:
    """The answers of the whole way equal ONNX Runtime's on each event alone, without any padding."""
    events = [one for one, _ in islice(simulated_events(nominal_icecube86(), 3, 1), 150)]
    put(redis, *events)
    bridge()
    wait_until(finished(redis, len(events)), "all results")
    session = onnxruntime.InferenceSession(ROOT / "model_repository" / "icemix" / "1" / "model.onnx")
    found = {one.event_id: one for one in results(redis)}
    assert len(found) == len(events)
    for one in events:
        direction, kappa, radius = session.run(None, pad([one], min(one.n_pulses, 128)))
        answer = found[one.event_id]
        assert np.degrees(opening_angle(direction[0], answer.direction)) < 0.01
        assert answer.kappa == pytest.approx(float(kappa[0, 0]), rel=1e-3)
        assert (answer.radius_50_deg, answer.radius_90_deg) == pytest.approx((radius[0, 0], radius[0, 2]), rel=1e-3)
        assert (answer.n_pulses, answer.n_used) == (one.n_pulses, min(one.n_pulses, 128))


def test_a_redelivered_event_gives_the_same_answer(redis: Any, bridge: Start) -> None:
    long = event(1, pulses=900)
    put(redis, long)
    bridge()
    wait_until(finished(redis, 1), "the first answer")
    redis.delete(keys.DONE)  # so that it is not taken for a duplicate
    put(redis, long)
    wait_until(finished(redis, 2), "the second answer")
    one, other = results(redis)
    assert one.direction == pytest.approx(other.direction, abs=1e-6)


def test_hostile_entries_are_rejected_one_by_one_and_good_ones_get_through(redis: Any, bridge: Start) -> None:
    for number, (data, _) in enumerate(HOSTILE.values()):
        put(redis, event(number))
        redis.xadd(keys.EVENTS, {wire.FIELD: data})
    redis.xadd(keys.EVENTS, {"another": "field"})
    process = bridge()
    wait_until(finished(redis, 2 * len(HOSTILE) + 1), "all are dealt with")
    assert sorted(one.event_id for one in results(redis)) == list(range(len(HOSTILE)))
    rejected = [fields for _, fields in redis.xrange(keys.REJECTED)]
    expected = [(data[: keys.REJECTED_PAYLOAD_BYTES], reason.encode()) for data, reason in HOSTILE.values()] + [
        (b"", b"undecodable")
    ]
    assert Counter((fields[b"e"], fields[b"reason"]) for fields in rejected) == Counter(expected)
    assert all(fields[b"tries"] == b"1" for fields in rejected)
    wait_until(lambda: process.metric("icestream_bridge_rejected_total") == len(rejected), "the metric says so")


def test_the_largest_events_fit_into_little_memory(redis: Any, bridge: Start) -> None:
    """compose.yaml gives a bridge 512 MB. Small events come first, so that nothing can be learned from them."""
    largest = event(0, pulses=200_000)
    put(redis, *(event(number) for number in range(300)))
    for number in range(300, 500):
        put(redis, replace(largest, event_id=number))
    process = bridge()
    wait_until(finished(redis, 500), "all results", 240)
    assert redis.xlen(keys.REJECTED) == 0
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    [peak_kb] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert int(peak_kb) < 400_000


def test_a_lone_event_is_sent_without_waiting_for_others(redis: Any, bridge: Start) -> None:
    process = bridge()
    for number in range(1, 12):
        put(redis, event(number))
        wait_until(finished(redis, number), "an answer")
    assert process.metric("icestream_bridge_batch_size_events_count") == 11


def test_batches_fill_under_backlog(redis: Any, bridge: Start, triton: TritonProcess) -> None:
    put(redis, *(event(number, pulses=20) for number in range(320)))
    executions = triton.metric("nv_inference_exec_count", "icemix")
    process = bridge(max_batch=32)
    wait_until(finished(redis, 320), "all results")
    assert process.metric("icestream_bridge_batch_size_events_sum") == 320
    assert process.metric("icestream_bridge_batch_size_events_count") <= 14
    assert triton.metric("nv_inference_exec_count", "icemix") - executions <= 14
    assert process.metric("icestream_bridge_pulses_total") == 320 * 20
    assert process.metric("icestream_bridge_padded_pulses_total") == 320 * 32


def test_pulses_outside_the_readout_are_left_out_and_counted(redis: Any, bridge: Start) -> None:
    clean = event(1, pulses=30)
    times = np.concatenate([clean.time_ns, np.array([1e7, -5e4], np.float32)])
    noisy = replace(
        clean,
        event_id=2,
        time_ns=times,
        sensor_id=np.append(clean.sensor_id, clean.sensor_id[:2]),
        charge_pe=np.append(clean.charge_pe, clean.charge_pe[:2]),
        auxiliary=np.append(clean.auxiliary, clean.auxiliary[:2]),
    )
    put(redis, clean, noisy)
    process = bridge()
    wait_until(finished(redis, 2), "both results")
    one, other = sorted(results(redis), key=lambda result: result.event_id)
    assert one.direction == pytest.approx(other.direction, abs=1e-5)
    assert other.n_pulses == 30
    wait_until(lambda: process.metric("icestream_bridge_dropped_pulses_total") == 2, "the metric says so")


def test_sigterm_is_heard_while_redis_is_away(bridge: Start) -> None:
    process = bridge(redis_url="redis://127.0.0.1:1", drain_s=1)
    wait_until(lambda: process.metric("icestream_bridge_retries_total") > 0, "the bridge asks for Redis")
    assert process.stop(10) == 0


def test_what_a_dead_bridge_held_is_taken_over_under_backlog(redis: Any, bridge: Start) -> None:
    put(redis, *(event(number, pulses=120) for number in range(1200)))
    redis.xgroup_create(keys.EVENTS, keys.BRIDGE_GROUP, id="0")
    redis.xreadgroup(keys.BRIDGE_GROUP, "dead", {keys.EVENTS: ">"}, count=200)
    wait_until(lambda: consumer(redis, b"dead")["idle"] > 1000, "the dead bridge's lease is over")
    bridge(max_held=64)
    wait_until(
        lambda: (
            not any(
                one["name"] == b"dead" and one["pending"]
                for one in redis.xinfo_consumers(keys.EVENTS, keys.BRIDGE_GROUP)
            )
        ),
        "they are claimed",
    )
    assert redis.xlen(keys.EVENTS) > 200  # and the backlog is still there


def test_two_bridges_share_the_work(redis: Any, bridge: Start) -> None:
    both = [bridge(max_held=32), bridge(max_held=32)]
    wait_until(lambda: all("the model is proved" in one.log for one in both), "both are ready")
    put(redis, *(event(number) for number in range(400)))
    wait_until(finished(redis, 400), "all results")
    assert sorted(one.event_id for one in results(redis)) == list(range(400))
    counts = [one.metric("icestream_bridge_event_latency_seconds_count") for one in both]
    assert sum(counts) == 400
    assert min(counts) > 0


def test_sigterm_finishes_what_is_in_flight(redis: Any, bridge: Start) -> None:
    put(redis, *(event(number, pulses=120) for number in range(600)))
    process = bridge()
    wait_until(lambda: stored(redis) > 50, "some results")
    assert process.stop() == 0
    assert redis.xpending(keys.EVENTS, keys.BRIDGE_GROUP)["pending"] == 0
    assert stored(redis) + redis.xlen(keys.EVENTS) == 600
    assert redis.xinfo_consumers(keys.EVENTS, keys.BRIDGE_GROUP) == []


def test_killed_bridges_lose_and_double_nothing(redis: Any, bridge: Start) -> None:
    put(redis, *(event(number, pulses=60) for number in range(1500)))
    for share in (200, 600, 1000):
        process = bridge()
        wait_until(lambda least=share: stored(redis) >= least, f"{share} results")
        process.kill()
    assert redis.xpending(keys.EVENTS, keys.BRIDGE_GROUP)["pending"] > 0
    last = bridge()
    wait_until(finished(redis, 1500), "all results")
    assert sorted(one.event_id for one in results(redis)) == list(range(1500))
    assert last.metric("icestream_bridge_claimed_events_total") > 0


def test_an_event_that_crashes_its_bridges_is_rejected_and_no_other(
    redis: Any, redis_server: RedisProcess, triton: TritonProcess
) -> None:
    put(redis, *(event(number) for number in range(300)))
    environment = {
        **os.environ, "ICESTREAM_BRIDGE_REDIS_URL": redis_server.url, "ICESTREAM_BRIDGE_TRITON_URL": triton.url,
        "ICESTREAM_BRIDGE_CLAIM_IDLE_S": "0.5", "ICESTREAM_BRIDGE_METRICS_PORT": "0",
    }  # fmt: skip
    command, deaths = [sys.executable, "-m", "tests.bridge.crashing_bridge"], 0
    while not finished(redis, 300)():
        assert deaths <= 1 + MAX_ALONE
        with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                wait_until(lambda: process.poll() is not None or finished(redis, 300)(), "a crash or the end", 300)
                deaths += process.poll() == 9
            finally:
                process.terminate()
    assert deaths == 1 + MAX_ALONE
    [(_, fields)] = redis.xrange(keys.REJECTED)
    assert (wire.decode_event(fields[b"e"]).event_id, fields[b"reason"]) == (POISON, b"too_many_tries")
    assert sorted(one.event_id for one in results(redis)) == [number for number in range(300) if number != POISON]


def test_an_entry_that_outlives_many_bridges_is_put_aside(redis: Any, bridge: Start) -> None:
    put(redis, event(1), event(2))
    redis.xgroup_create(keys.EVENTS, keys.BRIDGE_GROUP, id="0")
    redis.xreadgroup(keys.BRIDGE_GROUP, "dead", {keys.EVENTS: ">"}, count=1)
    [(entry_id, _)] = redis.xrange(keys.EVENTS, count=1)
    redis.xclaim(keys.EVENTS, keys.BRIDGE_GROUP, "dead", 0, [entry_id], retrycount=10, idle=60_000)
    bridge()
    wait_until(finished(redis, 2), "both are dealt with")
    [(_, fields)] = redis.xrange(keys.REJECTED)
    assert (fields[b"reason"], fields[b"tries"]) == (b"too_many_tries", b"11")
    assert [one.event_id for one in results(redis)] == [2]


def test_redis_may_be_killed_under_load(own_redis: RedisProcess, bridge: Start) -> None:
    redis = own_redis.client
    put(redis, *(event(number, pulses=60) for number in range(1200)))
    bridge(redis_url=own_redis.url)
    for least in (200, 500):
        wait_until(lambda wanted=least: stored(redis) > wanted, "some results")
        own_redis.kill()
        own_redis.start()
    wait_until(finished(redis, 1200), "all results", 60)
    assert sorted(one.event_id for one in results(redis)) == list(range(1200))


def test_a_bridge_with_nothing_to_do_is_seen_to_live(redis: Any, bridge: Start) -> None:
    put(redis, event(1))
    bridge()
    wait_until(finished(redis, 1), "the answer")
    [process] = redis.xinfo_consumers(keys.EVENTS, keys.BRIDGE_GROUP)
    idle = process["idle"]

    def shows_life() -> bool:
        nonlocal idle
        before, idle = idle, consumer(redis, process["name"])["idle"]
        return bool(idle < before)

    for _ in range(2):
        wait_until(shows_life, "its idle time begins anew although nothing is read")
