"""After any single hostile input, the next good event still gets its result: on the running processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from redis import Redis

from icestream import wire
from icestream.event import InvalidEvent
from icestream.streams import keys
from icestream.streams.publisher import Publisher
from icestream.streams.results import payloads
from tests.events import encoded, event, made_result, put, truth
from tests.faults.corpus import DENIED, EVENTS, OF_ANOTHER_TYPE, REST, RESULTS, TRUTHS
from tests.servers import Display, Program, RedisProcess, TritonProcess
from tests.waiting import wait_until

NUMBERS = count(1)
GOOD = {"sensor_id": [10, 11, 12], "time_ns": [9000, 9100, 9200.5], "charge_pe": [1, 2, 0.5], "auxiliary": [False, False, True]}  # fmt: skip


@dataclass
class Running:
    """A stream that runs through all tests of this file, whatever they do to it."""

    redis: Any
    url: str
    bridge: Program
    recorder: Program
    display: Display

    def next_good_event_is_reconstructed(self) -> None:
        number = next(NUMBERS)
        put(self.redis, event(number))
        wait_until(lambda: self.display.ask(f"/v1/events/7-{number}")[0] == 200, "the next good event has its result")

    def alive(self) -> bool:
        return all(program.process.poll() is None for program in (self.bridge, self.recorder, self.display.process))


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisProcess, shared_triton: TritonProcess
) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("hostile")
    shared_redis.client.flushall()
    url = shared_redis.url
    Publisher(shared_redis.client, 7).begin({})  # the run of all events here
    bridge = Program("bridge", folder, redis_url=url, triton_url=shared_triton.url, claim_idle_s=1, show="true")
    recorder = Program(
        "recorder", folder, redis_url=url, mlflow_url="http://127.0.0.1:9", spool_dir=folder / "spool", window_s=0.2
    )
    display = Display(folder, redis_url=url, triton_url=shared_triton.url)
    wait_until(lambda: display.ask("/health")[1]["triton"], "Triton has proved its model to the display")
    yield Running(shared_redis.client, url, bridge, recorder, display)
    for program in (bridge, recorder, display.process):
        assert "Traceback" not in program.log
        program.close()


def test_the_corpus_is_large() -> None:
    assert len(EVENTS) + len(RESULTS) + len(TRUTHS) + len(REST) + len(OF_ANOTHER_TYPE) + len(DENIED) >= 120


@pytest.mark.parametrize("name", EVENTS)
def test_a_hostile_event_is_rejected_and_harms_no_other(running: Running, name: str) -> None:
    with pytest.raises(InvalidEvent):
        wire.decode_event(EVENTS[name]).within_readout()
    before = running.redis.xlen(keys.REJECTED)
    running.redis.xadd(keys.EVENTS, {wire.FIELD: EVENTS[name]})
    running.next_good_event_is_reconstructed()
    assert running.redis.xlen(keys.REJECTED) == before + 1
    assert running.alive()


@pytest.mark.parametrize("name", RESULTS)
def test_a_hostile_result_is_passed_over(running: Running, name: str) -> None:
    with pytest.raises(InvalidEvent):
        wire.decode_results(RESULTS[name])
    before = running.recorder.metric("icestream_recorder_undecodable_entries_total")
    running.redis.xadd(keys.DIRECTIONS, {wire.FIELD: RESULTS[name]})
    running.next_good_event_is_reconstructed()
    undecodable = "icestream_recorder_undecodable_entries_total"
    wait_until(lambda: running.recorder.metric(undecodable) == before + 1, "the recorder has passed it over")
    assert running.alive()


@pytest.mark.parametrize("name", TRUTHS)
def test_a_hostile_truth_is_passed_over(running: Running, name: str) -> None:
    with pytest.raises(InvalidEvent):
        wire.decode_truths(TRUTHS[name])
    running.redis.xadd(keys.TRUTH, {wire.FIELD: TRUTHS[name]})
    running.next_good_event_is_reconstructed()
    assert running.alive()


@pytest.mark.parametrize("name", REST)
def test_a_hostile_request_is_answered_with_a_reason(running: Running, name: str) -> None:
    status, body, _ = running.display.ask("/v1/reconstruct", REST[name])
    assert status < 500
    answers = body["results"] if status == 200 else [body]  # one of several events has an error of its own
    assert all(answer["error"]["reason"] for answer in answers)
    assert running.display.ask("/v1/reconstruct", GOOD)[0] == 200


@pytest.mark.parametrize("name", OF_ANOTHER_TYPE)
def test_a_key_of_another_type_loses_no_event(running: Running, name: str) -> None:
    redis, (key, kind) = running.redis, OF_ANOTHER_TYPE[name]
    running.next_good_event_is_reconstructed()  # so that nothing is in the stream
    kept = redis.dump(key)
    with redis.pipeline() as pipe:  # in one step: a process may make it again meanwhile
        pipe.delete(key)
        {"string": lambda: pipe.set(key, "x"), "list": lambda: pipe.rpush(key, "x"), "hash": lambda: pipe.hset(key, "x", "x")}[kind]()  # fmt: skip
        pipe.execute()
    number = next(NUMBERS)
    retries = running.bridge.metric("icestream_bridge_retries_total", target="redis")
    if key != keys.EVENTS:
        put(redis, event(number))
    if key in (keys.EVENTS, keys.DIRECTIONS, keys.DONE, keys.STORED, keys.run(7)):
        failed = lambda: running.bridge.metric("icestream_bridge_retries_total", target="redis") > retries  # noqa: E731
        wait_until(failed, "the bridge has met it")
    redis.delete(key)
    if kept and key != keys.EVENTS:
        redis.restore(key, 0, kept, replace=True)  # a process may have written it meanwhile
    if key != keys.EVENTS:
        wait_until(lambda: running.display.ask(f"/v1/events/7-{number}")[0] == 200, "the event has its result")
    running.next_good_event_is_reconstructed()
    assert running.alive()


@pytest.mark.parametrize("command", DENIED)
def test_a_command_that_the_user_may_not_use_loses_no_event(running: Running, command: str) -> None:
    redis, number = running.redis, next(NUMBERS)
    running.next_good_event_is_reconstructed()
    retries = running.bridge.metric("icestream_bridge_retries_total", target="redis")
    redis.execute_command("ACL", "SETUSER", "hostile", "on", "nopass", "~*", "&*", "+@all")
    redis.execute_command("ACL", "SETUSER", "default", f"-{command}")
    try:
        with Redis.from_url(running.url, username="hostile", password="any") as other:
            other.xadd(keys.EVENTS, {wire.FIELD: wire.encode_event(event(number), 1)})
        failed = lambda: running.bridge.metric("icestream_bridge_retries_total", target="redis") > retries  # noqa: E731
        wait_until(failed, "the bridge has met it")
    finally:
        with Redis.from_url(running.url, username="hostile", password="any") as other:
            other.execute_command("ACL", "SETUSER", "default", "+@all")
            other.execute_command("ACL", "DELUSER", "hostile")
    wait_until(lambda: running.display.ask(f"/v1/events/7-{number}")[0] == 200, "the event has its result")
    running.next_good_event_is_reconstructed()
    wait_until(lambda: redis.xlen(keys.EVENTS) == 0, "nothing is left in the stream")
    stored = [
        found
        for payload in payloads(redis, keys.DIRECTIONS)
        if is_result(payload)
        for found in wire.decode_results(payload)
    ]
    assert [result.event_id for result in stored if result.run_id == 7].count(number) == 1
    assert running.alive()


def is_result(payload: bytes) -> bool:
    try:
        return bool(wire.decode_results(payload))
    except InvalidEvent:
        return False


def test_results_and_truths_that_are_good_are_recorded_after_all_that(running: Running) -> None:
    before = running.recorder.metric("icestream_recorder_events_total", truth="known")
    number = next(NUMBERS)
    running.redis.xadd(keys.TRUTH, {wire.FIELD: wire.encode_truths([truth(8, number, 1.0, 0.5)])})
    running.redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(made_result(number, run_id=8))})
    known = "icestream_recorder_events_total"
    wait_until(lambda: running.recorder.metric(known, truth="known") == before + 1, "it is recorded with its truth")
