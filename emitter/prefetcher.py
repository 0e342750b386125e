"""Prepares events in a thread, so that the chunks of the simulation do not show as gaps in the stream."""

import queue
import threading
from collections.abc import Iterator

from icestream.sources.source import EventAndTruth

PREFETCHED_EVENTS = 1024


class Prefetcher(Iterator[EventAndTruth]):
    """Iterates over the events of a source; an error of the source is raised where its event would have been."""

    def __init__(self, events: Iterator[EventAndTruth]):
        self._ready: queue.Queue[EventAndTruth | BaseException] = queue.Queue(PREFETCHED_EVENTS)
        threading.Thread(target=self._fill, args=(events,), daemon=True).start()
        self._next = self._ready.get()  # the first event is there when this returns

    def _fill(self, events: Iterator[EventAndTruth]) -> None:
        try:
            for pair in events:
                self._ready.put(pair)
            self._ready.put(StopIteration())
        except Exception as error:
            self._ready.put(error)

    def __next__(self) -> EventAndTruth:
        item = self._next
        if isinstance(item, BaseException):
            raise item
        self._next = self._ready.get()
        return item
