"""The bridge's loop.

    read ─▶ decode ─▶ queue by padded length ─▶ infer ─▶ complete
              │ invalid                           │ refused: bisect, then alone
              └────────────▶ reject ◀─────────────┘

One task reads, one renews, and each request in flight has its own. Entries that another bridge has left are tried one at a
time, with nothing else held (bridge/suspects.py). There is no batching delay: a request is sent
as soon as a slot is free. So batches have one event when the stream is calm, and fill up under backlog.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TypeVar

from bridge.copying import Copying
from bridge.decoding import PendingEvent, decode_all
from bridge.inference import BatchInference, InferredBatch
from bridge.lease import LeaseKeeper
from bridge.metrics import BridgeMetrics
from bridge.settings import BridgeSettings
from bridge.showcase import Showcase
from bridge.suspects import in_order
from icestream.event import Event
from icestream.inference.batching import Batch, LengthQueues, infer_bisecting
from icestream.inference.errors import RequestRefused
from icestream.service.logs import Log
from icestream.service.retry import retry_asyncio
from icestream.service.tracing import Tracing
from icestream.streams.connection import RedisError, is_away
from icestream.streams.event_queue import Entry, EventQueue, Rejection
from icestream.tasks import cancel

READ_AT_ONCE = 256  # entries; more in one reply would delay the answers of requests in flight
STUCK_S = 15.0  # beyond the timeout of a request: then nothing that is in flight makes progress
SUSPECTS_AT_ONCE = 256  # that are tried before new entries are read again

T = TypeVar("T")


class Worker:
    """One bridge at work. `stop()` ends `run()` once everything in flight is stored.

    Args:
        last_reason: once an entry is rejected for it, the work ends.
        tracing: of what is stored.
    """

    def __init__(
        self,
        settings: BridgeSettings,
        queue: EventQueue,
        inference: BatchInference,
        lease: LeaseKeeper,
        *,
        copying: Copying,
        last_reason: str = "",
        tracing: Tracing | None = None,
        metrics: BridgeMetrics,
        log: Log,
    ):
        self._tracing = tracing
        self._settings, self._queue, self._inference, self._copying = settings, queue, inference, copying
        self._metrics, self._log, self._last_reason = metrics, log, last_reason
        self._waiting = LengthQueues[PendingEvent](1, settings.max_batch)
        self._showcase = Showcase() if settings.show else None
        self._held = lease.held
        self._lease = lease
        self._requests: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None  # an unexpected one of a request
        self._stopping = asyncio.Event()
        self._closed = False  # no request is sent any more
        self._capacity = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()
        self._capacity.set()

    async def run(self) -> None:
        """Work until stopped; then finish what is in flight, for `drain_s` at most."""
        reading = asyncio.create_task(self._read_forever())
        renewing = asyncio.create_task(self._lease.run())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({reading, renewing, stopping}, return_when=asyncio.FIRST_COMPLETED)
        self.stop()
        try:
            await asyncio.wait_for(self._finish(reading), self._settings.drain_s)
            renewing.cancel()
            await self._queue.leave()
        except (TimeoutError, RedisError):
            self._log.warning("stopped with events in flight; another bridge will claim them", held=len(self._held))
        self._closed = True
        await cancel((reading, renewing, *self._requests))
        for task in (reading, renewing):
            if not task.cancelled() and (error := task.exception()):
                raise error
        if self._failure:
            raise self._failure

    async def _finish(self, reading: asyncio.Task[None]) -> None:
        await asyncio.wait({reading})
        while self._requests:
            await asyncio.wait(set(self._requests))

    async def _read_forever(self) -> None:
        for warning in await self._retry(self._queue.check_server):
            self._log.warning(warning)
        await self._retry(self._queue.join)
        while not self._stopping.is_set():
            self._beat()
            if self._lease.abandoned:
                await self._try_suspects()
            room = self._settings.max_held - len(self._held)
            size = self._settings.max_held_mb * 2**20 - self._held.size
            if room <= 0 or size <= 0:
                await self._wait_for_capacity()
                continue
            count = min(room, READ_AT_ONCE)
            await self._accept(await self._retry(lambda: self._queue.read(count, size)))  # noqa: B023 (awaited at once)

    async def _try_suspects(self) -> None:
        """Try entries that another bridge has left, one at a time and with nothing else held."""
        await self._drain()
        suspects = in_order(await self._retry(lambda: self._queue.abandoned(self._held)))
        for suspect in suspects[:SUSPECTS_AT_ONCE]:
            if self._stopping.is_set():
                return
            if entry := await self._retry(lambda: self._queue.claim(suspect)):  # noqa: B023 (awaited at once)
                self._metrics.claimed(1)
                self._log.info("claimed an entry", entry_id=entry.entry_id.decode(), tries=entry.tries)
                await self._accept([entry])
                await self._drain()
        self._lease.abandoned = len(suspects) > SUSPECTS_AT_ONCE

    async def _drain(self) -> None:
        """Wait until nothing is held, or a stop is requested."""
        while self._held and not self._stopping.is_set():
            self._beat()
            await self._wait_for_capacity()

    def _beat(self) -> None:
        """Show progress, or what is waited for. Requests that all take longer than they may are neither."""
        if self._inference.limits is None:
            self._metrics.beat("triton")
        elif not self._requests:
            self._metrics.beat()
        elif self._inference.since_answer_s < self._settings.request_timeout_s + STUCK_S:
            self._metrics.beat("inference" if len(self._requests) == self._settings.in_flight else "")

    async def _wait_for_capacity(self) -> None:
        """Wait until a request has ended, for a second at most."""
        self._capacity.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._capacity.wait(), 1.0)

    async def _accept(self, entries: list[Entry]) -> None:
        """Queue the events of entries; reject those that have none."""
        for entry in entries:
            self._held.add(entry.entry_id, len(entry.payload))
        decoded = decode_all(entries)
        for event in decoded:
            if isinstance(event, PendingEvent):
                self._metrics.pulses_dropped(event.dropped_pulses)
                self._waiting.add(event)
        self._metrics.holding(len(self._held), self._held.size)
        self._dispatch()
        for rejection in decoded:
            if isinstance(rejection, Rejection):
                await self._reject(rejection)

    def _dispatch(self) -> None:
        """Send queued events while there are free slots."""
        self._fit_model()
        while self._waiting and not self._closed and len(self._requests) < self._settings.in_flight:
            task = asyncio.create_task(self._process(self._waiting.next_batch(self._inference.limit.events)))
            self._requests.add(task)
            task.add_done_callback(self._request_done)

    def _fit_model(self) -> None:
        """Batch as the model takes it that is served now."""
        if (limits := self._inference.limits) is not None:
            max_pulses, max_batch = limits
            self._waiting.fit(max_pulses, min(max_batch, self._settings.max_batch))

    def _request_done(self, task: asyncio.Task[None]) -> None:
        self._requests.discard(task)
        failure = RuntimeError("a request was cancelled by nobody") if task.cancelled() else task.exception()
        if failure and not self._closed:
            self._log.error("a request failed unexpectedly", exc_info=failure)
            self._failure = failure
            self.stop()
        self._capacity.set()
        self._dispatch()

    async def _process(self, batch: Batch[PendingEvent]) -> None:
        """Infer a batch; store what is answered, reject an event that Triton refuses alone."""
        async for part, inferred in infer_bisecting(batch, self._inference.infer):
            if isinstance(inferred, RequestRefused):
                entry = part.queued[0].entry
                rejection = Rejection(entry=entry, reason=inferred.reason, detail=str(inferred))
                await self._reject(rejection, part.events[0])
                if self._closed:
                    return
            else:
                await self._complete(part, inferred)

    async def _complete(self, batch: Batch[PendingEvent], inferred: InferredBatch) -> None:
        started = time.monotonic()
        results = self._inference.results(batch, inferred)
        entries = [queued.entry for queued in batch.queued]
        shown = self._showcase.pick(results, [entry.payload for entry in entries]) if self._showcase else None
        ids = [entry.entry_id for entry in entries]
        copied, epoch = self._copying.pick(results), self._copying.epoch
        outcomes = await self._retry(
            lambda: self._queue.complete(ids, results, shown=shown, copied=copied, epoch=epoch)
        )
        stored_ns = time.time_ns()  # after the reply: Redis may have been away meanwhile
        self._metrics.store_took(time.monotonic() - started)
        self._metrics.completed(results, outcomes, stored_ns)
        if self._tracing:
            self._tracing.answered(results, stored_ns)
        self._release(ids)

    async def _reject(self, rejection: Rejection, event: Event | None = None) -> None:
        if await self._retry(lambda: self._queue.reject(rejection)):
            self._metrics.rejected(rejection.reason)
            entry_id = rejection.entry.entry_id.decode()
            if rejection.reason == self._last_reason:
                self._closed = True  # at once: what is held stays unanswered
                self.stop()
            named: dict[str, object] = {} if event is None else {"run_id": event.run_id, "event_id": event.event_id}
            if event and self._tracing:
                named["trace_id"] = self._tracing.trace_id(event.run_id, event.event_id)
            self._log.warning(
                "rejected an entry", entry_id=entry_id, reason=rejection.reason, detail=rejection.detail, **named
            )
        self._release([rejection.entry.entry_id])

    def _release(self, entry_ids: Iterable[bytes]) -> None:
        for entry_id in entry_ids:
            self._held.release(entry_id)
        self._metrics.holding(len(self._held), self._held.size)

    async def _retry(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call to Redis until it is answered: away, loading, out of memory, disk full, all may pass."""
        return await retry_asyncio(call, RedisError, self._redis_failed)

    def _redis_failed(self, error: Exception, pause_s: float) -> None:
        self._metrics.retry("redis")
        if is_away(error):
            self._metrics.beat("redis")
        self._log.warning("Redis command failed, retrying", error=str(error), pause_s=pause_s)
