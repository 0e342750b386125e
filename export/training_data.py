"""Simulated events as batches of the model's inputs, without end and never the same event twice."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from icestream.detector import Detector
from icestream.simulation.draws import NumpyDraws
from icestream.simulation.light import Ice
from icestream.simulation.simulator import Chunk, events_of, numpy_chunk
from icestream.tensors import Arrays, pad, padded_length

TRAINING_SEED, HELD_OUT_SEED = 1, 2
POOL = 1024  # events that are sorted by length before they are cut into batches


class SimulatedBatches(IterableDataset[tuple[Arrays, NDArray[np.float32], int]]):
    """(inputs, true unit vectors, number of the last chunk used); each worker simulates every W-th chunk."""

    def __init__(self, detector: Detector, seed: int, first_chunk: int, batch: int, limit: int):
        self.detector, self.seed, self.first_chunk, self.batch, self.limit = detector, seed, first_chunk, batch, limit

    def __iter__(self) -> Iterator[tuple[Arrays, NDArray[np.float32], int]]:
        info = get_worker_info()
        step, number = (info.num_workers, self.first_chunk + info.id) if info else (1, self.first_chunk)
        ice = Ice(self.detector, NumpyDraws(np.random.default_rng()))
        shuffle = np.random.default_rng([self.seed, self.first_chunk])
        while True:
            chunks: list[Chunk] = []
            while sum(len(chunk.kind) for chunk in chunks) < POOL:
                chunks.append(numpy_chunk(ice, self.seed, number))
                number += step
            events = [event for chunk in chunks for event in events_of(chunk)]
            truth = np.concatenate([chunk.came_from for chunk in chunks])
            by_length = np.argsort([event.n_pulses for event in events])
            batches = [by_length[low : low + self.batch] for low in range(0, len(events) - self.batch + 1, self.batch)]
            for index in shuffle.permutation(len(batches)):
                rows = batches[index]
                length = padded_length(max(events[row].n_pulses for row in rows), self.limit)
                yield pad([events[row] for row in rows], length), truth[rows].astype(np.float32), number


def loader(dataset: SimulatedBatches, workers: int) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor, int]]:
    """Batches as tensors, made by worker processes."""
    for inputs, truth, number in DataLoader(
        dataset, batch_size=None, num_workers=workers, prefetch_factor=64 if workers else None
    ):
        yield tuple(inputs.values()), truth, number
