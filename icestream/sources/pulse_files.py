"""The events of several files, with their truth. Files that share events are read together."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from icestream.sources.pulse_table import Events, Layout, PulseTable, check_columns, statistics, within_detector
from icestream.sources.source import EventAndTruth, SourceError
from icestream.sources.truth_table import TruthTable


class PulseFiles:
    """Parquet files of pulses.

    Args:
        paths: in the order in which they are read.
        truths: files that may hold the truth.

    Attributes:
        contents: name, size and first events of the files, those whose event ids may overlap together: a run that was begun without
            one of them cannot be continued with it.
        left_out: pulses of DOMs that are not IceCube-86's, so far.
        joined: events in several files, so far.
        truth: where the truth comes from, or why it is not known.

    Raises:
        SourceError: a file is damaged, or has other columns.
    """

    def __init__(self, paths: Sequence[Path], layout: Layout, truths: Sequence[Path]):
        self._paths, self._layout = paths, layout
        for path in paths:
            check_columns(path, [layout.event_id, *layout.pulse])
        ranges = [found for path in paths for found in statistics(path, layout.event_id)]
        self._truths = TruthTable(truths, layout.event_id, ranges)
        self.truth = self._truths.words
        self.left_out = self.joined = 0
        self._groups = self._overlapping()
        self.contents = ["; ".join(_described(path, layout.event_id) for path in group) for group in self._groups]

    def events(self, run_id: int, after: int | None = None) -> Iterator[EventAndTruth]:
        """All events, in the files' order.

        Args:
            after: leave out everything up to and including this event_id.

        Raises:
            SourceError: a file is damaged, or `after` is not there.
        """
        for table, events in self.tables():
            start = 0
            if after is not None:
                found = np.flatnonzero(events.ids == after)
                if not len(found):
                    continue
                start, after = int(found[0]) + 1, None
            truths = self._truths.of(events.ids[start:], run_id)
            for event, truth in zip(table.events(events, start, run_id), truths, strict=True):
                left_out = 0
                if table.leaves_out:
                    event, left_out = within_detector(event)
                self.left_out += left_out
                yield event, truth
        if after is not None:
            raise SourceError(
                f"event {after}, at which run {run_id} was left, is not in {self._paths[0].parent}: "
                "the run was begun with other files; give another run id"
            )

    def tables(self) -> Iterator[tuple[PulseTable, Events]]:
        """The files that are read together, which are those that share events; reads their event ids. Raises SourceError."""
        for group in self._groups:
            yield from self._sharing([self._table([path]) for path in group])

    def _table(self, paths: Sequence[Path]) -> PulseTable:
        return PulseTable(paths, self._layout)

    def _overlapping(self) -> list[list[Path]]:
        """Files whose ranges of event ids overlap, as far as their footers say; files that do not are alone."""
        spans: list[tuple[int, int, int]] = []  # least and greatest id, number of the file
        for number, path in enumerate(self._paths):
            said = statistics(path, self._layout.event_id)
            known = [pair for pair in said if pair is not None]
            if len(known) < len(said):
                ids = self._table([path]).scan().ids
                known = [(int(ids.min()), int(ids.max()))] if len(ids) else []
            if known:
                spans.append((min(low for low, _ in known), max(high for _, high in known), number))
        groups: list[list[int]] = []
        reached = 0
        for low, high, number in sorted(spans):
            if groups and low <= reached:
                groups[-1].append(number)
                reached = max(reached, high)
            else:
                groups.append([number])
                reached = high
        return [[self._paths[number] for number in sorted(group)] for group in sorted(groups, key=min)]

    def _sharing(self, tables: Sequence[PulseTable]) -> Iterator[tuple[PulseTable, Events]]:
        """Tables joined where they share events."""
        scanned = [table.scan() for table in tables]
        joined: list[set[int]] = []
        for number, events in enumerate(scanned):
            own = {number}
            for other in range(number):
                if not len(np.intersect1d(events.ids, scanned[other].ids)):
                    continue
                own |= next(group for group in joined if other in group)
            joined = [group for group in joined if not group & own] + [own]
        for group in sorted(joined, key=min):
            if len(group) == 1:
                [number] = group
                yield tables[number], scanned[number]
            else:
                table = self._table([path for number in sorted(group) for path in tables[number].paths])
                events = table.scan()
                self.joined += sum(len(scanned[number].ids) for number in group) - len(events.ids)
                yield table, events


def _described(path: Path, event_id: str) -> str:
    known = [pair for pair in statistics(path, event_id) if pair is not None]
    first = f", events from {known[0][0]}" if known else ""
    path = path.resolve()
    return f"{path.parent.name}/{path.name}, {path.stat().st_size} bytes{first}"
