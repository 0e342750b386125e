"""What the display makes of the stream, by a clock of its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry

from display.follower import SPAN_S, StreamFollower
from display.metrics import DisplayMetrics
from icestream import wire
from icestream.streams import keys
from icestream.streams.connection import connect
from tests.events import encoded, made_result
from tests.servers import RedisProcess
from tests.waiting import wait_until

HOUR_NS = 3_600_000_000_000


class Clock:
    """Stands still until it is moved."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def following(server: RedisProcess, clock: Clock) -> Iterator[StreamFollower]:
    follower, stop = StreamFollower(connect(server.url), DisplayMetrics(CollectorRegistry()), clock), threading.Event()
    thread = threading.Thread(target=follower.follow, args=(stop,))
    thread.start()
    try:
        yield follower
    finally:
        stop.set()
        thread.join()


def test_figures_go_on_when_the_time_of_day_is_set_back(redis: Any, redis_server: RedisProcess) -> None:
    clock, stored_ns = Clock(), 10**18

    def store(number: int, at_ns: int, latency_ms: int) -> None:
        result = made_result(number, emitted_ns=at_ns - latency_ms * 10**6, stored_ns=at_ns)
        redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(result)})

    def latency_is(ms: int) -> bool:
        clock.now_s += 0.01  # so that the status is summed up again
        found = follower.status.latency_p99_s
        return found is not None and abs(found - ms / 1000) < 1e-4

    with following(redis_server, clock) as follower:
        store(1, stored_ns, 100)
        clock.now_s += 2
        wait_until(lambda: latency_is(100), "the first result counts")
        clock.now_s += SPAN_S + 2
        store(2, stored_ns - HOUR_NS, 300)
        wait_until(lambda: latency_is(300), "so does one of an hour before")
        clock.now_s += SPAN_S + 2
        wait_until(lambda: follower.status.latency_p99_s is None, "nothing is recent any more")


def test_a_value_that_is_too_large_is_not_read_whole(redis: Any, redis_server: RedisProcess) -> None:
    with following(redis_server, Clock()) as follower:
        for stream in (keys.DIRECTIONS, keys.TRUTH):
            redis.xadd(stream, {wire.FIELD: bytes(5 * 2**20)})
        redis.xadd(keys.SHOWN, {wire.FIELD: bytes(5 * 2**20), "result": encoded(made_result(1))})
        redis.xadd(keys.DIRECTIONS, {wire.FIELD: encoded(made_result(1))})
        wait_until(lambda: follower.find((7, 1))[0], "the next good result is there")
        assert follower.find((7, 1))[1] is None
        assert all(len(payload) <= keys.SHOWN_BYTES for payload in follower._shown.values())
