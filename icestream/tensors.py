"""The inputs and outputs of the model, named once, and how events become its arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icestream.event import MAX_PULSES, Event

# name → (type as Triton writes it, dims of one event; -1 is the number of pulses)
INPUTS: dict[str, tuple[str, list[int]]] = {
    "sensor_id": ("INT32", [-1]),  # -1 marks padding
    "time": ("FP32", [-1]),  # ns
    "charge": ("FP32", [-1]),  # photo-electrons
    "auxiliary": ("BOOL", [-1]),
    "n_pulses": ("INT32", [1]),  # of the event, those that the model is not given included
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


def choose_pulses(auxiliary: NDArray[np.bool_], limit: int, seed: int) -> NDArray[np.bool_]:
    """Which pulses of a long event the model gets: the rule of IceMix's authors, made repeatable.

    All non-auxiliary pulses if they fit, else a uniform random subset of them; the rest is filled with random auxiliary
    ones. Each pulse has a pseudo-random number, a hash of the seed and its place, and those with the lowest are taken: the seed
    makes a redelivered event give the same answer.

    Args:
        auxiliary: (pulses,) in time order, more than `limit` of them, at most MAX_PULSES.
        seed: the event_id.

    Returns:
        (pulses,) True for `limit` of them.
    """
    # An odd factor permutes the even numbers below 2^64 (Dietzfelbinger et al., J. Algorithms 25 (1997) 19): all differ.
    rank = _PLACES[: len(auxiliary)] * np.uint64(_mixed(seed + _STEP & 2**64 - 1) | 1)
    rank >>= _ONE
    rank |= auxiliary.astype(np.uint64) << _LAST  # behind all others
    taken: NDArray[np.bool_] = rank <= np.partition(rank, limit - 1)[limit - 1]
    return taken


def _mixed(number: int) -> int:
    """A hash of 64 bits: the finaliser of SplitMix64 (Steele et al., OOPSLA 2014)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    number = (number ^ number >> 27) * 0x94D049BB133111EB % 2**64
    return number ^ number >> 31


_ONE, _LAST, _STEP = np.uint64(1), np.uint64(63), 0x9E3779B97F4A7C15
_PLACES = np.array([_mixed(place * _STEP % 2**64) & ~1 for place in range(1, MAX_PULSES + 1)], np.uint64)


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
    shape = (len(events), length)
    arrays: Arrays = {
        "sensor_id": np.full(shape, PADDING_SENSOR, np.int32),
        "time": np.zeros(shape, np.float32),
        "charge": np.zeros(shape, np.float32),
        "auxiliary": np.zeros(shape, np.bool_),
    }
    for row, event in enumerate(events):
        count = min(event.n_pulses, length)
        chosen: Any = slice(None)
        if event.n_pulses > length:
            chosen = np.flatnonzero(choose_pulses(event.auxiliary, length, event.event_id))
        arrays["sensor_id"][row, :count] = event.sensor_id[chosen]
        arrays["time"][row, :count] = event.time_ns[chosen]
        arrays["charge"][row, :count] = event.charge_pe[chosen]
        arrays["auxiliary"][row, :count] = event.auxiliary[chosen]
    n_pulses = np.array([event.n_pulses for event in events], np.int32)
    return {**arrays, "n_pulses": n_pulses[:, np.newaxis]}
