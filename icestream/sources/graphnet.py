"""Events of GraphNeT's databases: SQLite files, and folders of Parquet files.

Either has a table of pulses, named after its pulse map (SRTInIcePulses and the like), and a table `truth`, both by event_no. A folder
has a subfolder of Parquet files for each table.
"""

import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from icestream.detector import DOMS_PER_STRING, STRINGS
from icestream.event import RawEvent
from icestream.sources.pulse_files import PulseFiles
from icestream.sources.pulse_table import (
    LEFT_OUT,
    MOST_ROWS,
    Columns,
    Layout,
    column_names,
    columns_of,
    within_detector,
)
from icestream.sources.source import EventAndTruth, Files, SourceError
from icestream.sources.truth_table import FEW, ROUNDED
from icestream.truth import Truth

EVENT, PULSE = "event_no", ["string", "dom_number", "dom_time", "charge", "hlc"]
TRUTH = "truth"
USUAL = "SRTInIcePulses"  # taken where there are several
FETCHED = 10_000  # rows at once
TRUTHS, PULSES = 1000, 200_000  # events whose truth is read at once, and their pulses
LEAST_GEV = 100.0  # of the events that the networks were trained on


def open_graphnet(place: str) -> Files:
    """The events of a database.

    Args:
        place: PATH, or PATH#PULSEMAP where there are several pulse maps.

    Raises:
        SourceError: there is none, or it has no such pulses.
    """
    whole = "#" not in place or Path(place).exists()
    name, _, pulse_map = (place, "", "") if whole else place.rpartition("#")
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
    string: NDArray[Any], dom: NDArray[Any], time: NDArray[Any], charge: NDArray[Any], hlc: NDArray[Any]
) -> Columns:
    """Pulses of a GraphNeT table, whose strings and DOMs are counted from 1."""
    string, dom = string.astype(np.float64), dom.astype(np.float64)
    sensor = (string - 1) * DOMS_PER_STRING + dom - 1
    sensor = np.where((string == np.floor(string)) & (dom == np.floor(dom)), sensor, np.nan)
    others = (string < 1) | (string > STRINGS) | (dom < 1) | (dom > DOMS_PER_STRING)
    return columns_of(np.where(others, LEFT_OUT, sensor), time, charge, 1 - hlc.astype(np.float64))


def _folder(folder: Path, pulse_map: str) -> PulseFiles:
    """A folder of Parquet files."""
    found = {
        place.name: files
        for place in sorted(folder.iterdir())
        if place.is_dir() and (files := _parquet_files(place)) and _has_pulses(files[0])
    }
    layout = Layout(event_id=EVENT, pulse=PULSE, convert=convert)
    return PulseFiles(found[_chosen(folder, pulse_map, list(found))], layout, _parquet_files(folder / TRUTH))


