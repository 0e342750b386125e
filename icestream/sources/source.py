"""Where events come from: the simulation, or the competition's files. Both can take up a run where it was left."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from icestream.detector import Detector
from icestream.event import Event, Truth
from icestream.sources.kaggle import open_folder
from icestream.sources.simulation.simulator import simulated_events

Pair = tuple[Event, Truth | None]


@dataclass(frozen=True)
class Position:
    """The last event of a run that is in the stream."""

    run_id: int  # of the pass it belongs to
    event_id: int


class Source(Protocol):
    def events(self, run_id: int, after: Position | None) -> Iterator[Pair]:
        """The events of a run, from its start or from behind a position."""


class Simulation:
    """Simulated events without end."""

    def __init__(self, detector: Detector, seed: int):
        self._detector, self._seed = detector, seed

    def events(self, run_id: int, after: Position | None) -> Iterator[Pair]:
        return simulated_events(self._detector, self._seed, run_id, None if after is None else after.event_id)


class Replay:
    """The events of a folder, once or again and again; pass k is run `run_id + k`."""

    def __init__(self, folder: Path, loop: bool):
        self._folder, self._loop = open_folder(folder), loop

    def events(self, run_id: int, after: Position | None) -> Iterator[Pair]:
        first = run_id if after is None else after.run_id
        for current in count(first) if self._loop else [first]:
            yield from self._folder.events(current, after.event_id if after and after.run_id == current else None)
