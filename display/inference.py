"""Asks Triton for the events of REST requests, from threads: with the client, batching and choice of pulses of the bridge."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from icestream.event import Event
from icestream.inference import checked_model
from icestream.inference.access import TritonAccess
from icestream.inference.batching import Batch, LengthQueues, QueuedEvent, infer_bisecting
from icestream.inference.checked_model import Endpoint
from icestream.inference.errors import RequestRefused, TritonUnavailable
from icestream.inference.followed_model import FollowedModel

IN_FLIGHT = 4  # requests to Triton at a time, for all threads: as many as one bridge sends
MAX_WAITING = 8  # calls at a time; a further one is refused at once
T = TypeVar("T")


class RequestedEvent(QueuedEvent, frozen=True):
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
        access: to Triton.
        timeout_s: of one call, waiting included.
        changed: as of CheckedModel.
    """

    def __init__(
        self, access: TritonAccess, model: str, timeout_s: float, *, changed: Callable[[dict[str, int], str], None]
    ):
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._model = self._run(self._connect(access, model, timeout_s, changed))
        self._slots, self._timeout_s = asyncio.Semaphore(IN_FLIGHT), timeout_s
        self._calls = threading.BoundedSemaphore(MAX_WAITING)

    def follow(self, name: str) -> None:
        """Ask this model as soon as it is proved."""
        self._loop.call_soon_threadsafe(self._model.follow, name)

    @property
    def ready(self) -> bool:
        """A server has proved the model and responds."""
        return self._model.model is not None

    def infer(self, events: Sequence[Event]) -> list[Inference | RequestRefused]:
        """Answers in the order of the events; RequestRefused where the model cannot do one.

        Raises:
            TritonUnavailable: ask again later; at once while Triton is known to be away, or too many calls wait.
        """
        if not self.ready:
            raise TritonUnavailable(self._model.reason, asked=False)
        if not self._calls.acquire(blocking=False):
            raise TritonUnavailable(f"{MAX_WAITING} requests are waiting already", asked=False)
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
        if (model := self._model.model) is None:
            raise TritonUnavailable(self._model.reason, asked=False)
        waiting, answers = (
            LengthQueues[RequestedEvent](model.max_pulses, model.max_batch),
            dict[int, Inference | RequestRefused](),
        )
        for index, event in enumerate(events):
            waiting.add(RequestedEvent(event, time.time_ns(), index))
        batches = []
        while waiting:
            batches.append(waiting.next_batch())
        await asyncio.gather(*(self._infer_batch(batch, answers) for batch in batches))
        return [answers[index] for index in range(len(events))]

    async def _infer_batch(self, batch: Batch[RequestedEvent], answers: dict[int, Inference | RequestRefused]) -> None:
        async for part, inferred in infer_bisecting(batch, self._ask):
            if isinstance(inferred, RequestRefused):
                answers[part.queued[0].index] = inferred
                continue
            answer, model = inferred.answer, inferred.model
            for row, queued in enumerate(part.queued):
                answers[queued.index] = Inference(
                    direction=tuple(answer.direction[row].tolist()),
                    kappa=float(answer.kappa[row]),
                    radius_50_deg=float(answer.radius_50_deg[row]),
                    radius_90_deg=float(answer.radius_90_deg[row]),
                    model=model.name,
                    model_version=model.version,
                )

    async def _ask(self, batch: Batch[RequestedEvent]) -> checked_model.Inference:
        failed: set[Endpoint] = set()  # servers
        async with self._slots:
            while True:
                try:
                    return await self._model.infer(batch.events, failed)
                except RequestRefused:
                    if not self._model.can_ask_another(failed):
                        raise

    async def _connect(
        self, access: TritonAccess, model: str, timeout_s: float, changed: Callable[[dict[str, int], str], None]
    ) -> FollowedModel:
        return FollowedModel(access, model, timeout_s, changed=changed)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
