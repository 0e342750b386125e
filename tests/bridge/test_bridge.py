"""The bridge as a process, between a real Redis and a real Triton."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from bridge.inference import MAX_FAILURES, MAX_LOST
from bridge.suspects import MAX_ALONE
from icestream import wire
from icestream.detector import nominal_icecube86
from icestream.direction import opening_angle
from icestream.sources.simulation.simulator import simulated_events
from icestream.streams import keys
from icestream.tensors import pad
from tests.bridge.crashing_bridge import POISON
from tests.events import HOSTILE, event, put, results
from tests.models import FAULTS
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until
from tritonserver.serving import serving

Start = Callable[..., Program]


@pytest.fixture
def bridge(redis_server: RedisProcess, triton: TritonProcess, program: Start) -> Start:
    def start(**settings: object) -> Program:
        given = {"redis_url": redis_server.url, "triton_url": triton.url, "claim_idle_s": 1, **settings}
        return program("bridge", **given)

    return start


def finished(redis: Any, number: int) -> Callable[[], bool]:
    return lambda: redis.xlen(keys.DIRECTIONS) + redis.xlen(keys.REJECTED) >= number and redis.xlen(keys.EVENTS) == 0


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


def test_an_event_that_triton_refuses_is_found_alone(redis: Any, bridge: Start) -> None:
    events = [event(number, charge=13.0 if number in (5, 20) else 1.0) for number in range(40)]
    put(redis, *events)
    process = bridge(model="picky", max_batch=32)
    wait_until(finished(redis, 40), "all are dealt with")
    assert sorted(one.event_id for one in results(redis)) == [n for n in range(40) if n not in (5, 20)]
    rejected = [fields for _, fields in redis.xrange(keys.REJECTED)]
    assert sorted(wire.decode_event(fields[b"e"]).event_id for fields in rejected) == [5, 20]
    assert {fields[b"reason"] for fields in rejected} == {b"refused_by_model"}
    assert all(b"13 is refused" in fields[b"detail"] for fields in rejected)
    assert process.metric("icestream_bridge_split_requests_total") >= 2


def test_an_event_at_which_triton_fails_is_tried_again_and_then_rejected(redis: Any, bridge: Start) -> None:
    put(redis, event(1, charge=17.0), event(2))
    process = bridge(model="picky")
    wait_until(finished(redis, 2), "both are dealt with")
    assert [one.event_id for one in results(redis)] == [2]
    assert process.metric("icestream_bridge_retries_total") >= 2


def rejected(redis: Any) -> dict[int, bytes]:
    """event_id → reason of the rejected entries."""
    found = [fields for _, fields in redis.xrange(keys.REJECTED)]
    return {wire.decode_event(fields[b"e"]).event_id: fields[b"reason"] for fields in found}


def test_an_event_that_kills_triton_is_rejected_and_no_other(redis: Any, bridge: Start, triton: TritonProcess) -> None:
    put(redis, *(event(number, charge=19.0 if number == 7 else 1.0) for number in range(40)))
    process, deaths = bridge(model="picky"), 0
    while not finished(redis, 40)():
        wait_until(lambda: not triton.alive or finished(redis, 40)(), "Triton dies, or all are dealt with")
        if not triton.alive:
            deaths += 1
            triton.kill()
            triton.start()
    assert rejected(redis) == {7: b"no_answer"}
    assert sorted(one.event_id for one in results(redis)) == [number for number in range(40) if number != 7]
    assert MAX_LOST < deaths <= MAX_LOST + 7  # with others, alone, in each half, by itself
    assert process.metric("icestream_bridge_in_flight_requests") == 0


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


def test_an_event_that_takes_too_long_is_rejected_and_no_other(redis: Any, bridge: Start) -> None:
    put(redis, *(event(number, charge=23.0 if number == 3 else 1.0) for number in range(12)))
    bridge(model="picky", request_timeout_s=2)
    wait_until(finished(redis, 12), "all are dealt with", 240)
    assert rejected(redis) == {3: b"no_answer"}
    assert sorted(one.event_id for one in results(redis)) == [number for number in range(12) if number != 3]


def test_a_slow_model_gets_smaller_batches_and_loses_nothing(redis: Any, bridge: Start) -> None:
    put(redis, *(event(number, charge=29.0) for number in range(80)))
    bridge(model="picky", request_timeout_s=2)  # 32 events take 3.2 s
    wait_until(finished(redis, 80), "all results", 240)
    assert rejected(redis) == {}
    assert len(results(redis)) == 80


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


def test_a_model_of_another_kind_is_refused_in_words(bridge: Start) -> None:
    process = bridge(model="other")
    wait_until(lambda: "output kappa is ('FP32', [-1, 2]), expected ('FP32', [-1, 1])" in process.log, "it says why")
    assert process.metric("icestream_bridge_tritons", state="wrong") == 1
    assert process.stop() == 0
    assert "Traceback" not in process.log


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_does_not_give_its_known_answers_is_refused_in_words(
    redis: Any, bridge: Start, fault: str
) -> None:
    put(redis, event(1))
    process = bridge(model=fault)
    reason = (
        f"model {fault} does not answer a known event: the answer has numbers that are not finite"
        if fault == "nan"
        else f"model {fault} is not what was exported: a known event of"
    )
    wait_until(lambda: reason in process.log, "it says why")
    assert process.metric("icestream_bridge_tritons", state="wrong") == 1
    assert process.stop() == 0
    assert (redis.xlen(keys.EVENTS), redis.xlen(keys.DIRECTIONS), redis.xlen(keys.REJECTED)) == (1, 0, 0)
    assert "Traceback" not in process.log


@contextmanager
def another_model(repository: Path, fault: str) -> Iterator[None]:
    """Beside version 1 of icemix a version 2 that is wrong in this way."""
    shutil.copytree(repository / fault / "1", repository / "icemix" / "2")
    yield
    shutil.rmtree(repository / "icemix" / "2")


def test_no_result_is_of_another_model_that_appears_while_the_stream_runs(
    redis: Any, redis_server: RedisProcess, bridge: Start, triton: TritonProcess, program: Start
) -> None:
    process = bridge()
    program("emitter", redis_url=redis_server.url, rate=50, count=600, run_id=9)
    wait_until(lambda: redis.xlen(keys.DIRECTIONS) > 50, "results of version 1")
    with another_model(triton.repository, "swapped"):
        triton.kill()
        triton.start()
        wait_until(lambda: process.metric("icestream_bridge_tritons", state="wrong") == 1, "the other model is seen")
        assert "icemix is not what was exported" in process.log
        stored = redis.xlen(keys.DIRECTIONS)
        wait_until(lambda: redis.xlen(keys.EVENTS) > 100, "events wait")
        assert redis.xlen(keys.DIRECTIONS) == stored
    triton.kill()
    triton.start()
    wait_until(lambda: redis.xlen(keys.DIRECTIONS) == 600, "all results")
    assert {(one.model, one.model_version) for one in results(redis)} == {("icemix", "1")}
    assert all("sha256:" in one.checkpoint for one in results(redis))
    assert redis.xlen(keys.REJECTED) == 0


def test_a_wrong_triton_of_two_is_never_asked(redis: Any, bridge: Start, triton: TritonProcess, tmp_path: Path) -> None:
    repository = tmp_path / "wrong"
    shutil.copytree(triton.repository / "swapped", repository / "icemix")
    config = (repository / "icemix" / "config.pbtxt").read_text()
    (repository / "icemix" / "config.pbtxt").write_text(config.replace('name: "swapped"', 'name: "icemix"'))
    with serving(repository, tmp_path) as other:
        process = bridge(triton_url=f"ipv4:{triton.url},{other}")
        put(redis, *(event(number) for number in range(100)))
        wait_until(finished(redis, 100), "all results")
        states = [process.metric("icestream_bridge_tritons", state=state) for state in ("proved", "away", "wrong")]
        assert states == [1, 0, 1]
    right = {one.event_id: one.direction for one in results(redis)}
    redis.delete(keys.DIRECTIONS, keys.DONE)
    process.stop()
    bridge()
    put(redis, *(event(number) for number in range(100)))
    wait_until(finished(redis, 100), "the same results of the right one alone")
    for one in results(redis):
        assert one.direction == pytest.approx(right[one.event_id], abs=1e-4)


def test_a_triton_of_two_that_hangs_is_left_out_until_it_responds(
    redis: Any, bridge: Start, triton: TritonProcess, tmp_path: Path
) -> None:
    with serving(ROOT / "model_repository", tmp_path) as other:
        process = bridge(triton_url=f"ipv4:{triton.url},{other}")
        put(redis, *(event(number) for number in range(200)))
        wait_until(finished(redis, 200), "all results")
        triton.pause()
        try:
            put(redis, *(event(number) for number in range(200, 400)))
            wait_until(finished(redis, 400), "all results although one hangs", 40)
            assert process.metric("icestream_bridge_tritons", state="away") == 1
        finally:
            triton.resume()
        wait_until(lambda: process.metric("icestream_bridge_tritons", state="proved") == 2, "it is asked again")
    assert sorted(one.event_id for one in results(redis)) == list(range(400))


def test_a_triton_that_fails_at_every_event_of_its_length_makes_those_wait(
    redis: Any, bridge: Start, triton: TritonProcess
) -> None:
    """As when another program takes the memory of its card: no event is to blame."""
    long = [event(number, pulses=100) for number in range(4)]
    full = triton.repository / "picky" / "1" / "full"
    full.touch()
    try:
        process = bridge(model="picky", max_batch=2)
        put(redis, *long, *(event(number) for number in range(4, 8)))
        retries = "icestream_bridge_retries_total"
        wait_until(lambda: redis.xlen(keys.DIRECTIONS) == 4, "the results of the short ones")
        wait_until(lambda: process.metric(retries) > 2 * MAX_FAILURES, "more failures than one event may have", 120)
        assert redis.xlen(keys.REJECTED) == 0
        assert process.metric("icestream_bridge_tritons", state="proved") == 1
        full.unlink()
        wait_until(finished(redis, 8), "all results")
    finally:
        full.unlink(missing_ok=True)
    assert sorted(one.event_id for one in results(redis)) == list(range(8))


def test_two_bridges_take_turns_at_asking_alone(redis: Any, bridge: Start) -> None:
    """An event that takes too long in one bridge is not held against the events that another bridge asks for alone."""
    for _ in range(2):
        bridge(model="picky", request_timeout_s=2, max_held=4, max_batch=1)
    put(redis, *(event(number, charge=23.0 if number in (0, 4) else 1.0) for number in range(16)))
    wait_until(finished(redis, 16), "all are dealt with", 400)
    assert rejected(redis) == {0: b"no_answer", 4: b"no_answer"}
    assert sorted(one.event_id for one in results(redis)) == [number for number in range(16) if number not in (0, 4)]


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


def test_a_model_that_is_not_served_is_named(bridge: Start) -> None:
    process = bridge(model="icemixx")
    wait_until(lambda: "serves no model icemixx" in process.log, "it says what it waits for")
    assert process.stop() == 0
    assert "Traceback" not in process.log


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
    wait_until(lambda: redis.xlen(keys.DIRECTIONS) > 50, "some results")
    assert process.stop() == 0
    assert redis.xpending(keys.EVENTS, keys.BRIDGE_GROUP)["pending"] == 0
    assert redis.xlen(keys.DIRECTIONS) + redis.xlen(keys.EVENTS) == 600
    assert redis.xinfo_consumers(keys.EVENTS, keys.BRIDGE_GROUP) == []


def test_killed_bridges_lose_and_double_nothing(redis: Any, bridge: Start) -> None:
    put(redis, *(event(number, pulses=60) for number in range(1500)))
    for share in (200, 600, 1000):
        process = bridge()
        wait_until(lambda least=share: redis.xlen(keys.DIRECTIONS) >= least, f"{share} results")
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


def test_triton_may_be_killed_under_load(redis: Any, bridge: Start, triton: TritonProcess) -> None:
    put(redis, *(event(number, pulses=60) for number in range(1200)))
    process = bridge()
    wait_until(lambda: redis.xlen(keys.DIRECTIONS) > 200, "some results")
    triton.kill()
    try:
        wait_until(lambda: process.metric("icestream_bridge_retries_total") > 3, "the bridge notices")
        stored = redis.xlen(keys.DIRECTIONS)
        assert stored < 1200
        assert redis.xlen(keys.EVENTS) + stored == 1200
    finally:
        triton.start()
    wait_until(finished(redis, 1200), "all results", 60)
    assert sorted(one.event_id for one in results(redis)) == list(range(1200))
    assert redis.xlen(keys.REJECTED) == 0


def test_a_triton_that_is_sick_makes_events_wait_rather_than_be_rejected(
    redis: Any, bridge: Start, triton: TritonProcess
) -> None:
    process = bridge()
    wait_until(lambda: "the model is proved" in process.log, "the bridge has found its model")
    triton.kill_backends()
    put(redis, event(1), event(2))
    try:
        retries = "icestream_bridge_retries_total"
        wait_until(lambda: process.metric(retries) > 2 * MAX_FAILURES, "more tries in vain than two events have", 120)
    finally:
        triton.kill()
        triton.start()
    wait_until(finished(redis, 2), "all results", 60)
    assert len(results(redis)) == 2


def test_redis_may_be_killed_under_load(own_redis: RedisProcess, bridge: Start) -> None:
    redis = own_redis.client
    put(redis, *(event(number, pulses=60) for number in range(1200)))
    bridge(redis_url=own_redis.url)
    for least in (200, 500):
        wait_until(lambda wanted=least: redis.xlen(keys.DIRECTIONS) > wanted, "some results")
        own_redis.kill()
        own_redis.start()
    wait_until(finished(redis, 1200), "all results", 60)
    assert sorted(one.event_id for one in results(redis)) == list(range(1200))


def test_a_bridge_that_comes_before_triton_waits_for_it(redis: Any, bridge: Start, triton: TritonProcess) -> None:
    put(redis, event(1))
    triton.kill()
    try:
        process = bridge()
        wait_until(lambda: "not every Triton is asked" in process.log, "the bridge says that it waits")
    finally:
        triton.start()
    wait_until(finished(redis, 1), "the answer", 60)


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


def test_two_tritons_share_the_work_and_one_alone_carries_on(
    redis: Any, bridge: Start, triton: TritonProcess, tmp_path: Path
) -> None:
    with serving(ROOT / "model_repository", tmp_path) as other:
        process = bridge(triton_url=f"ipv4:{triton.url},{other}")
        wait_until(lambda: "the model is proved" in process.log, "the bridge has found its model")
        before = triton.metric("nv_inference_request_success", "icemix")
        put(redis, *(event(number) for number in range(200)))
        wait_until(finished(redis, 200), "all results")
        own = triton.metric("nv_inference_request_success", "icemix") - before
        requests = process.metric("icestream_bridge_batch_size_events_count")
        assert 0 < own < requests
    put(redis, *(event(number) for number in range(200, 400)))
    wait_until(finished(redis, 400), "all results of one Triton alone")
    assert sorted(one.event_id for one in results(redis)) == list(range(400))
