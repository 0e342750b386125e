"""Asks Triton for a batch of the stream and turns its answer into results."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bridge.decoding import PendingEvent
from bridge.metrics import BridgeMetrics
from icestream.inference.batching import Batch, BatchLimit
from icestream.inference.checked_model import Endpoint, Inference
from icestream.inference.errors import RequestRefused, TritonUnavailable
from icestream.inference.followed_model import FollowedModel
from icestream.inference.gate import Gate
from icestream.linefit import linefit
from icestream.result import ROW, Results
from icestream.service.logs import Log
from icestream.service.retry import pauses
from icestream.streams.connection import RedisError, is_away
from icestream.streams.event_queue import EventQueue

MAX_LOST = 3  # requests with one event, alone, that are lost while Triton gives its known answers before and after
MAX_INVALID = 2  # times that Triton calls a single event invalid
TURN_S = 5.0  # beyond the time of four requests: after it another bridge may ask alone
LONGEST_WAIT = 10  # turns of other bridges, after which a wait for one is no progress
TURN_PAUSES_S = (0.05, 1.0)
MAX_FAILURES = 8  # (about 10 s) before an event alone in its request is rejected, if the known answers are still right


@dataclass(frozen=True, kw_only=True)
class InferredBatch:
    """A request and its answer."""

    inference: Inference
    sent_ns: int  # Unix times
    answered_ns: int


class BatchInference:
    """Requests of one bridge to one model.

    Args:
        queue: where bridges take turns at asking alone.
        max_batch: the most events of one request.
        timeout_s: of one request.
        position_m: (5160, 3) of the DOMs, for LineFit.
    """

    def __init__(
        self,
        model: FollowedModel,
        queue: EventQueue,
        *,
        max_batch: int,
        timeout_s: float,
        position_m: NDArray[np.float64],
        metrics: BridgeMetrics,
        log: Log,
    ):
        self._model, self._queue, self._timeout_s, self._position_m = model, queue, timeout_s, position_m
        self._metrics, self._log = metrics, log
        self._gate, self._own_turn = Gate(), asyncio.Lock()
        self.limit = BatchLimit(max_batch)
        self._answered_s = time.monotonic()  # when a request last began or ended, however it did

    @property
    def limits(self) -> tuple[int, int] | None:
        """The most pulses of an event and events of a request that the model takes; None while none is proved."""
        model = self._model.model
        return None if model is None else (model.max_pulses, model.max_batch)

    @property
    def since_answer_s(self) -> float:
        """Seconds since a request last began or ended."""
        return time.monotonic() - self._answered_s

    async def infer(self, batch: Batch[PendingEvent]) -> InferredBatch:
        """The answer to a batch, however long Triton is away; raises RequestRefused where asking again does not help."""
        self._metrics.request_began(len(batch.queued))
        sent_ns, started = time.time_ns(), time.monotonic()
        try:
            inference = await self._ask_until_answered(batch)
            self._metrics.pulses_sent(inference.inputs)
            return InferredBatch(inference=inference, sent_ns=sent_ns, answered_ns=time.time_ns())
        except RequestRefused:
            if len(batch.queued) > 1:
                self._metrics.split()
            raise
        finally:
            self._metrics.request_ended(time.monotonic() - started)

    def results(self, batch: Batch[PendingEvent], inferred: InferredBatch) -> Results:
        """The results of a batch."""
        answer, model, inputs = inferred.inference.answer, inferred.inference.model, inferred.inference.inputs
        rows = np.empty(len(batch.queued), ROW)
        rows["run_id"] = [event.run_id for event in batch.events]
        rows["event_id"] = [event.event_id for event in batch.events]
        rows["direction"], rows["kappa"] = answer.direction, answer.kappa
        rows["radius_50_deg"], rows["radius_90_deg"] = answer.radius_50_deg, answer.radius_90_deg
        rows["linefit"] = linefit(inputs, self._position_m)
        rows["n_pulses"] = inputs["n_pulses"][:, 0]
        rows["n_used"] = np.minimum(rows["n_pulses"], inputs["sensor_id"].shape[1])
        rows["emitted_ns"] = [event.emitted_ns for event in batch.events]
        rows["read_ns"] = [queued.read_ns for queued in batch.queued]
        return Results(
            rows=rows,
            model=model.name,
            model_version=model.version,
            checkpoint=model.checkpoint,
            sent_ns=inferred.sent_ns,
            answered_ns=inferred.answered_ns,
            stored_ns=inferred.answered_ns,  # Redis sets it
        )

    @asynccontextmanager
    async def _alone(self, length: int) -> AsyncIterator[None]:
        """While no other request of this bridge is under way, nor one of another bridge that is alone: they take turns.

        Triton gives its known answers at the beginning, and again before the turn ends: it may still compute what was asked before,
        and an innocent event would be blamed.

        Raises:
            TritonUnavailable: Triton does not give its known answers; nothing was asked.
        """
        async with self._own_turn:
            await self._take_turn()
            try:
                async with self._gate.alone():
                    if not await self._model.prove(length):
                        raise TritonUnavailable(self._model.reason, asked=False)
                    try:
                        yield
                    except TritonUnavailable as error:
                        if not error.overloaded:  # nothing was computed
                            await self._until_well(length)
                        raise
            finally:
                with suppress(RedisError):  # it ends by itself
                    await self._queue.give_turn()

    async def _take_turn(self) -> None:
        turn_s = 4 * self._timeout_s + TURN_S  # own requests end, known answers, the request, known answers again
        began_s = time.monotonic()
        for pause_s in pauses(*TURN_PAUSES_S):
            waits = time.monotonic() - began_s < LONGEST_WAIT * turn_s
            try:
                if await self._queue.take_turn(turn_s):
                    return
            except RedisError as error:
                waits = is_away(error)
                self._metrics.retry("redis")
                self._log.warning("Redis command failed, retrying", error=str(error), pause_s=pause_s)
            if waits:
                self._answered_s = time.monotonic()
            await asyncio.sleep(pause_s)

    async def _ask_until_answered(self, batch: Batch[PendingEvent]) -> Inference:
        """Ask until there is an answer; raises RequestRefused where the batch, and nothing else, is the cause that there is none.

        That is where every server that can be asked has failed at it.

        A request that is lost (Triton dies, or does not answer in time) is sent again alone, once Triton gives its known answers.
        If it is lost again it is bisected, until the event at which Triton dies is alone.
        """
        single, suspect, failures = len(batch.queued) == 1, batch.suspect, 0
        failed: set[Endpoint] = set()  # servers
        for pause_s in pauses():
            try:
                async with self._alone(batch.length) if suspect else self._gate.together():
                    self._answered_s = time.monotonic()
                    try:
                        inference = await self._model.infer(batch.events, failed)
                    finally:
                        self._answered_s = time.monotonic()
                self.limit.answered()
                return inference
            except TritonUnavailable as error:
                self._metrics.retry("triton")
                self._log.warning("request failed, retrying when Triton is well", error=str(error), alone=suspect)
                if error.overloaded:  # known answers would be too many as well
                    await asyncio.sleep(pause_s)
                    continue
                if error.timed_out:
                    self.limit.timed_out(len(batch.queued))
                await self._until_well(batch.length)
                if not error.asked:
                    continue
                failures += suspect
                elsewhere = self._model.can_ask_another(failed)
                if suspect and not elsewhere and not (single and failures < MAX_LOST):
                    raise RequestRefused(f"no answer, alone: {error}", final=False, reason="no_answer") from None
                suspect = True
            except RequestRefused as error:
                elsewhere = self._model.can_ask_another(failed)
                if not single and not elsewhere:
                    raise
                self._metrics.retry("model")
                if elsewhere:
                    continue
                self._log.warning("inference failed for one event, retrying", error=str(error), failures=failures)
                if not await self._model.prove(batch.length):
                    await self._until_well(batch.length)  # the event is not the cause: this failure does not count
                    continue
                failures += 1
                if failures >= (MAX_INVALID if error.final else MAX_FAILURES):
                    raise
                await asyncio.sleep(pause_s)
        raise AssertionError("pauses do not end")

    async def _until_well(self, length: int) -> None:
        """Wait until Triton serves the model and gives its known answers at this padded length."""
        for pause_s in pauses():
            await asyncio.sleep(pause_s)
            if await self._model.prove(length):
                return
            self._metrics.retry("triton")