class _Database:
    """An SQLite file; its events come by event_no."""

    def __init__(self, path: Path, pulse_map: str):
        self._path, self.left_out, self.joined = path, 0, 0
        with _opened(path) as database:
            query = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"
            columns = {name: _columns(database, name) for (name,) in database.execute(query).fetchall()}
            self._map = _chosen(path, pulse_map, [name for name in columns if {EVENT, *PULSE} <= columns[name]])
            self._id = _whole(database, path, self._map)
            known = columns.get(TRUTH, set())
            reason = _reason_against(database) if {EVENT, "azimuth", "zenith"} <= known else "there is no table of it"
            self._truth_id = None if reason else _whole(database, path, TRUTH)
            self.truth = (f"not known: {reason}" if reason else f"table {TRUTH}") + _energies(database, known)
            low, high = database.execute(
                f"SELECT min({self._id}), max({self._id}) FROM {_quoted(self._map)}"
            ).fetchone()
        place = path.resolve()
        self.contents = [f"{place.parent.name}/{place.name}, {self._map}, events {low} to {high}"]

    def events(self, run_id: int, after: int | None = None) -> Iterator[EventAndTruth]:
        """All events, or those after an event_id; raises SourceError."""
        with _opened(self._path) as database:
            if after is not None and not list(self._fetch(database, f"{self._id} = ? LIMIT 1", [after])):
                raise SourceError(f"{self._path}: event {after}, at which run {run_id} was left, is not in {self._map}")
            where, arguments = ("1", []) if after is None else (f"{self._id} > ?", [after])
            rows = self._fetch(database, f"{where} ORDER BY {self._id}, dom_time", arguments)
            for group in _in_groups(groupby(rows, itemgetter(0))):
                truths = self._truths(database, run_id, [number for number, _ in group])
                for number, pulses in group:
                    kept, left_out = within_detector(_event(run_id, number, pulses))
                    self.left_out += left_out
                    yield kept, truths.get(number)

    def _fetch(self, database: sqlite3.Connection, where: str, arguments: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        names = ", ".join([self._id, *map(_quoted, PULSE)])
        cursor = database.execute(f"SELECT {names} FROM {_quoted(self._map)} WHERE {where}", arguments)
        while rows := cursor.fetchmany(FETCHED):
            yield from rows

    def _truths(self, database: sqlite3.Connection, run_id: int, events: Sequence[int]) -> dict[int, Truth]:
        if self._truth_id is None:
            return {}
        query = f"SELECT {self._truth_id}, azimuth, zenith FROM {TRUTH} WHERE {self._truth_id} BETWEEN ? AND ?"
        return {
            number: Truth(run_id=run_id, event_id=number, azimuth=azimuth, zenith=zenith)
            for number, azimuth, zenith in database.execute(query, (events[0], events[-1]))
            if _within(azimuth, 2 * math.pi) and _within(zenith, math.pi)
        }


def _event(run_id: int, number: int, pulses: Sequence[tuple[Any, ...]]) -> RawEvent:
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
    return isinstance(angle, int | float) and 0 <= angle <= limit + ROUNDED


def _in_groups(
    events: Iterable[tuple[int, Iterable[tuple[Any, ...]]]],
) -> Iterator[list[tuple[int, list[tuple[Any, ...]]]]]:
    """Events with their pulses, as many as TRUTHS and PULSES allow; of one event not more than MOST_ROWS."""
    group, size = [], 0
    for number, pulses in events:
        group.append((number, list(islice(pulses, MOST_ROWS))))
        size += len(group[-1][1])
        if len(group) == TRUTHS or size >= PULSES:
            yield group
            group, size = [], 0
    if group:
        yield group


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that only reads; raises SourceError."""
    real = path.resolve()
    logs = [real.with_name(real.name + end) for end in ("-wal", "-journal")]
    whole = not any(log.exists() and log.stat().st_size for log in logs)  # then the folder need not be writable
    options = "mode=ro&immutable=1" if whole else "mode=ro"
    try:
        with closing(sqlite3.connect(f"{real.as_uri()}?{options}", uri=True, check_same_thread=False)) as database:
            database.text_factory = lambda text: text.decode(errors="replace")
            yield database
    except sqlite3.Error as error:
        cure = "" if whole else "; a write to it was not finished: open it once with sqlite3, which rolls it back"
        raise SourceError(f"{path}: not a readable SQLite database ({error}){cure}") from None


def _reason_against(database: sqlite3.Connection) -> str:
    """Why the table of truth does not say it; empty if it does."""
    odd = f"azimuth < 0 OR azimuth > {2 * math.pi + ROUNDED} OR zenith < 0 OR zenith > {math.pi + ROUNDED}"
    others, count, azimuth, zenith = database.execute(
        f"SELECT sum({odd}), count(*), max(azimuth), max(zenith) FROM {TRUTH} WHERE azimuth IS NOT NULL AND zenith IS NOT NULL"
    ).fetchone()
    if not count:
        return f"table {TRUTH} has no angles"
    if others > FEW * count:
        return f"azimuth and zenith reach {azimuth:g} and {zenith:g}, radians are expected"
    return ""


def _energies(database: sqlite3.Connection, known: set[str]) -> str:
    if "energy" not in known:
        return ""
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


def _has_pulses(path: Path) -> bool:
    try:
        return {EVENT, *PULSE} <= set(column_names(path))
    except SourceError:  # of some other table: it need not be readable
        return False


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    try:
        return {row[1] for row in database.execute(f"PRAGMA table_info({_quoted(table)})")}
    except sqlite3.Error:  # a view whose tables are gone
        return set()


def _whole(database: sqlite3.Connection, path: Path, table: str) -> str:
    """The SQL of event_no as a whole number, however it is stored; raises SourceError if one is none."""
    types = {
        name
        for (name,) in database.execute(
            f"SELECT DISTINCT typeof({EVENT}) FROM (SELECT {EVENT} FROM {_quoted(table)} LIMIT 1000)"
        )
    }
    if types <= {"integer"}:
        return EVENT
    odd = f"CAST({EVENT} AS REAL) != CAST({EVENT} AS INTEGER) OR {EVENT} IS NULL OR (typeof({EVENT}) = 'text' AND {EVENT} GLOB '*[^0-9.-]*')"
    found = database.execute(f"SELECT {EVENT} FROM {_quoted(table)} WHERE {odd} LIMIT 1").fetchone()
    if found:
        raise SourceError(f"{path}: {EVENT} {found[0]!r} in {table} is no whole number: leave its rows out")
    return f"CAST({EVENT} AS INTEGER)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
