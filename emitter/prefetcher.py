"""Prepares events in a thread, so that the chunks of the simulation do not show as gaps in the stream."""

import queue
import threading
from collections import deque
from collections.abc import Iterator

from icestream.sources.source import EventAndTruth

PREFETCHED_EVENTS = 1024


class Prefetcher:
    """The events of a source, as far as they are ready; an error of the source is raised where its event would have been."""

    def __init__(self, events: Iterator[EventAndTruth]):
        self._ready: queue.Queue[EventAndTruth | Exception | None] = queue.Queue(PREFETCHED_EVENTS)  # None: the end
        self._next: deque[EventAndTruth | Exception | None] = deque()  # taken from the queue
        threading.Thread(target=self._fill, args=(events,), daemon=True).start()

    def _fill(self, events: Iterator[EventAndTruth]) -> None:
        try:
            for pair in events:
                self._ready.put(pair)
            self._ready.put(None)
        except Exception as error:
            self._ready.put(error)

    def wait(self, within_s: float) -> bool:
        """Whether an event, or the end, is ready within so many seconds."""
        if not self._next:
            try:
                self._next.append(self._ready.get(block=within_s > 0, timeout=within_s))
            except queue.Empty:
                return False
        return True

    def take(self, at_most: int) -> list[EventAndTruth]:
        """Events that are ready; none at the end of the source."""
        taken: list[EventAndTruth] = []
        while len(taken) < at_most and self.wait(0.0):
            item = self._next[0]
            if item is None or (isinstance(item, Exception) and taken):
                return taken
            if isinstance(item, Exception):
                raise item
            taken.append(item)
            self._next.popleft()
        return taken
