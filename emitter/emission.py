"""The emitter's loop: take what is due, write it, wait while the stream is full or Redis is away."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

import structlog
from redis import RedisError

from emitter.metrics import EmitterMetrics
from emitter.pacing import Pacing
from icestream.sources.source import Pair, Source
from icestream.streams.publisher import Publisher

READY_EVENTS = 1024  # made ahead of time, so that the simulation's chunks do not show as gaps in the stream
TICK_S = 0.005  # events due within one tick are written together
FULL_WAIT_S = 0.05
RETRY_S = (0.1, 5.0)  # first and longest pause between tries while Redis is away

T = TypeVar("T")


class Stopped(Exception):
    """A stop was asked for while waiting."""


class Emission:
    """One run of the emitter.

    Args:
        stop: set from outside to end after what is being written.
    """

    def __init__(
        self,
        publisher: Publisher,
        pacing: Pacing,
        metrics: EmitterMetrics,
        log: structlog.stdlib.BoundLogger,
        stop: threading.Event,
    ):
        self._publisher, self._pacing, self._metrics, self._log, self._stop = publisher, pacing, metrics, log, stop

    def run(self, source: Source, run_id: int, limit: int | None, max_backlog: int) -> None:
        """Emit until the source ends, the run has `limit` events, or a stop is asked for."""
        try:
            self._run(source, run_id, limit, max_backlog)
        except Stopped:
            self._log.info("stopped")

    def _run(self, source: Source, run_id: int, limit: int | None, max_backlog: int) -> None:
        self._metrics.beat()
        emitted, position = self._persistently(self._publisher.position)
        self._log.info("emitting", run_id=run_id, already_emitted=emitted, limit=limit)
        events = Ahead(islice(source.events(run_id, position), None if limit is None else max(limit - emitted, 0)))
        backlog = self._persistently(self._publisher.backlog)
        self._pacing.start()
        while not self._stop.is_set():
            self._metrics.beat()
            if backlog >= max_backlog:
                self._stop.wait(FULL_WAIT_S)
                self._metrics.waited(FULL_WAIT_S)
                backlog = self._persistently(self._publisher.backlog)
                continue
            due = self._pacing.due()
            batch = list(islice(events, due))
            if due and not batch:
                self._log.info("all events are in the stream", run_id=run_id, emitted=emitted)
                return
            if batch:
                backlog = self._publish(emitted, batch)
                emitted += len(batch)
            if (wait := self._pacing.wait_s()) > 0:
                self._stop.wait(max(min(wait, 1.0), TICK_S))

    def _publish(self, first: int, batch: list[Pair]) -> int:
        started = time.monotonic()
        backlog = self._persistently(lambda: self._publisher.publish(first, batch, time.time_ns()))
        self._metrics.published(len(batch), sum(event.n_pulses for event, _ in batch), time.monotonic() - started)
        return backlog

    def _persistently(self, call: Callable[[], T]) -> T:
        """Repeat a call while Redis is away."""
        pause = RETRY_S[0]
        while not self._stop.is_set():
            try:
                return call()
            except RedisError as error:
                self._metrics.publish_failed()
                self._log.warning("Redis does not answer, trying again", error=str(error), pause_s=pause)
            self._metrics.beat()
            self._stop.wait(pause)
            pause = min(2 * pause, RETRY_S[1])
        raise Stopped


class Ahead(Iterator[Pair]):
    """A source's events, made ahead of time by a thread."""

    def __init__(self, events: Iterator[Pair]):
        self._ready: queue.Queue[Pair | BaseException] = queue.Queue(READY_EVENTS)
        threading.Thread(target=self._fill, args=(events,), daemon=True).start()
        self._next = self._ready.get()  # the first event is there when this returns

    def _fill(self, events: Iterator[Pair]) -> None:
        try:
            for pair in events:
                self._ready.put(pair)
            self._ready.put(StopIteration())
        except Exception as error:  # raised again where the events are taken
            self._ready.put(error)

    def __next__(self) -> Pair:
        item = self._next
        if isinstance(item, BaseException):
            raise item
        self._next = self._ready.get()
        return item
