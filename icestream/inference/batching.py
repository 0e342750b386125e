"""Groups events into requests by padded length, and bisects requests that fail.

Attention costs the square of the padded length and Triton merges only requests of equal shape. Therefore lengths are rounded
up to a few values, and each value has a queue of its own; the queue whose first event has waited longest is sent first.
"""

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from icestream.event import Event
from icestream.inference.errors import RequestRefused
from icestream.tensors import padded_length


class QueuedEvent(msgspec.Struct, frozen=True, gc=False):
    """An event that waits for its request; the bridge and the display each add what they need to know of it."""

    event: Event
    read_ns: int  # Unix time


Q = TypeVar("Q", bound=QueuedEvent)
A = TypeVar("A")


@dataclass(frozen=True)
class Batch(Generic[Q]):
    """The events of one request."""

    queued: list[Q]
    length: int  # padded
    suspect: bool = False  # a part of a request that was refused or lost

    @property
    def events(self) -> list[Event]:
        return [queued.event for queued in self.queued]

    def halves(self) -> tuple["Batch[Q]", "Batch[Q]"]:
        """The batch cut in two; it must have at least two events."""
        middle = len(self.queued) // 2
        return Batch(self.queued[:middle], self.length, True), Batch(self.queued[middle:], self.length, True)


class LengthQueues(Generic[Q]):
    """Events that wait for a request, one queue for each padded length.

    Args:
        max_pulses: the most pulses the model is given.
        max_batch: the most events of one request.
    """

    def __init__(self, max_pulses: int, max_batch: int):
        self._max_pulses, self._max_batch = max_pulses, max_batch
        self._queues: defaultdict[int, deque[Q]] = defaultdict(deque)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def fit(self, max_pulses: int, max_batch: int) -> None:
        """Batch for another model."""
        if (max_pulses, max_batch) != (self._max_pulses, self._max_batch):
            waiting = sorted(
                (queued for queue in self._queues.values() for queued in queue), key=lambda one: one.read_ns
            )
            self._max_pulses, self._max_batch, self._count = max_pulses, max_batch, 0
            self._queues.clear()
            for queued in waiting:
                self.add(queued)

    def add(self, queued: Q) -> None:
        self._queues[padded_length(queued.event.n_pulses, self._max_pulses)].append(queued)
        self._count += 1

    def next_batch(self, at_most: int | None = None) -> Batch[Q]:
        """Remove and return the next batch, of at most this many events; there must be an event."""
        length, queue = min(
            ((length, queue) for length, queue in self._queues.items() if queue), key=lambda pair: pair[1][0].read_ns
        )
        size = min(len(queue), self._max_batch, at_most or self._max_batch)
        queued = [queue.popleft() for _ in range(size)]
        self._count -= len(queued)
        return Batch(queued, length)


class BatchLimit:
    """How many events a request may have: half as many after one that was not answered in time, and slowly more again."""

    ANSWERED = 20  # requests in time, after which one more event is tried

    def __init__(self, largest: int):
        self._largest, self.events, self._answered = largest, largest, 0

    def timed_out(self, events: int) -> None:
        """A request with this many events was not answered in time."""
        self.events, self._answered = max(1, min(self.events, events // 2)), 0

    def answered(self) -> None:
        """A request was answered in time."""
        self._answered += 1
        if self._answered >= self.ANSWERED and self.events < self._largest:
            self.events, self._answered = self.events + 1, 0


async def infer_bisecting(
    batch: Batch[Q], infer: Callable[[Batch[Q]], Awaitable[A]]
) -> AsyncIterator[tuple[Batch[Q], A | RequestRefused]]:
    """Answers to a batch; a refused request is cut in two until the failing event is alone.

    Yields:
        parts of the batch, each with its answer; a part of one event may have a RequestRefused instead.
    """
    try:
        answer = await infer(batch)
    except RequestRefused as error:
        if len(batch.queued) == 1:
            yield batch, error
            return
        for half in batch.halves():
            async for part in infer_bisecting(half, infer):
                yield part
    else:
        yield batch, answer
