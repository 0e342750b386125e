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
        self._pulses = 0  # of those
        self._ended = self._closed = False
        self._error: Exception | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._fill, args=(events,), daemon=True).start()

    def _fill(self, events: Iterator[EventAndTruth]) -> None:
        error = None
        try:
            for pair in events:
                with self._changed:
                    self._changed.wait_for(self._has_room)
                    if self._closed:
                        return
                    self._ready.append(pair)
                    self._pulses += pair[0].n_pulses
                    self._changed.notify_all()
        except Exception as raised:
            error = raised
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._closed or (len(self._ready) < PREFETCHED_EVENTS and self._pulses < PREFETCHED_PULSES)

    def wait(self, within_s: float) -> bool:
        """Whether an event, or the end, is ready within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._ready) or self._ended, within_s)

    def take(self, at_most: int) -> list[EventAndTruth]:
        """Events that are ready; none at the end of the source."""
        with self._changed:
            taken = [self._ready.popleft() for _ in range(min(at_most, len(self._ready)))]
            self._pulses -= sum(event.n_pulses for event, _ in taken)
            self._changed.notify_all()
            if self._error and at_most and not taken:
                raise self._error
            return taken

    def close(self) -> None:
        """Let the thread end, and what is ready go."""
        with self._changed:
            self._closed = True
            self._ready.clear()
            self._changed.notify_all()
