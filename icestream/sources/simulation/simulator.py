"""Simulated events without end, reproducible from a seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np

from icestream import direction
from icestream.detector import Detector
from icestream.event import Event
from icestream.sources.simulation.culling import CpuIce
from icestream.sources.simulation.draws import Array, Draws, NumpyDraws
from icestream.sources.simulation.light import Ice, detected_photons
from icestream.sources.simulation.particles import KINDS, draw_particles
from icestream.sources.simulation.readout import Pulses, read_out
from icestream.sources.source import EventAndTruth, Position
from icestream.truth import Truth

VERSION = 2  # of the physics: raise it when the same seed gives other events
CHUNK = 256  # particles drawn at a time: large enough for vectors, small enough for a CPU's cache


@dataclass(frozen=True)
class Chunk:
    """Accepted events of one draw."""

    pulses: Pulses
    came_from: Array  # (events, 3) true unit vectors
    kind: Array  # (events,) int64, index into KINDS
    energy_gev: Array  # (events,)


def simulate_chunk(ice: Ice, draws: Draws, size: int = CHUNK) -> Chunk:
    """Draw `size` particles and keep those that trigger."""
    particles = draw_particles(draws, size)
    pulses, accepted = read_out(detected_photons(particles, ice, draws), size, draws)
    return Chunk(pulses, -particles.travel[accepted], particles.kind[accepted], particles.energy_gev[accepted])


def numpy_chunk(ice: Ice, seed: int, number: int) -> Chunk:
    """Chunk `number` of the stream that `seed` names; chunks are independent of each other."""
    return simulate_chunk(ice, NumpyDraws(np.random.default_rng([seed, number])))


def events_of(chunk: Chunk, run_id: int = 0, number: int = 0) -> list[Event]:
    """The accepted events of chunk `number`; an event_id tells its chunk: number·CHUNK + place among the accepted."""
    pulses = chunk.pulses
    sensor_id, time, charge = pulses.sensor_id.astype(np.int16), pulses.time_ns.astype(np.float32), pulses.charge_pe
    edges = np.searchsorted(pulses.event, np.arange(len(chunk.kind) + 1)).tolist()
    return [
        Event(
            run_id=run_id,
            event_id=number * CHUNK + index,
            emitted_ns=0,
            sensor_id=sensor_id[low:high],
            time_ns=time[low:high],
            charge_pe=charge[low:high],
            auxiliary=pulses.auxiliary[low:high],
        )
        for index, (low, high) in enumerate(pairwise(edges))
    ]


def simulated_events(
    detector: Detector, seed: int, run_id: int, after: int | None = None
) -> Iterator[tuple[Event, Truth]]:
    """Events with their truth. The same seed gives the same events, always.

    Args:
        after: begin after this event_id.
    """
    ice = CpuIce(detector)
    for number in count(0 if after is None else after // CHUNK):
        chunk = numpy_chunk(ice, seed, number)
        azimuth, zenith = direction.to_angles(chunk.came_from)
        for index, event in enumerate(events_of(chunk, run_id, number)):
            if after is None or event.event_id > after:
                truth = Truth(
                    run_id=run_id,
                    event_id=event.event_id,
                    azimuth=float(azimuth[index]),
                    zenith=float(zenith[index]),
                    kind=KINDS[chunk.kind[index]],
                )
                yield event, truth


class Simulation:
    """A source of simulated events without end."""

    left_out = joined = 0

    def __init__(self, detector: Detector, seed: int):
        self._detector, self._seed = detector, seed
        self.contents, self.truth = [f"simulated, seed {seed}, {detector.name}"], "simulated"

    def events(self, run_id: int, after: Position | None) -> Iterator[EventAndTruth]:
        """The events of a run, from its start or after a position."""
        return simulated_events(self._detector, self._seed, run_id, None if after is None else after.event_id)
