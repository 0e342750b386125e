"""Whether the champion refuses too many events. Those that end Triton, or get no answer, are none of it: the event may be to blame."""

from collections import deque

from icestream.streams.connection import AsyncRedis
from icestream.streams.rejected import NewRejections
from icestream.streams.results import count_stored_asyncio

LATEST = 1000  # events
MOST = LATEST // 100  # of them that may be refused
KEPT = 5  # of the refused ones
REASON = "refused_by_model"


class Refusals:
    """How many of the latest events were rejected because of the model. Counts since it first saw the champion."""

    def __init__(self, redis: AsyncRedis):
        self._redis, self._champion = redis, ""
        self._rejections = NewRejections(redis)
        self._refused = 0
        self.payloads = deque[bytes](maxlen=KEPT)  # of the latest refused events that were kept whole
        self._looks = deque[tuple[int, int]]()  # (results ever stored, refused so far), rising

    async def too_many(self, champion: str) -> str:
        """Look, and say in words if it has refused too many; otherwise empty. Raises RedisError."""
        rejected, stored = await self._rejections.read(), await count_stored_asyncio(self._redis)
        if champion != self._champion or (self._looks and stored < self._looks[-1][0]):  # or Redis has lost something
            self._champion, self._refused, rejected = champion, 0, []
            self._looks.clear()
            self.payloads.clear()
        refused = [payload for reason, payload in rejected if reason == REASON]
        self._refused += len(refused)
        self.payloads += filter(None, refused)
        now = (stored, self._refused)
        if not self._looks or now != self._looks[-1]:
            self._looks.append(now)
        while len(self._looks) > 2 and stored - self._looks[1][0] >= LATEST:
            self._looks.popleft()
        answered, lost = stored - self._looks[0][0], self._refused - self._looks[0][1]
        if lost > MOST and lost * LATEST > MOST * (answered + lost):
            return f"of the latest {answered + lost} events it refused {lost}"
        return ""
