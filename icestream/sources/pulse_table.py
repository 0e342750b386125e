"""Events out of Parquet files with one row per pulse, grouped by event whatever the order of the rows.

    scan         read the event ids alone: which events, how many rows of each, are the rows of each adjacent?
    contiguous   they are: read the files once, in batches
    gathered     they are not: read the files once for every CHUNK_ROWS rows, and collect the rows of so many events

Of a file of the competition, 33 million rows and 200 000 events, the first takes 0.36 GB in all and 3 s of CPU, the second 0.5 to 0.7 GB
and 45 to 145 s; most of it is what Parquet's reader and the sorting of a chunk need. Each event takes 40 bytes (with its truth).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace
from numpy.typing import NDArray

from icestream.event import MAX_PULSES, RawEvent
from icestream.sources.source import SourceError

BATCH_ROWS = 500_000
MOST_ROWS = MAX_PULSES + 1  # of one event that are kept: enough for it to be rejected as too large
LEFT_OUT = -2  # the sensor of a pulse that is none of the detector's
CHUNK_ROWS = 2_000_000
MERGED_RUNS = 1_000_000
DOUBLED_LEAST = 4  # pulses of an event that has each of them twice; two that are equal may be chance

Columns = tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the columns of a table of pulses are.

    Attributes:
        event_id: name of the column that says whose pulse it is.
        pulse: names of the others.
        convert: makes `Columns` of those, as floats, NaN where one is empty. What is no such value becomes one that is refused: it
            harms its event alone. Rows whose sensor is LEFT_OUT are left out.
    """

    event_id: str
    pulse: Sequence[str]
    convert: Callable[..., Columns]


@dataclass(frozen=True)
class Events:
    """The events of files, in the order in which they first appear."""

    ids: NDArray[np.int64]
    rows: NDArray[np.int64]  # of each
    contiguous: bool


