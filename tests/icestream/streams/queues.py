"""An event queue for tests."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from icestream.result import Result, pack
from icestream.streams.connection import connect_asyncio
from icestream.streams.event_queue import EventQueue, Outcome
from tests.servers import RedisProcess


def with_client(server: RedisProcess, use: Callable[[Any], Awaitable[None]]) -> None:
    """Run a coroutine with a client of its own."""

    async def main() -> None:
        client = connect_asyncio(server.url)
        try:
            await queue_of(client).join()
            await use(client)
        finally:
            await client.aclose()

    asyncio.run(main())


def queue_of(client: Any) -> EventQueue:
    return EventQueue(client, "one", 10)


async def complete(queue: EventQueue, pairs: Sequence[tuple[bytes, Result]]) -> list[Outcome]:
    """Store results, each with the id of its entry."""
    return await queue.complete([entry_id for entry_id, _ in pairs], pack([result for _, result in pairs]))
