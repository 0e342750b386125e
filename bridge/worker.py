"""The bridge's loop.

    read ─▶ decode one by one ─▶ wait by length ─▶ Triton ─▶ store
                 │ invalid                          │ refused: halve, alone at last
                 └──────────────▶ rejected ◀────────┘

One task reads, one renews and claims, and each request in flight has its own. Nothing waits for company: a request leaves as
soon as a slot is free, so batches are of one event when the stream is calm and fill by themselves when it is not.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import structlog
from numpy.typing import NDArray
from redis import RedisError

from bridge.metrics import BridgeMetrics
from bridge.settings import BridgeSettings
from bridge.showcase import Showcase
from icestream import wire
from icestream.event import InvalidEvent, Reconstruction
from icestream.inference.batching import Batch, Item, Waiting, halved
from icestream.inference.client import Answer, Model, Triton
from icestream.inference.errors import Mismatch, Refused, TritonAway
from icestream.linefit import linefit
from icestream.streams.event_queue import Entry, Intake
from icestream.streams.outlet import Outlet
from icestream.streams.status import Standing
from icestream.tensors import Arrays, pad

READ_AT_ONCE = 256  # entries; more in one reply would hold up the answers of requests in flight
MAX_TRIES = 10  # an entry that so many deliveries could not finish is put aside: it may be what kills its bridges
FAILED_TRIES = 8  # over some 10 s, for an event alone in its request at which a Triton that is well fails
RETRY_S = (0.1, 5.0)  # first and longest pause between tries

T = TypeVar("T")


@dataclass(frozen=True)
class Taken(Item):
    """An event that this bridge has taken upon itself."""

    entry: Entry


@dataclass(frozen=True)
class Asked:
    """What was sent to Triton and what it answered."""

    inputs: Arrays
    answer: Answer
    sent_ns: int  # Unix times
    answered_ns: int


class Worker:
    """One bridge at work. `stop()` ends `run()` once everything in flight is stored."""

    def __init__(
        self,
        settings: BridgeSettings,
        model: Model,
        intake: Intake,
        triton: Triton,
        outlet: Outlet,
        look: Callable[[], Awaitable[Standing]],
        metrics: BridgeMetrics,
        log: structlog.stdlib.BoundLogger,
        position_m: NDArray[np.float64],
    ):
        self._settings, self._model, self._intake, self._triton, self._outlet = settings, model, intake, triton, outlet
        self._look, self._metrics, self._log, self._position_m = look, metrics, log, position_m
        self._waiting = Waiting[Taken](model.max_pulses, min(settings.max_batch, model.max_batch))
        self._showcase = Showcase() if settings.show else None
        self._held: set[bytes] = set()  # ids of entries that were read and are not yet dealt with
        self._requests: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Task[None] | None = None  # a request that met a fault of this program
        self._stopping = asyncio.Event()
        self._room = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()
        self._room.set()

    async def run(self) -> None:
        """Work until stopped; then finish what is in flight, for `drain_s` at most."""
        reading = asyncio.create_task(self._read_forever())
        keeping = asyncio.create_task(self._keep_forever())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({reading, keeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        self.stop()
        try:
            await asyncio.wait_for(self._finish(reading), self._settings.drain_s)
            keeping.cancel()
            await self._intake.leave()
        except (TimeoutError, RedisError):
            self._log.warning("stopped with events in flight; another bridge will take them over", held=len(self._held))
        for task in (reading, keeping, *self._requests):
            task.cancel()
        for failed in (reading, keeping, self._failed):
            if failed and failed.done() and not failed.cancelled() and (error := failed.exception()):
                raise error

    async def _finish(self, reading: asyncio.Task[None]) -> None:
        await asyncio.wait({reading})
        while self._requests:
            await asyncio.wait(set(self._requests))

    async def _read_forever(self) -> None:
        await self._persistently(self._intake.prepare)
        await self._persistently(lambda: self._outlet.announce(self._model))
        while not self._stopping.is_set():
            self._metrics.beat()
            room = self._settings.max_held - len(self._held)
            if room <= 0:
                self._room.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._room.wait(), 1.0)
                continue
            count = min(room, READ_AT_ONCE)
            await self._accept(await self._persistently(lambda: self._intake.read(count)))  # noqa: B023 (awaited at once)

    async def _keep_forever(self) -> None:
        """Renew what is held, take over what was left, and tell how the stream stands."""
        while True:
            try:
                await self._intake.renew(self._held)
                if not self._stopping.is_set():  # beyond max_held, or a full backlog would leave them for ever
                    entries = await self._intake.claim(READ_AT_ONCE, self._held)
                    if entries:
                        self._log.info("took over entries", entries=len(entries))
                        self._metrics.claimed(len(entries))
                        await self._accept(entries)
                self._metrics.standing(await self._look())
            except RedisError as error:
                self._metrics.retry("redis")
                self._log.warning("Redis does not answer", error=str(error))
            await asyncio.sleep(min(self._settings.claim_idle_s / 4, 2.0))

    async def _accept(self, entries: list[Entry]) -> None:
        """Decode entries one by one, so that a bad one fails alone."""
        for entry in entries:
            self._held.add(entry.entry_id)
            try:
                if entry.tries > MAX_TRIES:
                    raise InvalidEvent("too_many_tries", f"{entry.tries} deliveries without a result")
                whole = wire.decode_event(entry.payload)
                event = whole.within_readout()
                self._metrics.pulses_dropped(whole.n_pulses - event.n_pulses)
                self._waiting.add(Taken(event, entry.read_ns, entry))
            except InvalidEvent as error:
                await self._reject(entry.entry_id, entry.payload, error.reason, str(error), entry.tries)
        self._metrics.holding(len(self._held))
        self._dispatch()

    def _dispatch(self) -> None:
        """Send what waits while there are free slots."""
        while self._waiting and len(self._requests) < self._settings.in_flight:
            task = asyncio.create_task(self._process(self._waiting.take()))
            self._requests.add(task)
            task.add_done_callback(self._request_done)

    def _request_done(self, task: asyncio.Task[None]) -> None:
        self._requests.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._log.error("a request failed unexpectedly", exc_info=error)
            self._failed = task
            self.stop()
        self._room.set()
        self._dispatch()

    async def _process(self, batch: Batch[Taken]) -> None:
        """See a batch through: ask, and store what is answered or reject what Triton refuses alone."""
        async for part, asked in halved(batch, self._ask):
            if isinstance(asked, Refused):
                entry = part.items[0].entry
                await self._reject(entry.entry_id, entry.payload, "refused_by_model", str(asked), entry.tries)
            else:
                await self._store(part, asked)

    async def _ask(self, batch: Batch[Taken]) -> Asked:
        """Triton's answer to a batch; raises Refused where asking again does not help."""
        events = [item.event for item in batch.items]
        inputs = pad(events, batch.length)
        used = sum(min(event.n_pulses, batch.length) for event in events)
        cut = sum(event.n_pulses > batch.length for event in events)
        self._metrics.request_sent(len(events), used, inputs["sensor_id"].size, cut)
        sent_ns, began = time.time_ns(), time.monotonic()
        try:
            answer = await self._answer(inputs, alone=len(events) == 1)
            return Asked(inputs, answer, sent_ns, time.time_ns())
        except Refused:
            if len(events) > 1:
                self._metrics.split()
            raise
        finally:
            self._metrics.request_ended(time.monotonic() - began)

    async def _answer(self, inputs: Arrays, alone: bool) -> Answer:
        """Triton's answer, however long it is away; raises Refused where asking again does not help."""
        pause, failures = RETRY_S[0], 0
        while True:
            try:
                return await self._triton.infer(inputs)
            except TritonAway as error:
                self._metrics.retry("triton")
                self._log.warning("Triton does not answer, asking again", error=str(error), pause_s=pause)
            except Refused as error:
                failures += 1
                if error.final or not alone or (failures >= FAILED_TRIES and await self._well()):
                    raise
                self._metrics.retry("model")
                self._log.warning("Triton failed at an event, asking again", error=str(error), failures=failures)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_S[1])

    async def _well(self) -> bool:
        """Whether Triton still gives its known answers: if it does not, it is sick, and no event is to blame."""
        try:
            await self._triton.check(self._model)
        except (TritonAway, Mismatch):
            return False
        return True

    async def _store(self, batch: Batch[Taken], asked: Asked) -> None:
        answer = asked.answer
        guesses = linefit(asked.inputs, self._position_m).tolist()
        started, stored_ns = time.monotonic(), time.time_ns()
        results = []
        for item, direction, kappa, radius, guess in zip(
            batch.items, answer.direction.tolist(), answer.kappa.tolist(), answer.radius.tolist(), guesses, strict=True
        ):
            event = item.event
            used = min(event.n_pulses, batch.length)
            result = Reconstruction(
                event.run_id, event.event_id, tuple(direction), kappa, radius[0], radius[2], tuple(guess), event.n_pulses, used, self._model.name,
                answer.model_version, event.emitted_ns, item.read_ns, asked.sent_ns, asked.answered_ns, stored_ns,
            )  # fmt: skip
            results.append((item.entry.entry_id, result))
        shown = {}
        if self._showcase:
            stored = [(result, item.entry.payload) for item, (_, result) in zip(batch.items, results, strict=True)]
            if (place := self._showcase.pick(stored)) is not None:
                shown[place] = stored[place][1]
        outcomes = await self._persistently(lambda: self._outlet.store(results, shown))
        self._metrics.store_took(time.monotonic() - started)
        for (_, result), outcome in zip(results, outcomes, strict=True):
            self._metrics.finished(result, outcome)
        self._release(item.entry.entry_id for item in batch.items)

    async def _reject(self, entry_id: bytes, payload: bytes, reason: str, detail: str, tries: int) -> None:
        if await self._persistently(lambda: self._outlet.reject(entry_id, payload, reason, detail, tries)):
            self._metrics.rejected(reason)
            self._log.warning("rejected an entry", entry_id=entry_id.decode(), reason=reason, detail=detail)
        self._release([entry_id])

    def _release(self, entry_ids: Iterable[bytes]) -> None:
        self._held.difference_update(entry_ids)
        self._metrics.holding(len(self._held))

    async def _persistently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call to Redis until it is answered. The calls are such that repeating does no harm."""
        pause, group_is_gone = RETRY_S[0], False
        while True:
            try:
                if group_is_gone:
                    await self._intake.prepare()
                return await call()
            except RedisError as error:  # away, loading, out of memory, its disk full: all may pass
                group_is_gone = "NOGROUP" in str(error)
                self._metrics.retry("redis")
                self._metrics.beat()
                self._log.warning("Redis does not answer, trying again", error=str(error), pause_s=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_S[1])
