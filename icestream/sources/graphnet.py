"""Events of GraphNeT's databases: SQLite files, and folders of Parquet files.

Either has a table of pulses, named after its pulse map (SRTInIcePulses and the like), and a table `truth`, both by event_no. A folder
has a subfolder of Parquet files for each table.
"""

import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icestream.detector import DOMS_PER_STRING, STRINGS
from icestream.event import RawEvent
from icestream.sources.pulse_files import PulseFiles
from icestream.sources.pulse_table import LEFT_OUT, Columns, Layout, column_names, columns_of, within_detector
from icestream.sources.source import EventAndTruth, Files, SourceError
from icestream.truth import Truth

EVENT, PULSE = "event_no", ["string", "dom_number", "dom_time", "charge", "hlc"]
TRUTH = "truth"
USUAL = "SRTInIcePulses"  # taken where there are several
FETCHED = 10_000  # rows at once
TRUTHS = 1000  # events whose truth is read at once
LEAST_GEV = 100.0  # of the events that the networks were trained on


def open_graphnet(place: str) -> Files:
    """The events of a database.

    Args:
        place: PATH, or PATH#PULSEMAP where there are several pulse maps.

    Raises:
        SourceError: there is none, or it has no such pulses.
    """
    name, _, pulse_map = place.partition("#")
    path = Path(name)
    if path.is_dir():
        return _folder(path, pulse_map)
    if path.is_file() and path.suffix == ".parquet":
        raise SourceError(
            f"{path}: one file of a GraphNeT database: name the folder that holds {TRUTH}/ and the pulse maps"
        )
    if path.is_file():
        return _Database(path, pulse_map)
    raise SourceError(f"{path}: no such file or folder")


def convert(
    string: NDArray[np.float64],
    dom: NDArray[np.float64],
    time: NDArray[np.float64],
    charge: NDArray[np.float64],
    hlc: NDArray[np.float64],
) -> Columns:
    """Pulses of a GraphNeT table, whose strings and DOMs are counted from 1."""
    sensor = (string - 1) * DOMS_PER_STRING + dom - 1
    others = (string < 1) | (string > STRINGS) | (dom < 1) | (dom > DOMS_PER_STRING)
    return columns_of(np.where(others, LEFT_OUT, sensor), time, charge, 1 - hlc)


def _folder(folder: Path, pulse_map: str) -> PulseFiles:
    """A folder of Parquet files."""
    found = {
        place.name: files
        for place in sorted(folder.iterdir())
        if place.is_dir() and (files := _parquet_files(place)) and set(PULSE) <= set(column_names(files[0]))
    }
    layout = Layout(event_id=EVENT, pulse=PULSE, convert=convert)
    return PulseFiles(found[_chosen(folder, pulse_map, list(found))], layout, _parquet_files(folder / TRUTH))


