"""The protocol of a source of events, and the position from which a source continues."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from icestream.event import RawEvent
from icestream.truth import Truth

EventAndTruth = tuple[RawEvent, Truth | None]  # an event that cannot be reconstructed is rejected by the bridge


@dataclass(frozen=True)
class Position:
    """The last event of a run that is in the stream."""

    run_id: int  # of the pass it belongs to
    event_id: int


class SourceError(ValueError):
    """A source that cannot be read; the message names file, cause and fix."""


class Files(Protocol):
    """What has been recorded, event by event.

    Attributes:
        contents, truth, left_out, joined: as of `Source`.
    """

    contents: list[str]
    truth: str
    left_out: int
    joined: int

    def events(self, run_id: int, after: int | None = None) -> Iterator[EventAndTruth]:
        """All events, or those after an event_id; raises SourceError."""


class Source(Protocol):
    """Events, the same ones in the same order each time."""

    @property
    def contents(self) -> Sequence[str]:
        """What it is made of: a run is continued by a source whose contents begin with those that the run was begun with."""

    @property
    def truth(self) -> str:
        """Where the truth comes from, or why it is not known, in words."""

    @property
    def left_out(self) -> int:
        """Pulses that were left out so far, because their DOMs are not IceCube-86's."""

    @property
    def joined(self) -> int:
        """Events so far that were put together from pulses in several files."""

    def events(self, run_id: int, after: Position | None) -> Iterator[EventAndTruth]:
        """The events of a run, from its start or after a position; raises SourceError."""
