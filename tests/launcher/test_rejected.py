"""`icestream rejected` on a real Redis and a real bridge."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from icestream import wire
from icestream.streams import keys
from tests.events import event, results
from tests.servers import Program, RedisProcess, TritonProcess
from tests.waiting import wait_until

Start = Callable[..., Program]


@pytest.fixture
def rejected(redis_server: RedisProcess) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "launcher", "rejected", "--redis-url", redis_server.url, *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    return run


def test_rejected_entries_are_listed_shown_replayed_once_and_dropped(
    redis: Any, redis_server: RedisProcess, triton: TritonProcess, program: Start, rejected: Any
) -> None:
    bridge = program("bridge", redis_url=redis_server.url, triton_url=triton.url)
    redis.xadd(keys.EVENTS, {wire.FIELD: b"good morning"})
    wait_until(lambda: redis.xlen(keys.REJECTED) == 1, "it is rejected")
    [(letter, _)] = redis.xrange(keys.REJECTED)
    redis.xadd(keys.REJECTED, {wire.FIELD: wire.encode_event(event(5), 1), "reason": "no_answer", "detail": "d"})
    assert len(rejected("list").stdout.splitlines()) == 2
    [line] = rejected("list", "--reason", "no_answer").stdout.splitlines()
    assert "7-5" in line
    shown = rejected("show", letter.decode()).stdout
    assert "undecodable" in shown
    assert b"good morning".hex(" ") in shown
    assert rejected("replay", "--reason", "no_answer").stdout == "replayed 1\n"
    wait_until(lambda: len(results(redis)) == 1, "the replayed event has a result")
    assert rejected("replay", "--reason", "no_answer").stdout == "replayed 0\n"
    assert rejected("drop", "--older-than", "3600").stdout == "dropped 0\n"
    assert rejected("drop", letter.decode()).stdout == "dropped 1\n"
    assert rejected("list").stdout == ""
    assert bridge.stop() == 0
    assert [one.event_id for one in results(redis)] == [5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["drop"], "drop what? Give ids, --reason, --older-than or --all"),
        (["show", "5-5"], "no rejected entry 5-5: icestream rejected list names those there are"),
        (["list", "--reason", "bad luck"], "invalid choice: 'bad luck'"),
        (["list", "--redis-url", "http://:secret@h"], "must begin with one of redis://"),
        (["list", "--older-than", "a while"], "'a while' is not a number of seconds"),
    ],
)
def test_a_slip_is_answered_with_a_sentence(rejected: Any, arguments: list[str], said: str) -> None:
    done = rejected(*arguments)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_redis_that_is_away_is_named() -> None:
    command = [sys.executable, "-m", "launcher", "rejected", "list", "--redis-url", "redis://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Redis does not answer" in done.stderr
    assert "Traceback" not in done.stderr
