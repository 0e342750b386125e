"""The training stream made on the GPU that trains: the same simulation on PyTorch's arrays, and batches without leaving it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import array_api_compat.torch
import numpy as np
import torch
from torch import Tensor

from export.training.events import JITTER_NS, Place
from icestream.detector import Detector
from icestream.sources.simulation.light import Ice
from icestream.sources.simulation.readout import Pulses
from icestream.sources.simulation.simulator import Chunk, simulate_chunk
from icestream.tensors import PADDING_SENSOR

PARTICLES, CHUNKS = 8192, 4  # what a GPU draws at a time, and how often for a pool


class TorchDraws:
    """Draws on a device, reproducible from a seed on the same kind of device."""

    xp = array_api_compat.torch

    def __init__(self, device: torch.device, seed: int):
        self._device = device
        self._generator = torch.Generator(device).manual_seed(seed)

    def asarray(self, values: Any, dtype: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values), device=self._device).to(dtype)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, device=self._device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, device=self._device)

    def exponential(self, *shape: int) -> Tensor:
        return torch.empty(shape, device=self._device).exponential_(generator=self._generator)

    def gamma(self, shape: Tensor) -> Tensor:
        return torch._standard_gamma(shape, generator=self._generator)  # torch.distributions.Gamma takes no generator

    def poisson(self, mean: Tensor) -> Tensor:
        return torch.poisson(mean, generator=self._generator).long()


def device_batches(
    detector: Detector, place: Place, device: torch.device, *, seed: int, batch: int, limit: int
) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Place]]:
    """The stream from a place on: inputs, truth, and the place behind them.

    A pool depends on the seed and its number (and, on a GPU, on the order in which it sums: a charge's last bit may differ).
    """
    number, first = place.pool, place.batch
    while True:
        draws = TorchDraws(device, int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        ice = Ice(detector, draws)
        chunks = [padded(simulate_chunk(ice, draws, PARTICLES), limit, draws) for _ in range(CHUNKS)]
        columns = [torch.cat(parts) for parts in zip(*(inputs for inputs, _ in chunks), strict=True)]
        truth = torch.cat([directions for _, directions in chunks])
        n_pulses = columns[4][:, 0]
        count = len(truth) // batch
        chosen = torch.argsort(draws.uniform(len(truth)))[: count * batch]
        by_length = chosen[torch.argsort(n_pulses[chosen], stable=True)]
        order = torch.argsort(draws.uniform(count)).tolist()
        for index in range(first, count):
            rows = by_length[order[index] * batch : (order[index] + 1) * batch]
            length = min(int(n_pulses[rows[-1]]), limit)
            inputs = tuple(column[rows, :length] for column in columns[:4])
            yield (*inputs, columns[4][rows]), truth[rows], Place(number, index + 1)
        number, first = number + 1, 0


def padded(chunk: Chunk, limit: int, draws: TorchDraws) -> tuple[tuple[Tensor, ...], Tensor]:
    """A chunk as the model's inputs, (events, limit) each and n_pulses (events, 1), by the rule of `choose_pulses`; and truth.

    Times of an event are moved together, as in `SimulatedPools`.
    """
    pulses, events = chunk.pulses, len(chunk.kind)
    start = torch.searchsorted(pulses.event, torch.arange(events + 1, device=pulses.event.device))
    n_pulses = start.diff()
    # Coincident pulses first, each kind in random order: the rank says which are kept.
    lot = draws.uniform(len(pulses.event)).double() / 2 + pulses.auxiliary.double() / 2
    order = torch.argsort(pulses.event.double() + lot)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - start[pulses.event[order]]
    kept = rank < limit
    pulses = Pulses(
        event=pulses.event[kept],
        sensor_id=pulses.sensor_id[kept],
        time_ns=pulses.time_ns[kept],
        charge_pe=pulses.charge_pe[kept],
        auxiliary=pulses.auxiliary[kept],
    )
    first = torch.searchsorted(pulses.event, torch.arange(events, device=order.device))
    slot = torch.arange(len(pulses.event), device=order.device) - first[pulses.event]
    shift = (2 * draws.uniform(events) - 1) * JITTER_NS
    pulses = replace(pulses, time_ns=pulses.time_ns.float() + shift[pulses.event])

    def filled(values: Tensor, padding: float, dtype: torch.dtype) -> Tensor:
        column = torch.full((events, limit), padding, dtype=dtype, device=values.device)
        column[pulses.event, slot] = values.to(dtype)
        return column

    columns = (
        filled(pulses.sensor_id, PADDING_SENSOR, torch.int32),
        filled(pulses.time_ns, 0, torch.float32),
        filled(pulses.charge_pe, 0, torch.float32),
        filled(pulses.auxiliary, 0, torch.bool),
    )
    return (*columns, n_pulses[:, None].int()), chunk.came_from.float()
