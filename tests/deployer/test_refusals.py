"""When a champion has refused too many events."""

import asyncio
from typing import Any

import pytest

from deployer.refusals import KEPT, LATEST, MOST, Refusals
from icestream.streams import keys
from icestream.streams.connection import connect_asyncio
from tests.servers import RedisProcess


def refuse(redis: Any, number: int, reason: str = "refused_by_model") -> None:
    for _ in range(number):
        redis.xadd(keys.REJECTED, {"e": b"an event", "reason": reason})


async def look(redis: Any, refusals: Refusals, answered: int = 0, refused: int = 0) -> str:
    redis.incrby(keys.STORED, answered)
    refuse(redis, refused)
    return await refusals.too_many("icemix")


@pytest.mark.parametrize(
    ("steps", "too_many"),
    [
        ([(0, MOST)], False),
        ([(0, MOST + 1)], True),
        ([(5000, 0), (5000, MOST + 1), (0, 0)], False),
        ([(LATEST, 8), (LATEST, 8), (LATEST, 8)], False),
        ([(LATEST // 2, 8), (LATEST // 2, 8)], True),
        ([(-(10**6), 0), (0, MOST), (0, 0)], False),
    ],
)
def test_more_than_one_in_a_hundred_of_the_latest(
    redis: Any, redis_server: RedisProcess, steps: list[tuple[int, int]], too_many: bool
) -> None:
    async def main() -> None:
        redis.set(keys.STORED, 10**7)
        refuse(redis, 100)  # before it looked for the first time
        client = connect_asyncio(redis_server.url)
        refusals = Refusals(client)
        assert not await look(redis, refusals)
        refuse(redis, 100, "undecodable")  # no model is to blame
        found = [await look(redis, refusals, *step) for step in steps]
        assert bool(found[-1]) is too_many, found
        for _ in range(100):
            await look(redis, refusals)
        assert len(refusals._looks) < 10
        assert len(refusals.payloads) <= KEPT
        assert not await refusals.too_many("another")
        await client.aclose()

    asyncio.run(main())
