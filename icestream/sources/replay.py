"""Replays files, whatever they are."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

from icestream.sources.graphnet import open_graphnet
from icestream.sources.kaggle import open_folder
from icestream.sources.source import EventAndTruth, Files, Position, SourceError

FILES = "kaggle:DIR or graphnet:FILE"
KINDS = f"simulate, {FILES}"


def is_replay(source: str) -> bool:
    """Whether the name of a source is one of files."""
    kind, _, place = source.partition(":")
    return kind in ("kaggle", "graphnet") and bool(place)


def open_files(source: str) -> Files:
    """The files that kaggle:DIR or graphnet:FILE names; raises SourceError."""
    kind, _, place = source.partition(":")
    try:
        if kind == "kaggle" and place:
            return open_folder(Path(place))
        if kind == "graphnet" and place:
            return open_graphnet(place)
    except (OSError, UnicodeError) as error:
        raise SourceError(f"{source}: cannot be read ({error})") from None
    raise SourceError(f"{source}: a source of files is {FILES}")


class Replay:
    """A source that replays files, once or again and again; pass k is run `run_id + k`."""

    def __init__(self, files: Files, loop: bool):
        self._files, self._loop = files, loop
        self.contents, self.truth = files.contents, files.truth

    @property
    def left_out(self) -> int:
        """Pulses of DOMs that are not IceCube-86's, so far."""
        return self._files.left_out

    @property
    def joined(self) -> int:
        """Events that were put together from several files, so far."""
        return self._files.joined

    def events(self, run_id: int, after: Position | None) -> Iterator[EventAndTruth]:
        """The events of a run, from its start or after a position; raises SourceError."""
        first = run_id if after is None else after.run_id
        for current in count(first) if self._loop else [first]:
            behind, empty = after.event_id if after and after.run_id == current else None, True
            for pair in self._files.events(current, behind):
                empty = False
                yield pair
            if empty and behind is None and self._loop:
                raise SourceError("there is no event in the files to repeat")