class _Database:
    """An SQLite file; its events come by event_no."""

    def __init__(self, path: Path, pulse_map: str):
        self._path, self.left_out = path, 0
        with _opened(path) as database:
            tables = [
                name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
            ]
            columns = {
                name: {row[1] for row in database.execute(f"PRAGMA table_info({_quoted(name)})")} for name in tables
            }
            maps = [name for name in tables if {EVENT, *PULSE} <= columns[name]]
            self._map = _chosen(path, pulse_map, maps)
            self._has_truth = {EVENT, "azimuth", "zenith"} <= columns.get(TRUTH, set())
            self.truth = (
                f"table {TRUTH}" if self._has_truth else f"not known: there is no table {TRUTH} with azimuth and zenith"
            )
            if "energy" in columns.get(TRUTH, set()):
                self.truth += _energies(database)
        self.contents = [f"{path.name}, {path.stat().st_size} bytes, {self._map}"]

    def events(self, run_id: int, after: int | None = None) -> Iterator[EventAndTruth]:
        """All events, or those after an event_id; raises SourceError."""
        with _opened(self._path) as database:
            if after is not None and not list(self._fetch(database, f"{EVENT} = ? LIMIT 1", [after])):
                raise SourceError(f"{self._path}: event {after}, at which run {run_id} was left, is not in {self._map}")
            where, arguments = ("1", []) if after is None else (f"{EVENT} > ?", [after])
            rows = self._fetch(database, f"{where} ORDER BY {EVENT}, dom_time", arguments)
            for group in _in_groups(groupby(rows, itemgetter(0)), TRUTHS):
                truths = self._truths(database, run_id, [number for number, _ in group])
                for number, pulses in group:
                    kept, left_out = within_detector(_event(self._path, run_id, number, pulses))
                    self.left_out += left_out
                    yield kept, truths.get(number)

    def _fetch(self, database: sqlite3.Connection, where: str, arguments: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        names = ", ".join(map(_quoted, [EVENT, *PULSE]))
        cursor = database.execute(f"SELECT {names} FROM {_quoted(self._map)} WHERE {where}", arguments)
        while rows := cursor.fetchmany(FETCHED):
            yield from rows

    def _truths(self, database: sqlite3.Connection, run_id: int, events: Sequence[Any]) -> dict[int, Truth]:
        if not self._has_truth:
            return {}
        query = f"SELECT {EVENT}, azimuth, zenith FROM {TRUTH} WHERE {EVENT} BETWEEN ? AND ?"
        return {
            number: Truth(run_id=run_id, event_id=number, azimuth=azimuth, zenith=zenith)
            for number, azimuth, zenith in database.execute(query, (events[0], events[-1]))
            if _within(azimuth, 2 * math.pi) and _within(zenith, math.pi)
        }


def _event(path: Path, run_id: int, number: Any, pulses: Sequence[tuple[Any, ...]]) -> RawEvent:
    if not isinstance(number, int):
        raise SourceError(f"{path}: {EVENT} {number!r} is no whole number")
    try:
        columns = np.array([pulse[1:] for pulse in pulses], np.float64).T
    except (TypeError, ValueError):
        columns = np.array([[_number(value) for value in pulse[1:]] for pulse in pulses]).T
    sensor_id, time_ns, charge_pe, auxiliary = convert(*columns)
    return RawEvent(
        run_id=run_id, event_id=number, emitted_ns=0,
        sensor_id=sensor_id, time_ns=time_ns, charge_pe=charge_pe, auxiliary=auxiliary,
    )  # fmt: skip


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _within(angle: Any, limit: float) -> bool:
    return isinstance(angle, int | float) and 0 <= angle <= limit + 1e-6


def _in_groups(
    events: Iterable[tuple[Any, Iterable[tuple[Any, ...]]]], size: int
) -> Iterator[list[tuple[Any, list[tuple[Any, ...]]]]]:
    """Events with their pulses, so many at once."""
    group = []
    for number, pulses in events:
        group.append((number, list(pulses)))
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads; raises SourceError."""
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        ) as database:
            yield database
    except sqlite3.Error as error:
        raise SourceError(f"{path}: not a readable SQLite database ({error})") from None


def _energies(database: sqlite3.Connection) -> str:
    low, count = database.execute(f"SELECT sum(energy < {LEAST_GEV}), count(energy) FROM {TRUTH}").fetchone()
    if not low:
        return ""
    return f"; {low / count:.0%} of the events have less than {LEAST_GEV:g} GeV, which the networks were not trained on"


def _chosen(path: Path, wanted: str, maps: Sequence[str]) -> str:
    """The pulse map that is read; raises SourceError."""
    if wanted in maps:
        return wanted
    if not maps or wanted:
        there = f"there are {', '.join(maps)}" if maps else "there is none"
        raise SourceError(
            f"{path}: no pulse map {wanted or 'in it'} with the columns {', '.join([EVENT, *PULSE])}; {there}"
        )
    if USUAL in maps:
        return USUAL
    if len(maps) > 1:
        raise SourceError(
            f"{path}: several pulse maps: name one, as in graphnet:{path}#{maps[0]}; there are {', '.join(maps)}"
        )
    return maps[0]


def _parquet_files(folder: Path) -> list[Path]:
    """Those of a folder, in the order of their numbers."""
    found = [path for path in folder.glob("*.parquet") if not path.name.startswith(".")]
    return sorted(
        found, key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
