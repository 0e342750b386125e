"""The bridge, and Tritons that fail, lie, hang, are slow or are away."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bridge.inference import MAX_FAILURES, MAX_LOST
from icestream import wire
from icestream.streams import keys
from tests.bridge.outcome import finished, rejected
from tests.events import event, put, results, stored
from tests.models import FAULTS
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import ROOT, wait_until
from tritonserver.serving import serving

Start = Callable[..., Program]


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


@pytest.fixture
def picky(tmp_path: Path) -> Iterator[TritonProcess]:
    """A Triton of the picky model alone, that a test may kill often."""
    process = TritonProcess(tmp_path, only="picky")
    yield process
    process.close()


def test_an_event_that_kills_triton_is_rejected_and_no_other(redis: Any, bridge: Start, picky: TritonProcess) -> None:
    put(redis, *(event(number, charge=19.0 if number == 7 else 1.0) for number in range(40)))
    process, deaths = bridge(model="picky", triton_url=picky.url), 0
    while not finished(redis, 40)():
        wait_until(lambda: not picky.alive or finished(redis, 40)(), "Triton dies, or all are dealt with")
        if not picky.alive:
            deaths += 1
            picky.kill()
            picky.start()
    assert rejected(redis) == {7: b"no_answer"}
    assert sorted(one.event_id for one in results(redis)) == [number for number in range(40) if number != 7]
    assert MAX_LOST < deaths <= MAX_LOST + 7  # with others, alone, in each half, by itself
    assert process.metric("icestream_bridge_in_flight_requests") == 0


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
    assert (redis.xlen(keys.EVENTS), stored(redis), redis.xlen(keys.REJECTED)) == (1, 0, 0)
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
    wait_until(lambda: stored(redis) > 50, "results of version 1")
    with another_model(triton.repository, "swapped"):
        triton.kill()
        triton.start()
        wait_until(lambda: process.metric("icestream_bridge_tritons", state="wrong") == 1, "the other model is seen")
        assert "icemix is not what was exported" in process.log
        before = stored(redis)
        wait_until(lambda: redis.xlen(keys.EVENTS) > 100, "events wait")
        assert stored(redis) == before
    triton.kill()
    triton.start()
    wait_until(lambda: stored(redis) == 600, "all results")
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
    redis.delete(keys.DIRECTIONS, keys.DONE, keys.STORED)
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


@pytest.mark.parametrize("charge", ["13", "17", "23"], ids=["it refuses them", "it fails", "it hangs"])
def test_events_at_which_one_of_two_fails_are_answered_by_the_other(
    redis: Any, bridge: Start, triton: TritonProcess, tmp_path: Path, charge: str
) -> None:
    """It gives its known answers, but the one that hangs once it was asked for such an event."""
    repository = tmp_path / "sick"
    shutil.copytree(triton.repository / "picky", repository / "picky")
    program = repository / "picky" / "1" / "model.py"
    sick = program.read_text().replace("6.0 *", "600.0 *").replace(f"charge == {charge}", "charge == 2")
    program.write_text(sick)
    with serving(repository, tmp_path) as other:
        process = bridge(triton_url=f"ipv4:{triton.url},{other}", model="picky", request_timeout_s=5)
        wait_until(lambda: process.metric("icestream_bridge_tritons", state="proved") == 2, "both are proved")
        put(redis, *(event(number, charge=2.0) for number in range(300)))
        wait_until(finished(redis, 300), "all results")
    assert sorted(one.event_id for one in results(redis)) == list(range(300))
    assert redis.xlen(keys.REJECTED) == 0


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
        wait_until(lambda: stored(redis) == 4, "the results of the short ones")
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


def test_a_model_that_is_not_served_is_named(bridge: Start) -> None:
    process = bridge(model="icemixx")
    wait_until(lambda: "serves no model icemixx" in process.log, "it says what it waits for")
    assert process.stop() == 0
    assert "Traceback" not in process.log


def test_triton_may_be_killed_under_load(redis: Any, bridge: Start, triton: TritonProcess) -> None:
    put(redis, *(event(number, pulses=60) for number in range(1200)))
    process = bridge()
    wait_until(lambda: stored(redis) > 200, "some results")
    triton.kill()
    try:
        wait_until(lambda: process.metric("icestream_bridge_retries_total") > 3, "the bridge notices")
        before = stored(redis)
        assert before < 1200
        assert redis.xlen(keys.EVENTS) + before == 1200
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


def test_a_bridge_that_comes_before_triton_waits_for_it(redis: Any, bridge: Start, triton: TritonProcess) -> None:
    put(redis, event(1))
    triton.kill()
    try:
        process = bridge()
        wait_until(lambda: "not every Triton is asked" in process.log, "the bridge says that it waits")
    finally:
        triton.start()
    wait_until(finished(redis, 1), "the answer", 60)


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
