"""The judge on a real Redis: pairs are counted once, whatever dies, and its troubles are its own."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog import get_logger

from icestream import wire
from icestream.streams import keys
from icestream.streams.challenge import read_comparison
from icestream.streams.connection import connect_asyncio
from icestream.streams.serving import Served, Serving, replace_serving
from recorder.collector import Collector
from recorder.judge import Judge
from recorder.metrics import RecorderMetrics
from tests.events import encoded, made_result
from tests.recorder.streams import collector, put_results
from tests.servers import RedisProcess

CHALLENGER = "icemix-v2"


def serve(server: RedisProcess, epoch: int = 0, share: float = 1.0) -> None:
    async def replace() -> None:
        client = connect_asyncio(server.url)
        state = Serving(
            champion=Served(version="1", name="icemix"),
            challenger=Served(version="2", name=CHALLENGER),
            share=share,
        )
        assert await replace_serving(client, epoch, state)
        await client.aclose()

    asyncio.run(replace())


def put_challenges(redis: Any, *numbers: int, model: str = CHALLENGER, epoch: int = 1) -> None:
    for number in numbers:
        result = made_result(number, model=model, direction=(0.6, 0.0, 0.8))
        redis.xadd(keys.challenge(epoch).directions, {wire.FIELD: encoded(result)})


def judge(redis: Any) -> Judge:
    return Judge(redis, RecorderMetrics(CollectorRegistry()), get_logger())


def record(one: Collector, judged: Judge) -> None:
    while one.read(None):
        pass
    judged.judge(one.close_window())


def test_answers_are_paired_in_whatever_order_they_come(redis: Any, redis_server: RedisProcess, tmp_path: Path) -> None:
    serve(redis_server)
    one, judged = collector(redis, tmp_path), judge(redis)
    put_results(redis, *range(5))
    put_results(redis, 5, known=False)
    record(one, judged)
    put_challenges(redis, *range(4), 7, 8)
    put_challenges(redis, 3, model="of an earlier challenge")
    redis.xadd(keys.challenge(1).directions, {wire.FIELD: b"noise"})
    judged.judge(None)
    found = read_comparison(redis, 1)
    assert found is not None
    assert (found.pairs, found.truths) == (4, 4)
    assert redis.xlen(keys.challenge(1).directions) == 1  # the last that was counted
    put_challenges(redis, 5)
    put_results(redis, 7)
    record(one, judged)
    found = read_comparison(redis, 1)
    assert found is not None
    assert (found.pairs, found.truths) == (6, 5)
    mean, _ = found.difference
    assert mean == pytest.approx((found.challenger.opening_angle_deg - found.champion.opening_angle_deg) / 5)


def test_a_restart_counts_nothing_twice_and_another_state_begins_anew(
    redis: Any, redis_server: RedisProcess, tmp_path: Path
) -> None:
    serve(redis_server)
    one = collector(redis, tmp_path)
    put_results(redis, *range(5))
    put_challenges(redis, *range(5))
    record(one, judge(redis))
    put_results(redis, *range(5, 8))
    put_challenges(redis, *range(5, 8))
    second = judge(redis)
    record(one, second)
    found = read_comparison(redis, 1)
    assert found is not None
    assert found.pairs == 8
    serve(redis_server, 1)
    put_results(redis, 9)
    put_challenges(redis, 9, epoch=2)
    record(one, second)
    found = read_comparison(redis, 2)
    assert found is not None
    assert found.pairs == 1


def test_its_troubles_hold_up_no_recording(redis: Any, redis_server: RedisProcess, tmp_path: Path) -> None:
    serve(redis_server)
    redis.set(keys.challenge(1).directions, "of another type")
    one, judged = collector(redis, tmp_path), judge(redis)
    put_results(redis, 1)
    record(one, judged)
    assert one.read(None) == 0
    redis.delete(keys.challenge(1).directions)
    put_results(redis, 2)
    put_challenges(redis, 2)
    record(one, judged)
    found = read_comparison(redis, 1)
    assert found is not None
    assert found.pairs == 1
