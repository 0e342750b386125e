import asyncio

from hypothesis import given
from hypothesis import strategies as st

from icestream.inference.gate import Gate


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_a_request_that_wants_to_be_alone_is_alone_and_none_is_forgotten(wishes: list[bool]) -> None:
    async def use() -> None:
        gate, under_way, finished, seen = Gate(), 0, 0, []

        async def request(alone: bool) -> None:
            nonlocal under_way, finished
            async with gate.alone() if alone else gate.together():
                under_way += 1
                await asyncio.sleep(0)
                seen.append((alone, under_way))
                await asyncio.sleep(0)
                under_way -= 1
            finished += 1

        await asyncio.gather(*(request(alone) for alone in wishes))
        assert finished == len(wishes)
        assert all(together == 1 for alone, together in seen if alone)

    asyncio.run(use())


def test_a_request_that_is_cancelled_while_it_waits_holds_up_no_other() -> None:
    async def use() -> None:
        gate = Gate()
        async with gate.together():
            waiting = asyncio.create_task(gate.alone().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(5), gate.together():
            pass
        async with asyncio.timeout(5), gate.alone():
            pass

    asyncio.run(use())
