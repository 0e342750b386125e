"""Which events share a request: those of about the same length, the longest-waiting first.

Attention costs the square of the padded length and Triton merges only requests of equal shape, so lengths are rounded up to
a few values and each value has a queue of its own.
"""

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from icestream.event import Event
from icestream.inference.errors import Refused
from icestream.tensors import padded_length


@dataclass(frozen=True)
class Item:
    """An event that waits for its reconstruction; who needs to know more of it has a subclass."""

    event: Event
    read_ns: int  # Unix time


I = TypeVar("I", bound=Item)  # noqa: E741
A = TypeVar("A")


@dataclass(frozen=True)
class Batch(Generic[I]):
    """Events of one request."""

    items: list[I]
    length: int  # padded

    def halves(self) -> tuple["Batch[I]", "Batch[I]"]:
        """The batch cut in two; it must have at least two events."""
        middle = len(self.items) // 2
        return Batch(self.items[:middle], self.length), Batch(self.items[middle:], self.length)


class Waiting(Generic[I]):
    """Events that wait for a request.

    Args:
        limit: the most pulses the model is given.
        max_batch: the most events of one request.
    """

    def __init__(self, limit: int, max_batch: int):
        self._limit, self._max_batch = limit, max_batch
        self._queues: defaultdict[int, deque[I]] = defaultdict(deque)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: I) -> None:
        self._queues[padded_length(item.event.n_pulses, self._limit)].append(item)
        self._count += 1

    def take(self) -> Batch[I]:
        """The events of the length whose first has waited longest; there must be an event."""
        length, queue = min(
            ((length, queue) for length, queue in self._queues.items() if queue), key=lambda pair: pair[1][0].read_ns
        )
        items = [queue.popleft() for _ in range(min(len(queue), self._max_batch))]
        self._count -= len(items)
        return Batch(items, length)


async def halved(
    batch: Batch[I], ask: Callable[[Batch[I]], Awaitable[A]]
) -> AsyncIterator[tuple[Batch[I], A | Refused]]:
    """Answers to a batch, cut in two where Triton refuses it until the guilty event is alone.

    Yields:
        parts of the batch, each with its answer; a part of one event may have a `Refused` instead.
    """
    try:
        answer = await ask(batch)
    except Refused as error:
        if len(batch.items) == 1:
            yield batch, error
            return
        for half in batch.halves():
            async for part in halved(half, ask):
                yield part
    else:
        yield batch, answer
