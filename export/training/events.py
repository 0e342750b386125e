"""Events as batches of the model's inputs, without end, the same again from a place: simulated ones, never the same event twice,
or recorded ones again and again.

The stream of a seed is a row of pools. A pool is a fixed number of events, sorted by length, cut into batches and shuffled;
it depends on the seed and its number alone, not on how many processes make it or where a reader begins.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from icestream.detector import Detector
from icestream.event import Event
from icestream.sources.simulation.culling import CpuIce
from icestream.sources.simulation.simulator import events_of, numpy_chunk
from icestream.tensors import Arrays, pad, padded_length

TRAINING_SEED, HELD_OUT_SEED, CALIBRATION_SEED = 1, 2, 3
JITTER_NS = 1500.0  # an event's times are moved together by up to this: a trigger's time zero is not to be relied on
CHUNKS = 8  # of the simulation in a pool
RECORDED = 4096  # recorded events in a pool, at most

Batches = list[tuple[Arrays, NDArray[np.float32]]]  # (inputs, true unit vectors (events, 3))


@dataclass(frozen=True)
class Place:
    """A position in the event stream."""

    pool: int = 0
    batch: int = 0  # of the pool


class Pools(Dataset[Batches], ABC):
    """Pool number → its batches.

    Args:
        batch: events of one.
        limit: pulses that the model is given.
    """

    def __init__(self, seed: int, batch: int, limit: int):
        self.seed, self.batch, self.limit = seed, batch, limit

    def __getitem__(self, pool: int) -> Batches:
        events, truth = self.events(pool)
        generator = np.random.default_rng([self.seed, pool, 1])
        events = [event.shifted(float(generator.uniform(-JITTER_NS, JITTER_NS))) for event in events]
        count = len(events) // self.batch
        chosen = generator.permutation(len(events))[: count * self.batch]  # what is left over is of any length
        by_length = chosen[np.argsort([events[row].n_pulses for row in chosen], kind="stable")]
        made = []
        for index in generator.permutation(count):
            rows = by_length[index * self.batch : (index + 1) * self.batch]
            length = padded_length(max(events[row].n_pulses for row in rows), self.limit)
            made.append((pad([events[row] for row in rows], length), truth[rows]))
        return made

    @abstractmethod
    def events(self, pool: int) -> tuple[list[Event], NDArray[np.float32]]:
        """The events of a pool and their true unit vectors."""


class SimulatedPools(Pools):
    def __init__(self, detector: Detector, seed: int, batch: int, limit: int):
        super().__init__(seed, batch, limit)
        self.detector = detector

    def events(self, pool: int) -> tuple[list[Event], NDArray[np.float32]]:
        ice = CpuIce(self.detector)
        chunks = [numpy_chunk(ice, self.seed, pool * CHUNKS + index) for index in range(CHUNKS)]
        truth = np.concatenate([chunk.came_from for chunk in chunks]).astype(np.float32)
        return [event for chunk in chunks for event in events_of(chunk)], truth


class RecordedPools(Pools):
    """Events that are held in memory; each pass over them is in another order."""

    def __init__(self, events: list[Event], truth: NDArray[np.float64], *, seed: int, batch: int, limit: int):
        super().__init__(seed, batch, limit)
        self._events, self._truth = events, truth.astype(np.float32)

    def events(self, pool: int) -> tuple[list[Event], NDArray[np.float32]]:
        in_pass = max(1, len(self._events) // RECORDED)
        order = np.random.default_rng([self.seed, pool // in_pass, 2]).permutation(len(self._events))
        rows = np.array_split(order, in_pass)[pool % in_pass]
        return [self._events[row] for row in rows], self._truth[rows]


def batches(data: Pools, place: Place, workers: int) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor, Place]]:
    """The stream from a place on, made by worker processes: inputs, truth, and the place behind them."""

    def pools() -> Iterator[int]:
        number = place.pool
        while True:
            yield number
            number += 1

    first, number = place.batch, place.pool
    for pool in DataLoader(
        data, sampler=pools(), batch_size=None, num_workers=workers, prefetch_factor=2 if workers else None
    ):
        for index in range(first, len(pool)):
            inputs, truth = pool[index]
            yield tuple(inputs.values()), truth, Place(number, index + 1)
        first, number = 0, number + 1
