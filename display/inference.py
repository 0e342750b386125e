"""Asks Triton for anybody's events: the bridge's client, batching and choice of pulses, from threads."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from icestream.event import Event
from icestream.inference.batching import Batch, Item, Waiting, halved
from icestream.inference.client import Answer, Model, Triton
from icestream.inference.errors import Mismatch, Refused, TritonAway
from icestream.tensors import pad

IN_FLIGHT = 4  # requests to Triton at a time, whoever asks: the stream has as many for each bridge
LOOK_S = 2.0
T = TypeVar("T")


@dataclass(frozen=True)
class Asked(Item):
    """An event of a request."""

    place: int  # in the request


@dataclass(frozen=True)
class Direction:
    """What the model answers to one event."""

    direction: tuple[float, float, float]  # unit vector to where the particle came from
    kappa: float
    radius_50_deg: float
    radius_90_deg: float
    model: str
    model_version: str


class Asking:
    """A client of one model for many threads. Every method may be called from any thread.

    Args:
        url: of Triton's gRPC service.
        timeout_s: of one call.
    """

    def __init__(self, url: str, model: str, timeout_s: float):
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._triton: Triton = self._run(self._connect(url, model, timeout_s))
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._model: Model | None = None
        self.ready = False  # Triton serves the model, as of the last look
        asyncio.run_coroutine_threadsafe(self._look_forever(), self._loop)

    def reconstruct(self, events: Sequence[Event]) -> list[Direction | Refused]:
        """Directions in the order of the events; `Refused` where the model cannot do one.

        Raises:
            TritonAway: ask again later.
            Mismatch: what is served is no such model.
        """
        return self._run(self._reconstruct(events))

    async def _reconstruct(self, events: Sequence[Event]) -> list[Direction | Refused]:
        model = self._model or await self._triton.model()
        waiting, answers = Waiting[Asked](model.max_pulses, model.max_batch), dict[int, Direction | Refused]()
        for place, event in enumerate(events):
            waiting.add(Asked(event, time.time_ns(), place))
        batches = []
        while waiting:
            batches.append(waiting.take())
        await asyncio.gather(*(self._see_through(model, batch, answers) for batch in batches))
        return [answers[place] for place in range(len(events))]

    async def _see_through(self, model: Model, batch: Batch[Asked], answers: dict[int, Direction | Refused]) -> None:
        async for part, found in halved(batch, self._ask):
            if isinstance(found, Refused):
                answers[part.items[0].place] = found
                continue
            rows = zip(part.items, found.direction.tolist(), found.kappa.tolist(), found.radius.tolist(), strict=True)
            for item, direction, kappa, radius in rows:
                answers[item.place] = Direction(
                    tuple(direction), kappa, radius[0], radius[2], model.name, found.model_version
                )

    async def _ask(self, batch: Batch[Asked]) -> Answer:
        async with self._slots:
            return await self._triton.infer(pad([item.event for item in batch.items], batch.length))

    async def _look_forever(self) -> None:
        while True:
            try:
                self._model = await self._triton.model()
                self.ready = True
            except (TritonAway, Mismatch):
                self.ready = False
            await asyncio.sleep(LOOK_S)

    async def _connect(self, url: str, model: str, timeout_s: float) -> Triton:
        return Triton(url, model, timeout_s)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
