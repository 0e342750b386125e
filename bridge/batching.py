"""Which events share a request: those of about the same length, the longest-waiting first.

Attention costs the square of the padded length and Triton merges only requests of equal shape, so lengths are rounded up to
a few values and each value has a queue of its own.
"""

from collections import defaultdict, deque
from dataclasses import dataclass

from icestream.event import Event
from icestream.tensors import padded_length


@dataclass(frozen=True)
class Item:
    """An event that waits for its reconstruction."""

    entry_id: bytes  # of its entry in the stream
    payload: bytes  # of that entry, for the case that it has to be rejected
    event: Event
    tries: int  # deliveries of the entry, this one included
    read_ns: int  # Unix time


@dataclass(frozen=True)
class Batch:
    """Events of one request."""

    items: list[Item]
    length: int  # padded

    def halves(self) -> tuple["Batch", "Batch"]:
        """The batch cut in two; it must have at least two events."""
        middle = len(self.items) // 2
        return Batch(self.items[:middle], self.length), Batch(self.items[middle:], self.length)


class Waiting:
    """Events that wait for a request.

    Args:
        limit: the most pulses the model is given.
        max_batch: the most events of one request.
    """

    def __init__(self, limit: int, max_batch: int):
        self._limit, self._max_batch = limit, max_batch
        self._queues: defaultdict[int, deque[Item]] = defaultdict(deque)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, item: Item) -> None:
        self._queues[padded_length(item.event.n_pulses, self._limit)].append(item)
        self._count += 1

    def take(self) -> Batch:
        """The events of the length whose first has waited longest; there must be an event."""
        length, queue = min(
            ((length, queue) for length, queue in self._queues.items() if queue), key=lambda pair: pair[1][0].read_ns
        )
        items = [queue.popleft() for _ in range(min(len(queue), self._max_batch))]
        self._count -= len(items)
        return Batch(items, length)
