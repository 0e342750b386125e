"""Whether the champion refuses too many events."""

from collections import deque

from icestream.event import REASONS_OF_MODEL
from icestream.streams.connection import AsyncRedis
from icestream.streams.rejected import RejectedReasons
from icestream.streams.results import count_stored_asyncio

LATEST = 1000  # events
MOST = LATEST // 100  # of them that may be refused


class Refusals:
    """How many of the latest events were rejected because of the model. Counts since it first saw the champion."""

    def __init__(self, redis: AsyncRedis):
        self._redis, self._champion = redis, ""
        self._reasons = RejectedReasons(redis)
        self._refused = 0
        self._looks = deque[tuple[int, int]]()  # (results ever stored, refused so far)

    async def too_many(self, champion: str) -> str:
        """Look, and say in words if it has refused too many; otherwise empty. Raises RedisError."""
        reasons = await self._reasons.new()
        if champion != self._champion:
            self._champion, self._refused = champion, 0
            self._looks.clear()
            reasons = []
        self._refused += sum(reason in REASONS_OF_MODEL for reason in reasons)
        self._looks.append((await count_stored_asyncio(self._redis), self._refused))
        stored, refused = self._looks[-1]
        while len(self._looks) > 2 and stored - self._looks[1][0] >= LATEST:
            self._looks.popleft()
        stored, refused = stored - self._looks[0][0], refused - self._looks[0][1]
        if refused > MOST and refused * LATEST > MOST * (stored + refused):
            return f"of the latest {stored + refused} events it refused {refused}"
        return ""
