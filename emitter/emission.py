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
from icestream.sources.source import EventAndTruth, Source
from icestream.streams.connection import RedisError
from icestream.streams.publisher import Publisher

TICK_S = 0.005  # events due within one tick are written together
FULL_WAIT_S = 0.05

T = TypeVar("T")


class Emission:
    """One run of the emitter.

    Args:
        stop: set from outside to end after the current write.
    """

    def __init__(
        self, publisher: Publisher, pacing: Pacing, *, metrics: EmitterMetrics, log: Log, stop: threading.Event
    ):
        self._publisher, self._pacing, self._metrics, self._log, self._stop = publisher, pacing, metrics, log, stop

    def run(
        self, source: Source, run_id: int, *, limit: int | None, max_backlog: int, description: Mapping[str, str]
    ) -> None:
        """Emit until the source ends, the run has `limit` events, or a stop is requested.

        Args:
            description: of the run, for readers of its results.
        """
        try:
            self._metrics.beat()
            self._retry(lambda: self._publisher.describe(description))
            self._run(source, run_id, limit, max_backlog)
        except Stopped:
            self._log.info("stopped")

    def _run(self, source: Source, run_id: int, limit: int | None, max_backlog: int) -> None:
        emitted, position = self._retry(self._publisher.position)
        self._log.info("emitting", run_id=run_id, already_emitted=emitted, limit=limit)
        remaining = None if limit is None else max(limit - emitted, 0)
        events = Prefetcher(islice(source.events(run_id, position), remaining))
        backlog = self._retry(self._publisher.backlog)
        self._pacing.start()
        while not self._stop.is_set():
            self._metrics.beat()
            if backlog >= max_backlog:
                self._stop.wait(FULL_WAIT_S)
                self._metrics.waited(FULL_WAIT_S)
                backlog = self._retry(self._publisher.backlog)
                continue
            due = self._pacing.due()
            batch = list(islice(events, due))
            if due and not batch:
                self._log.info("source finished: all events are in the stream", run_id=run_id, emitted=emitted)
                return
            if batch:
                backlog = self._publish(emitted, batch)
                emitted += len(batch)
            if (wait := self._pacing.wait_s()) > 0:
                self._stop.wait(max(min(wait, 1.0), TICK_S))

    def _publish(self, first: int, batch: list[EventAndTruth]) -> int:
        started = time.monotonic()
        backlog = self._retry(lambda: self._publisher.publish(first, batch, time.time_ns()))
        self._metrics.published(len(batch), sum(event.n_pulses for event, _ in batch), time.monotonic() - started)
        return backlog

    def _retry(self, call: Callable[[], T]) -> T:
        return retry(call, RedisError, self._redis_failed, self._stop)

    def _redis_failed(self, error: Exception, pause_s: float) -> None:
        self._metrics.publish_failed()
        self._metrics.beat()
        self._log.warning("Redis command failed, retrying", error=str(error), pause_s=pause_s)
