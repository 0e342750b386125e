"""Tasks of an event loop."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

AGAIN_S = 1.0
T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """The result of a call that blocks. A process that ends does not wait for it, as it would for `asyncio.to_thread`."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: Any) -> None:
        if not done.done():  # nobody may wait any more
            set_it(value)

    def run() -> None:
        try:
            outcome: tuple[Callable[[Any], None], Any] = (done.set_result, call())
        except BaseException as error:
            outcome = (done.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, daemon=True).start()
    return await done


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
