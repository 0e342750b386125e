"""Tasks are ended, even if one of them loses a cancellation."""

import asyncio
from contextlib import suppress

import pytest

from icestream import tasks


def test_a_task_that_loses_a_cancellation_is_cancelled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "AGAIN_S", 0.01)

    async def loses_one() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        await asyncio.sleep(3600)

    async def fails() -> None:
        raise ValueError

    async def use() -> None:
        started = [asyncio.create_task(loses_one()), asyncio.create_task(fails())]
        await asyncio.sleep(0)
        await asyncio.wait_for(tasks.cancel(started), 60)
        assert started[0].cancelled()
        assert isinstance(started[1].exception(), ValueError)
        await tasks.cancel([])

    asyncio.run(use())
