"""The inputs and outputs of the model, named once, and how events become its arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icestream.event import Event

# name → (type as Triton writes it, dims of one event; -1 is the number of pulses)
INPUTS: dict[str, tuple[str, list[int]]] = {
    "sensor_id": ("INT32", [-1]),  # -1 marks padding
    "time": ("FP32", [-1]),  # ns
    "charge": ("FP32", [-1]),  # photo-electrons
    "auxiliary": ("BOOL", [-1]),
    "n_pulses": ("INT32", [1]),  # of the event, before any were dropped
}
OUTPUTS: dict[str, tuple[str, list[int]]] = {
    "direction": ("FP32", [3]),  # unit vector to where the particle came from
    "kappa": ("FP32", [1]),  # von Mises–Fisher concentration
    "radius": ("FP32", [3]),  # degrees around the direction that hold these shares of such events:
}
RADIUS_SHARES = (0.5, 0.68, 0.9)
RADIUS_50, RADIUS_68, RADIUS_90 = range(3)  # columns of `radius`
PADDING_SENSOR = -1

Arrays = dict[str, NDArray[Any]]


def choose_pulses(auxiliary: NDArray[np.bool_], limit: int, seed: int) -> NDArray[np.intp]:
    """Which pulses of a long event the model gets: the rule of IceMix's authors, made repeatable.

    All non-auxiliary pulses if they fit, else a uniform random subset of them; the rest is filled with random auxiliary
    ones. The seed makes a redelivered event give the same answer.

    Args:
        auxiliary: (pulses,) in time order, more than `limit` of them.
        seed: the event_id.

    Returns:
        (limit,) indices, rising, so time order is kept.
    """
    generator = np.random.default_rng(seed & (2**64 - 1))
    good = np.flatnonzero(~auxiliary)
    if len(good) >= limit:
        chosen = generator.choice(good, limit, replace=False)
    else:
        rest = generator.choice(np.flatnonzero(auxiliary), limit - len(good), replace=False)
        chosen = np.concatenate([good, rest])
    return np.sort(chosen)


def padded_length(n_pulses: int, limit: int) -> int:
    """The length an event is padded to: the next multiple of 16, of 32 above 128, of 64 above 256; at most the limit."""
    step = 16 if n_pulses <= 128 else 32 if n_pulses <= 256 else 64
    return min(-(-n_pulses // step) * step, limit)


def length_buckets(limit: int) -> list[int]:
    """All lengths that `padded_length` gives, rising."""
    return sorted({padded_length(n_pulses, limit) for n_pulses in range(1, limit + 1)})


def pad(events: Sequence[Event], length: int) -> Arrays:
    """A batch of events as the model's inputs.

    Args:
        length: the padded length; longer events are cut to it by `choose_pulses`.

    Returns:
        the five inputs, (events, length) each and n_pulses (events, 1).
    """
    sensor_id = np.full((len(events), length), PADDING_SENSOR, np.int32)
    time, charge = np.zeros((2, len(events), length), np.float32)
    auxiliary = np.zeros((len(events), length), np.bool_)
    for row, event in enumerate(events):
        n = event.n_pulses
        if n <= length:
            sensor_id[row, :n], time[row, :n] = event.sensor_id, event.time_ns
            charge[row, :n], auxiliary[row, :n] = event.charge_pe, event.auxiliary
        else:
            chosen = choose_pulses(event.auxiliary, length, event.event_id)
            sensor_id[row], time[row] = event.sensor_id[chosen], event.time_ns[chosen]
            charge[row], auxiliary[row] = event.charge_pe[chosen], event.auxiliary[chosen]
    n_pulses = np.array([[event.n_pulses] for event in events], np.int32).reshape(len(events), 1)
    return {"sensor_id": sensor_id, "time": time, "charge": charge, "auxiliary": auxiliary, "n_pulses": n_pulses}
