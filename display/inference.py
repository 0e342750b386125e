"""Asks Triton for the events of REST requests, from threads: with the client, batching and choice of pulses of the bridge."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from icestream.event import Event
from icestream.inference.batching import Batch, LengthQueues, QueuedEvent, infer_bisecting
from icestream.inference.client import Answer, TritonClient
from icestream.inference.errors import ModelMismatch, RequestRefused, TritonUnavailable
from icestream.inference.model import ModelDescription
from icestream.tensors import pad

IN_FLIGHT = 4  # requests to Triton at a time, for all threads: as many as one bridge sends
MAX_WAITING = 8  # calls at a time; a further one is refused at once
PROVED_S = 30.0  # after which the known answers are asked for again
PROBE_S = 2.0  # between two checks whether Triton serves the model
T = TypeVar("T")


@dataclass(frozen=True)
class RequestedEvent(QueuedEvent):
    """An event of a REST request."""

    index: int  # in the request


@dataclass(frozen=True, kw_only=True)
class Inference:
    """What the model answers to one event."""

    direction: tuple[float, float, float]  # unit vector to where the particle came from
    kappa: float
    radius_50_deg: float
    radius_90_deg: float
    model: str
    model_version: str


class InferenceClient:
    """A client of one model for many threads. Every method may be called from any thread.

    Args:
        url: of Triton's gRPC service.
        timeout_s: of one inference request.
    """

    def __init__(self, url: str, model: str, timeout_s: float):
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._client: TritonClient = self._run(self._connect(url, model, timeout_s))
        self._slots, self._timeout_s = asyncio.Semaphore(IN_FLIGHT), timeout_s
        self._calls = threading.BoundedSemaphore(MAX_WAITING)
        self._model: ModelDescription | None = None
        self.ready = False  # Triton served the model at the last check, and gave its known answers
        self.reason = "Triton was not asked yet"  # why it is not
        asyncio.run_coroutine_threadsafe(self._probe_forever(), self._loop)

    def infer(self, events: Sequence[Event]) -> list[Inference | RequestRefused]:
        """Answers in the order of the events; RequestRefused where the model cannot do one.

        Raises:
            TritonUnavailable: ask again later; at once while Triton is known to be away, or too many calls wait.
        """
        if not self.ready:
            raise TritonUnavailable(self.reason)
        if not self._calls.acquire(blocking=False):
            raise TritonUnavailable(f"{MAX_WAITING} requests are waiting already")
        try:
            return self._run(self._within_timeout(events))
        finally:
            self._calls.release()

    async def _within_timeout(self, events: Sequence[Event]) -> list[Inference | RequestRefused]:
        try:
            return await asyncio.wait_for(self._infer(events), self._timeout_s)
        except TimeoutError:
            raise TritonUnavailable(f"no answer within {self._timeout_s:g} s", timed_out=True) from None

    async def _infer(self, events: Sequence[Event]) -> list[Inference | RequestRefused]:
        if (model := self._model) is None:
            raise TritonUnavailable(self.reason)
        waiting, answers = (
            LengthQueues[RequestedEvent](model.max_pulses, model.max_batch),
            dict[int, Inference | RequestRefused](),
        )
        for index, event in enumerate(events):
            waiting.add(RequestedEvent(event, time.time_ns(), index))
        batches = []
        while waiting:
            batches.append(waiting.next_batch())
        await asyncio.gather(*(self._infer_batch(model, batch, answers) for batch in batches))
        return [answers[index] for index in range(len(events))]

    async def _infer_batch(
        self, model: ModelDescription, batch: Batch[RequestedEvent], answers: dict[int, Inference | RequestRefused]
    ) -> None:
        async for part, answer in infer_bisecting(batch, self._ask):
            if isinstance(answer, RequestRefused):
                answers[part.queued[0].index] = answer
                continue
            for row, queued in enumerate(part.queued):
                answers[queued.index] = Inference(
                    direction=tuple(answer.direction[row].tolist()),
                    kappa=float(answer.kappa[row]),
                    radius_50_deg=float(answer.radius_50_deg[row]),
                    radius_90_deg=float(answer.radius_90_deg[row]),
                    model=model.name,
                    model_version=answer.model_version,
                )

    async def _ask(self, batch: Batch[RequestedEvent]) -> Answer:
        async with self._slots:
            return await self._client.infer(pad(batch.events, batch.length))

    async def _probe_forever(self) -> None:
        proved_s = 0.0
        while True:
            try:
                model = await self._client.describe_model()
                if model != self._model or time.monotonic() - proved_s > PROVED_S:
                    await self._client.check_known_answers(model)
                    proved_s = time.monotonic()
                self._model, self.ready = model, True
            except (TritonUnavailable, ModelMismatch) as error:
                self._model, self.ready, self.reason = None, False, str(error)
            await asyncio.sleep(PROBE_S)

    async def _connect(self, url: str, model: str, timeout_s: float) -> TritonClient:
        return TritonClient(url, model, timeout_s)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
