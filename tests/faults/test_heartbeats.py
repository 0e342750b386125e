"""A heartbeat means progress, or a wait that has an end and a name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icestream.streams import keys
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import wait_until

Start = Callable[..., Program]
FAILURES = {
    "emitter": "icestream_emitter_publish_failures_total",
    "bridge": "icestream_bridge_retries_total",
    "recorder": "icestream_recorder_collect_failures_total",
    "display": "icestream_display_read_failures_total",
}


@pytest.fixture
def start(program: Start, redis_server: RedisProcess, triton: TritonProcess, tmp_path: Path) -> Start:
    def start_one(name: str) -> Program:
        own: dict[str, dict[str, object]] = {
            "emitter": {"rate": 20},
            "bridge": {"triton_url": triton.url},
            "recorder": {"mlflow_url": "http://127.0.0.1:9", "spool_dir": tmp_path / "spool", "window_s": 0.2},
            "display": {"triton_url": triton.url, "port": 0},
        }
        process = program(name, redis_url=redis_server.url, **own[name])
        wait_until(lambda: beat(process, name) > 0, "its first heartbeat")
        return process

    return start_one


def beat(process: Program, name: str) -> float:
    """Unix time of its last heartbeat."""
    return process.metric(f"icestream_{name}_heartbeat_timestamp_seconds")


def waits_for(process: Program, name: str, what: str) -> bool:
    return process.metric(f"icestream_{name}_waiting_for", what=what) == 1


@pytest.mark.parametrize("name", FAILURES)
def test_a_process_that_waits_for_redis_says_so_and_lives(
    redis: Any, redis_server: RedisProcess, start: Start, name: str
) -> None:
    process = start(name)
    redis_server.kill()
    try:
        wait_until(lambda: waits_for(process, name, "redis"), "it waits for Redis")
        before = beat(process, name)
        wait_until(lambda: beat(process, name) > before, "its heart beats")
    finally:
        redis_server.start()
    wait_until(lambda: not waits_for(process, name, "redis"), "it goes on")


@pytest.mark.parametrize(
    ("name", "key"),
    [("emitter", keys.EVENTS), ("bridge", keys.EVENTS), ("recorder", keys.DIRECTIONS), ("display", keys.DIRECTIONS)],
)
def test_a_process_that_repeats_an_error_has_no_heartbeat(redis: Any, start: Start, name: str, key: str) -> None:
    process = start(name)
    failures = process.metric(FAILURES[name])
    redis.delete(key)
    redis.set(key, "no stream")
    wait_until(lambda: process.metric(FAILURES[name]) > failures, "the first failure")
    before = beat(process, name)
    wait_until(lambda: process.metric(FAILURES[name]) > failures + 3, "more failures")
    assert beat(process, name) == before
    redis.delete(key)
    wait_until(lambda: beat(process, name) > before, "its heart beats again")


def test_a_bridge_that_waits_for_triton_says_so_and_lives(redis: Any, start: Start, triton: TritonProcess) -> None:
    process = start("bridge")
    wait_until(lambda: process.metric("icestream_bridge_tritons", state="proved") == 1, "the model is proved")
    triton.pause()
    try:
        wait_until(lambda: waits_for(process, "bridge", "triton"), "it waits for Triton")
        before = beat(process, "bridge")
        wait_until(lambda: beat(process, "bridge") > before, "its heart beats")
    finally:
        triton.resume()
    wait_until(lambda: not waits_for(process, "bridge", "triton"), "it goes on")
