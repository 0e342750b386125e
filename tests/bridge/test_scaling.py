"""What an autoscaler relies on: the length of the stream is the events without a result, and bridges come and go under load."""

import math
from typing import Any

from icestream.streams import keys
from icestream.streams.publisher import count_run
from tests.bridge.test_triton import Start
from tests.events import results, stored
from tests.servers import Program, RedisProcess
from tests.waiting import wait_until

TARGET, MOST = 400, 3  # events in the stream for each bridge


def test_from_one_bridge_to_three_and_back_nothing_is_lost_or_doubled(
    redis: Any, redis_server: RedisProcess, bridge: Start, program: Start
) -> None:
    bridges: list[Program] = [bridge(max_held=256)]
    numbers = [1]

    def scale() -> None:
        """As the autoscaler does, without its patience."""
        wanted = min(MOST, max(1, math.ceil(redis.xlen(keys.EVENTS) / TARGET)))
        while len(bridges) < wanted:
            bridges.append(bridge(max_held=256))
        while len(bridges) > wanted:
            assert bridges.pop(0).stop() == 0  # the oldest, in the midst of its work
        if numbers[-1] != len(bridges):
            numbers.append(len(bridges))

    emitter = program("emitter", redis_url=redis_server.url, rate="max", count=4000, run_id=3, max_backlog=2000)

    def all_answered() -> bool:
        scale()
        return stored(redis) == 4000

    wait_until(all_answered, "all events have results", 300)
    emitter.process.wait(30)
    wait_until(lambda: redis.xlen(keys.EVENTS) == 0, "the stream is as long as what is left to do", 30)
    scale()
    assert MOST in numbers
    assert numbers[-1] == 1
    assert count_run(redis, 3).emitted == 4000
    found = [one.event_id for one in results(redis)]
    assert len(found) == len(set(found)) == 4000
    assert redis.xlen(keys.REJECTED) == 0
