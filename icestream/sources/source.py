"""The protocol of a source of events, and the position from which a source continues."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from icestream.event import Event
from icestream.truth import Truth

EventAndTruth = tuple[Event, Truth | None]


@dataclass(frozen=True)
class Position:
    """The last event of a run that is in the stream."""

    run_id: int  # of the pass it belongs to
    event_id: int


class Source(Protocol):
    def events(self, run_id: int, after: Position | None) -> Iterator[EventAndTruth]:
        """The events of a run, from its start or after a position."""
