"""Tasks of an event loop."""

import asyncio
from collections.abc import Iterable
from typing import Any

AGAIN_S = 1.0


async def cancel(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks and wait until all have ended.

    A cancellation that arrives just when a wait inside a library ends may be lost there (CPython issue 86296, of wait_for), so
    tasks that go on are cancelled again.
    """
    all_tasks = list(tasks)
    pending = set(all_tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_S)
    await asyncio.gather(
        *all_tasks, return_exceptions=True
    )  # so that none of their exceptions counts as never retrieved
