"""The emitter's loop: take the events that are due and write them; wait while the stream is full or Redis is away."""

import threading
import time
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TypeVar

from emitter.metrics import EmitterMetrics
from emitter.pacing import Pacing
from emitter.prefetcher import Prefetcher
from icestream.service.logs import Log
from icestream.service.retry import Stopped, retry
from icestream.service.tracing import Tracing
from icestream.sources.source import EventAndTruth, Source
from icestream.streams.connection import RedisError, is_away
from icestream.streams.publisher import Backlog, PositionLost, Publisher

TICK_S = 0.02  # events due within one tick are written together
FULL_WAIT_S = 0.05

BLOCK_S = 0.5
SHOWN_S = 2.0  # between two signs of life
MEASURED_S = 1.0  # the stream is measured so often at least
PULSE_BYTES = 11  # of a pulse in the stream

T = TypeVar("T")


class _Room:
    """Whether the stream has room for more events, in entries and in bytes.

    Between two measurements the bytes are those that this emitter has written since.
    """

    def __init__(self, limit: Backlog, measure: Callable[[], Backlog]):
        self._limit, self._measure = limit, measure
        self._measured_s = 0.0
        self._entries = self._size = 0

    def left(self) -> bool:
        if not self._fits() or time.monotonic() - self._measured_s > MEASURED_S:
            found = self._measure()
            self._entries, self._size, self._measured_s = found.entries, found.size, time.monotonic()
        return self._fits()

    def written(self, entries: int, pulses: int) -> None:
        """Events with so many pulses were written, and the stream has so many entries now."""
        self._entries = entries
        self._size += PULSE_BYTES * pulses

    def _fits(self) -> bool:
        return self._entries < self._limit.entries and self._size < self._limit.size


class Emission:
    """One run of the emitter.

    Args:
        stop: set from outside to end after the current write.
        tracing: of what was written.
    """

    def __init__(
        self,
        publisher: Publisher,
        pacing: Pacing,
        *,
        metrics: EmitterMetrics,
        log: Log,
        stop: threading.Event,
        tracing: Tracing | None = None,
    ):
        self._tracing = tracing
        self._publisher, self._pacing, self._metrics, self._log, self._stop = publisher, pacing, metrics, log, stop

    def run(
        self, source: Source, run_id: int, *, limit: int | None, max_backlog: Backlog, description: Mapping[str, str]
    ) -> None:
        """Emit until the source ends, the run has `limit` events, or a stop is requested.

        Args:
            max_backlog: at which the emitter waits.
            description: of the run, for readers of its results.

        Raises:
            AnotherWriter: another emitter writes this run now.
            AnotherSource: the run was begun with another source.
            SourceError: the source cannot be read.
            UnsuitableRedis: Redis would lose what is written.
        """
        try:
            self._metrics.beat()
            for warning in self._retry(self._publisher.check_server):
                self._log.warning(warning)
            self._retry(lambda: self._publisher.begin(description, source.contents))
            while True:
                try:
                    return self._run(source, run_id, limit, max_backlog)
                except PositionLost as error:
                    self._log.warning(
                        "Redis lost its last writes: events are emitted again from there", error=str(error)
                    )
                    self._retry(lambda: self._publisher.begin_if_lost(description, source.contents))
        except Stopped:
            self._log.info("stopped")

    def _run(self, source: Source, run_id: int, limit: int | None, max_backlog: Backlog) -> None:
        emitted, position = self._retry(self._publisher.position)
        self._log.info("emitting", run_id=run_id, already_emitted=emitted, limit=limit)
        remaining = None if limit is None else max(limit - emitted, 0)
        events = Prefetcher(islice(source.events(run_id, position), remaining))
        try:
            self._emit(events, run_id, emitted, max_backlog)
        finally:
            events.close()
            if source.left_out:
                self._log.warning("pulses that are of no DOM of IceCube-86 are left out", pulses=source.left_out)
            if source.joined:
                self._log.warning(
                    "events have pulses in several files, which are taken for one event", events=source.joined
                )

    def _emit(self, events: Prefetcher, run_id: int, emitted: int, max_backlog: Backlog) -> None:
        self._wait_for(events)  # before the schedule begins
        room = _Room(max_backlog, lambda: self._retry(self._publisher.backlog))
        self._pacing.start()
        shown_s = 0.0
        while not self._stop.is_set():
            if time.monotonic() - shown_s > SHOWN_S:
                self._retry(self._publisher.show_alive)
                shown_s = time.monotonic()
            if not room.left():
                self._metrics.beat("room in the stream")
                self._stop.wait(FULL_WAIT_S)
                self._metrics.waited(FULL_WAIT_S)
                continue
            self._metrics.beat()
            due = self._pacing.due()
            if due:
                self._wait_for(events)
            batch = events.take(due)
            if due and not batch:
                self._log.info("source finished: all events are in the stream", run_id=run_id, emitted=emitted)
                return
            if batch:
                room.written(self._publish(emitted, batch), sum(event.n_pulses for event, _ in batch))
                emitted += len(batch)
            if (wait := self._pacing.wait_s()) > 0:
                self._stop.wait(max(min(wait, 1.0), TICK_S))

    def _wait_for(self, events: Prefetcher) -> None:
        """Wait until an event, or the end, is there; a source may need seconds for it."""
        while not events.wait(BLOCK_S):
            self._metrics.beat("source")
            if self._stop.is_set():
                raise Stopped

    def _publish(self, first: int, batch: list[EventAndTruth]) -> int:
        started, began_ns = time.monotonic(), time.time_ns()
        backlog = self._retry(lambda: self._publisher.publish(first, batch, time.time_ns()))
        self._metrics.published(len(batch), sum(event.n_pulses for event, _ in batch), time.monotonic() - started)
        if self._tracing:
            self._tracing.emitted(((event.run_id, event.event_id) for event, _ in batch), began_ns, time.time_ns())
        return backlog

    def _retry(self, call: Callable[[], T]) -> T:
        return retry(call, RedisError, self._redis_failed, self._stop)

    def _redis_failed(self, error: Exception, pause_s: float) -> None:
        self._metrics.publish_failed()
        if is_away(error):
            self._metrics.beat("redis")
        self._log.warning("Redis command failed, retrying", error=str(error), pause_s=pause_s)