class PulseTable:
    """Files that are read together: one, or several that share events."""

    def __init__(self, paths: Sequence[Path], layout: Layout):
        self.paths, self._layout = paths, layout
        self.leaves_out = False  # some rows, as far as they were read

    def scan(self) -> Events:
        """The events; reads the event ids alone. Raises SourceError."""
        found, fresh = [(np.empty(0, np.int64),) * 3], 0
        read, runs, latest = 0, 0, None
        for path in self.paths:
            for batch in batches(path, [self._layout.event_id]):
                ids = whole_numbers(path, batch, self._layout.event_id)
                starts = np.flatnonzero(np.diff(ids, prepend=ids[:1] - 1))
                if not len(starts):
                    continue
                runs += len(starts) - (ids[0] == latest)  # a run may go on in the next batch
                found.append((ids[starts], np.diff(np.append(starts, len(ids))), read + starts))
                read, latest, fresh = read + len(ids), ids[-1], fresh + len(starts)
                if fresh > MERGED_RUNS:
                    found, fresh = [_merged(found)], 0
        ids, rows, first = _merged(found)
        order = np.argsort(first, kind="stable")
        return Events(ids[order], rows[order], runs == len(ids))

    def events(self, events: Events, start: int, run_id: int) -> Iterator[RawEvent]:
        """The events from number `start` on. Raises SourceError."""
        read = self._contiguous if events.contiguous else self._gathered
        for event_id, (sensor_id, time_ns, charge_pe, auxiliary) in read(events, start):
            yield RawEvent(
                run_id=run_id, event_id=event_id, emitted_ns=0,
                sensor_id=sensor_id, time_ns=time_ns, charge_pe=charge_pe, auxiliary=auxiliary,
            )  # fmt: skip

    def _contiguous(self, events: Events, start: int) -> Iterator[tuple[int, Columns]]:
        ends = np.cumsum(events.rows)
        skipped = int(ends[start - 1]) if start else 0
        read, number, held = 0, start, _empty()  # held: rows of the event that the next batch goes on with
        for path in self.paths:
            for batch in batches(path, self._layout.pulse):
                before, read = read, read + batch.num_rows
                if read <= skipped:
                    continue
                fresh = _part(self._columns(path, batch), slice(max(0, skipped - before), None))
                begin, complete = read - len(fresh[0]), int(np.searchsorted(ends, read, "right"))
                edges = np.concatenate([[0], ends[number:complete] - begin])  # of the events that end in this batch
                odd = _disordered(fresh, edges)
                if len(held[0]):
                    odd.add(0)
                places = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
                for index, (event_id, (low, high)) in enumerate(
                    zip(events.ids[number:complete].tolist(), places, strict=True)
                ):
                    part = _part(fresh, slice(low, high))
                    if index in odd:
                        part, held = self._ordered(event_id, _joined([held, part])), _empty()
                    yield event_id, part
                number = complete
                held = _part(_joined([held, _part(fresh, slice(int(edges[-1]), None))]), slice(MOST_ROWS))
        if number < len(events.ids) or len(held[0]):
            raise SourceError(self._changed())

    def _ordered(self, event_id: int, columns: Columns) -> Columns:
        """The pulses of an event in the order of their times; raises SourceError if each is there twice."""
        number = np.zeros(len(columns[0]), np.int32)
        if (np.diff(columns[1]) < 0).any():
            columns = _part(columns, np.lexsort((columns[2], columns[0], columns[1])))
        self._refuse_doubled(np.array([event_id]), number, columns, np.array([0, len(number)]))
        return columns

    def _gathered(self, events: Events, start: int) -> Iterator[tuple[int, Columns]]:
        while start < len(events.ids):
            end = self._chunk_end(events, start)
            wanted = events.ids[start:end]
            in_order = np.argsort(wanted)
            numbered, parts, found = [np.empty(0, np.int32)], [_empty()], 0
            for path in self.paths:
                for batch in batches(path, [self._layout.event_id, *self._layout.pulse]):
                    ids = whole_numbers(path, batch, self._layout.event_id)
                    place = np.searchsorted(wanted, ids, sorter=in_order).clip(max=len(wanted) - 1)
                    mine = np.flatnonzero(wanted[in_order[place]] == ids)
                    found += len(mine)
                    mine = mine[: max(0, MOST_ROWS - sum(map(len, numbered)))] if len(wanted) == 1 else mine
                    if len(mine):
                        numbered.append(in_order[place[mine]].astype(np.int32))
                        parts.append(_part(self._columns(path, batch), mine))
            if found != events.rows[start:end].sum():
                raise SourceError(self._changed())
            number, columns = np.concatenate(numbered), _joined(parts)
            del numbered, parts  # the memory of each row counts
            order = np.lexsort((columns[2], columns[0], columns[1], number))  # by event, and by time in each
            number, columns = number[order], _part(columns, order)
            edges = np.concatenate([[0], np.cumsum(np.bincount(number, minlength=len(wanted)))])
            self._refuse_doubled(wanted, number, columns, edges)
            for event_id, low, high in zip(wanted.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                yield event_id, _part(columns, slice(low, high))
            start = end

    @staticmethod
    def _chunk_end(events: Events, start: int) -> int:
        """The events of a chunk; one with more pulses than an event may have is alone."""
        large = np.flatnonzero(events.rows[start:] > MOST_ROWS)
        if len(large) and large[0] == 0:
            return start + 1
        few = max(1, int(np.searchsorted(np.cumsum(events.rows[start:]), CHUNK_ROWS, "right")))
        return start + min(few, int(large[0]) if len(large) else few)

    def _refuse_doubled(
        self, wanted: NDArray[np.int64], number: NDArray[np.int32], columns: Columns, edges: NDArray[np.intp]
    ) -> None:
        """Raise SourceError if an event has each of its pulses twice: its files, or a part of them, are there twice."""
        again = _equal_to_the_one_before(columns)
        again = again[number[again] == number[again - 1]]
        doubled = np.bincount(number[again], minlength=len(wanted))
        sizes = np.diff(edges)
        found = np.flatnonzero((doubled * 2 >= sizes) & (sizes >= DOUBLED_LEAST))
        if len(found):
            places = " and ".join(map(str, self.paths))
            raise SourceError(
                f"{places}: event {wanted[found[0]]} has each of its pulses twice: remove what is there twice"
            )

    def _changed(self) -> str:
        return f"{' and '.join(map(str, self.paths))}: changed while it was read; replay it when it is complete"

    def _columns(self, path: Path, batch: pa.RecordBatch) -> Columns:
        columns = self._layout.convert(*(values(path, batch, name) for name in self._layout.pulse))
        self.leaves_out = self.leaves_out or bool((columns[0] == LEFT_OUT).any())
        return columns


def _disordered(columns: Columns, edges: NDArray[np.int64]) -> set[int]:
    """The events (by number) of which a pulse is earlier than the one before it, or which may have each pulse twice.

    Args:
        edges: where each event begins, and where the last one ends.
    """
    columns = _part(columns, slice(int(edges[-1])))
    time = columns[1]
    within = np.ones(len(time), bool)  # whether the pulse before it is of the same event
    within[edges[:-1]] = False
    early = np.flatnonzero(within[1:] & (time[1:] < time[:-1])) + 1
    again = _equal_to_the_one_before(columns)
    times = np.bincount(np.searchsorted(edges, again[within[again]], "right") - 1, minlength=len(edges) - 1)
    doubled = np.flatnonzero((times * 2 >= np.diff(edges)) & (times > 0))
    return {*(np.searchsorted(edges, early, "right") - 1).tolist(), *doubled.tolist()}


def _equal_to_the_one_before(columns: Columns) -> NDArray[np.intp]:
    """The pulses that are; without those that are left out, of which nothing is known but their time and charge."""
    equal = np.all([column[1:] == column[:-1] for column in columns], axis=0)
    return np.flatnonzero(equal & (columns[0][1:] != LEFT_OUT)) + 1


def _merged(
    parts: Sequence[Sequence[NDArray[np.int64]]],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Each event once: its id, all its rows, and the first of them. The parts have these, in the order of the rows."""
    ids, rows, first = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    unique, index, of = np.unique(ids, return_index=True, return_inverse=True)
    return unique, np.bincount(of, weights=rows, minlength=len(unique)).astype(np.int64), first[index]


def columns_of(sensor: NDArray[Any], time: NDArray[Any], charge: NDArray[Any], auxiliary: NDArray[Any]) -> Columns:
    """Pulses in the types of an event; what is no such value becomes one that is refused."""
    known = (sensor >= LEFT_OUT) & (sensor <= np.iinfo(np.int16).max)
    if sensor.dtype.kind == "f":
        known &= sensor == np.floor(sensor)
    flags = (auxiliary == 0) | (auxiliary == 1)
    with np.errstate(over="ignore", invalid="ignore"):
        return (
            (sensor if known.all() else np.where(known, sensor, -1)).astype(np.int16),
            time.astype(np.float32),
            (charge if flags.all() else np.where(flags, charge, np.nan)).astype(np.float32),
            auxiliary == 1,
        )


def within_detector(event: RawEvent) -> tuple[RawEvent, int]:
    """The event without the pulses that are LEFT_OUT, and their number."""
    kept = event.sensor_id != LEFT_OUT
    if kept.all():
        return event, 0
    pulses = {name: getattr(event, name)[kept] for name in ("sensor_id", "time_ns", "charge_pe", "auxiliary")}
    return replace(event, **pulses), int(np.count_nonzero(~kept))


def column_names(path: Path) -> list[str]:
    """The columns of a Parquet file; raises SourceError."""
    try:
        names: list[str] = pq.read_schema(path).names
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise SourceError(f"{path}: not a readable Parquet file ({error})") from None
    return names


def check_columns(path: Path, wanted: Sequence[str]) -> None:
    """Raise SourceError if a column is missing."""
    names = column_names(path)
    if twice := [name for name in wanted if names.count(name) > 1]:
        raise SourceError(f"{path}: there are {names.count(twice[0])} columns {twice[0]}")
    missing = [name for name in wanted if name not in names]
    if missing:
        raise SourceError(f"{path}: column {missing[0]} is missing; expected {', '.join(wanted)}")


def batches(path: Path, columns: Sequence[str], row_groups: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file; raises SourceError."""
    try:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(BATCH_ROWS, row_groups=row_groups, columns=list(columns))
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read ({error})") from None


def whole_numbers(path: Path, batch: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    """A column of event ids: whole numbers, whether stored as such, as floats or as text; raises SourceError."""
    column = batch.column(name)
    if column.null_count:
        raise SourceError(
            f"{path}: {column.null_count} rows have no {name}: whose pulses they are is not known; leave them out"
        )
    try:
        values: NDArray[np.int64] = column.cast(pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException as error:
        raise SourceError(f"{path}: column {name} is {column.type}, no whole numbers of 64 bits ({error})") from None
    return values


def statistics(path: Path, name: str) -> list[tuple[Any, Any] | None]:
    """The least and the greatest value of a column in each row group; None where the file does not say. Raises SourceError."""
    try:
        metadata = pq.read_metadata(path)
    except (OSError, UnicodeError, pa.ArrowException) as error:
        raise SourceError(f"{path}: not a readable Parquet file ({error})") from None
    found: list[tuple[Any, Any] | None] = []
    for group in range(metadata.num_row_groups):
        columns = (metadata.row_group(group).column(index) for index in range(metadata.num_columns))
        known = next((column.statistics for column in columns if column.path_in_schema == name), None)
        if known is not None and known.has_min_max and isinstance(known.min, int | float):
            found.append((known.min, known.max))
        else:
            found.append(None)
    return found


def numbers(path: Path, batch: pa.RecordBatch, name: str) -> NDArray[np.float64]:
    """A column as floats, NaN where it is empty; raises SourceError if it has no numbers."""
    return values(path, batch, name).astype(np.float64)


def values(path: Path, batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    """A column as numbers of its own kind, or as floats, NaN where it is empty; raises SourceError if it has no numbers."""
    column = batch.column(name)
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.uint8())
    elif pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise SourceError(f"{path}: column {name} is {kind}, no numbers")
    found: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found.astype(np.float64) if found.dtype.kind not in "iuf" else found


def _empty() -> Columns:
    return np.empty(0, np.int16), np.empty(0, np.float32), np.empty(0, np.float32), np.empty(0, np.bool_)


def _joined(parts: Sequence[Any]) -> Any:
    return tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))


def _part(columns: Columns, rows: Any) -> Columns:
    sensor, time, charge, auxiliary = columns
    return sensor[rows], time[rows], charge[rows], auxiliary[rows]
