"""Prepares events in a thread, so that the chunks of the simulation do not show as gaps in the stream."""

import threading
from collections import deque
from collections.abc import Iterator

from icestream.sources.source import EventAndTruth

PREFETCHED_EVENTS = 1024
PREFETCHED_PULSES = 2_000_000  # some 22 MB; the event that exceeds it is still taken


class Prefetcher:
    """The events of a source, as far as they are ready; an error of the source is raised where its event would have been."""

    def __init__(self, events: Iterator[EventAndTruth]):
        self._ready: deque[EventAndTruth] = deque()
        self._made = self._taken = 0  # pulses; each is written by one thread
        self._ended = self._closed = self._awaited = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._fill, args=(events,), daemon=True).start()

    def _fill(self, events: Iterator[EventAndTruth]) -> None:
        error = None
        try:
            for pair in events:
                if not self._has_room():
                    with self._changed:
                        self._changed.wait_for(self._has_room)
                if self._closed:
                    return
                self._made += pair[0].n_pulses
                self._ready.append(pair)
                if self._awaited:  # it says so before it looks: it has seen this event, or is seen here
                    self._notify()
        except Exception as raised:
            error = raised
        self._error = error
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _has_room(self) -> bool:
        pulses = self._made - self._taken
        return self._closed or (len(self._ready) < PREFETCHED_EVENTS and pulses < PREFETCHED_PULSES)

    def wait(self, within_s: float) -> bool:
        """Whether an event, or the end, is ready within so many seconds."""
        if self._ready:
            return True
        with self._changed:
            self._awaited = True
            found = self._changed.wait_for(lambda: bool(self._ready) or self._ended, within_s)
            self._awaited = False
            return found

    def take(self, at_most: int) -> list[EventAndTruth]:
        """Events that are ready; none at the end of the source."""
        ended = self._ended
        taken = [self._ready.popleft() for _ in range(min(at_most, len(self._ready)))]
        if taken:
            self._taken += sum(event.n_pulses for event, _ in taken)
            self._notify()
        elif ended and self._error and at_most:
            raise self._error
        return taken

    def close(self) -> None:
        """Let the thread end, and what is ready go."""
        self._closed = True
        self._ready.clear()
        self._notify()
