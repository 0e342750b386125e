"""Databases with GraphNeT's tables and columns."""

import math
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from icestream.detector import nominal_icecube86
from icestream.event import Event, RawEvent
from icestream.sources.graphnet import open_graphnet
from icestream.sources.simulation.simulator import simulated_events
from icestream.sources.source import SourceError
from icestream.truth import Truth

Write = Callable[[Path, pd.DataFrame, pd.DataFrame], str]


@pytest.fixture(scope="module")
def simulated() -> list[tuple[Event, Truth]]:
    return list(islice(simulated_events(nominal_icecube86(), seed=5, run_id=3), 40))


def tables(simulated: list[tuple[Event, Truth]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pulses and truth as GraphNeT has them."""
    pulses = pd.concat(
        pd.DataFrame({
            "event_no": event.event_id,
            "string": event.sensor_id // 60 + 1.0,
            "dom_number": event.sensor_id % 60 + 1.0,
            "dom_time": event.time_ns.astype(float),
            "charge": event.charge_pe.astype(float),
            "hlc": (~event.auxiliary).astype(float),
            "width": 1.0,
        })
        for event, _ in simulated
    )  # fmt: skip
    truth = pd.DataFrame({
        "event_no": [event.event_id for event, _ in simulated],
        "azimuth": [truth.azimuth for _, truth in simulated],
        "zenith": [truth.zenith for _, truth in simulated],
        "energy": np.linspace(1, 199, len(simulated)),
    })  # fmt: skip
    return pulses, truth


def write_sqlite(folder: Path, pulses: pd.DataFrame, truth: pd.DataFrame) -> str:
    with closing(sqlite3.connect(folder / "events.db")) as database:
        pulses.to_sql("SRTInIcePulses", database, index=False)
        pulses[::2].to_sql("SplitInIcePulses", database, index=False)
        truth.to_sql("truth", database, index=False)
        database.commit()
    return str(folder / "events.db")


def write_parquet(folder: Path, pulses: pd.DataFrame, truth: pd.DataFrame) -> str:
    ids = truth.event_no.to_numpy()
    for number in range(2):  # as GraphNeT shuffles events over files
        mine = ids[number::2]
        for name, table in (("SRTInIcePulses", pulses), ("SplitInIcePulses", pulses[::2]), ("truth", truth)):
            (folder / name).mkdir(exist_ok=True)
            table[table.event_no.isin(mine)].to_parquet(folder / name / f"{name}_{number}.parquet")
    return str(folder)


WRITERS: list[Write] = [write_sqlite, write_parquet]


def pulses_of(event: RawEvent) -> list[tuple[float, ...]]:
    columns = (event.time_ns, event.sensor_id, event.charge_pe, event.auxiliary)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("write", WRITERS)
def test_events_come_as_they_are_with_their_truth(
    tmp_path: Path, simulated: list[tuple[Event, Truth]], write: Write
) -> None:
    files = open_graphnet(write(tmp_path, *tables(simulated)))
    back = {event.event_id: (event, truth) for event, truth in files.events(9)}
    assert back.keys() == {event.event_id for event, _ in simulated}
    for event, truth in simulated:
        read, known = back[event.event_id]
        assert read.run_id == 9
        assert pulses_of(read) == pulses_of(event)
        assert known is not None
        assert (known.azimuth, known.zenith) == pytest.approx((truth.azimuth, truth.zenith))
    ids = list(back)
    assert [event.event_id for event, _ in files.events(9, after=ids[10])] == ids[11:]
    with pytest.raises(SourceError, match="event -7, at which run 9 was left, is not in"):
        list(files.events(9, after=-7))


@pytest.mark.parametrize("write", WRITERS)
def test_pulses_of_other_detectors_are_left_out_and_counted(
    tmp_path: Path, simulated: list[tuple[Event, Truth]], write: Write
) -> None:
    pulses, truth = tables(simulated)
    upgrade = pulses.iloc[:5].assign(string=88.0)
    tank = pulses.iloc[5:7].assign(dom_number=61.0)
    files = open_graphnet(write(tmp_path, pd.concat([pulses, upgrade, tank]), truth))
    assert sum(event.n_pulses for event, _ in files.events(1)) == len(pulses)
    assert files.left_out == 7


def test_a_broken_pulse_costs_its_event(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    pulses, truth = tables(simulated)
    pulses = pulses.reset_index(drop=True)
    pulses.loc[3, "charge"] = np.nan
    pulses.loc[len(pulses) - 1, "string"] = np.nan
    bad = {int(pulses.event_no.iloc[3]), int(pulses.event_no.iloc[-1])}
    for event, _ in open_graphnet(write_sqlite(tmp_path, pulses, truth)).events(1):
        whole = bool(np.isfinite(event.charge_pe).all() and (event.sensor_id >= 0).all())
        assert whole == (event.event_id not in bad)


def test_a_pulse_map_is_chosen_by_name(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    pulses, truth = tables(simulated)
    place = write_sqlite(tmp_path, pulses, truth)
    half = sum(event.n_pulses for event, _ in open_graphnet(f"{place}#SplitInIcePulses").events(1))
    assert half == -(-len(pulses) // 2)
    with pytest.raises(SourceError, match=r"no pulse map Nothing .*there are SRTInIcePulses, SplitInIcePulses"):
        open_graphnet(f"{place}#Nothing")


def test_energies_below_those_of_the_training_are_said(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    assert "50% of the events have less than 100 GeV" in open_graphnet(write_sqlite(tmp_path, *tables(simulated))).truth


@pytest.mark.parametrize("truth", ["none", "other names", "angles that are none"])
def test_without_truth_events_come_without(tmp_path: Path, simulated: list[tuple[Event, Truth]], truth: str) -> None:
    pulses, known = tables(simulated)
    changed = {
        "none": known[["event_no"]],
        "other names": known.rename(columns={"azimuth": "phi"}),
        "angles that are none": known.assign(azimuth=math.nan, zenith=200.0),
    }
    files = open_graphnet(write_sqlite(tmp_path, pulses, changed[truth]))
    assert [one for _, one in files.events(1)] == [None] * len(simulated)
    if truth != "angles that are none":
        assert files.truth.startswith("not known: ")


def test_what_is_no_database_is_named(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        open_graphnet(str(tmp_path / "nowhere.db"))
    (tmp_path / "text.db").write_text("no database" * 100)
    with pytest.raises(SourceError, match="not a readable SQLite database"):
        open_graphnet(str(tmp_path / "text.db"))
    pulses, truth = tables(simulated)
    (tmp_path / "old").mkdir()
    place = write_sqlite(tmp_path / "old", pulses.drop(columns=["hlc"]), truth)
    with pytest.raises(SourceError, match=r"no pulse map in it with the columns event_no, string, .*there is none"):
        open_graphnet(place)
    pulses.to_parquet(tmp_path / "one.parquet")
    with pytest.raises(SourceError, match="name the folder"):
        open_graphnet(str(tmp_path / "one.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="no pulse map"):
        open_graphnet(str(tmp_path / "empty"))


@pytest.mark.parametrize("kind", [float, str])
def test_event_numbers_of_other_types_are_read(
    tmp_path: Path, simulated: list[tuple[Event, Truth]], kind: type
) -> None:
    pulses, truth = tables(simulated)
    place = write_sqlite(
        tmp_path,
        pulses.assign(event_no=pulses.event_no.astype(kind)),
        truth.assign(event_no=truth.event_no.astype(kind)),
    )
    back = list(open_graphnet(place).events(1))
    assert [event.event_id for event, _ in back] == sorted(event.event_id for event, _ in simulated)
    assert all(type(event.event_id) is int and known and type(known.event_id) is int for event, known in back)


def test_an_event_number_that_is_none_is_named(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    pulses, truth = tables(simulated)
    pulses = pulses.reset_index(drop=True).astype({"event_no": float})
    pulses.loc[3, "event_no"] = 1.5
    with pytest.raises(SourceError, match=r"event_no 1\.5 in SRTInIcePulses is no whole number"):
        open_graphnet(write_sqlite(tmp_path, pulses, truth))


def test_degrees_are_no_truth(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    pulses, truth = tables(simulated)
    degrees = truth.assign(azimuth=np.degrees(truth.azimuth), zenith=np.degrees(truth.zenith))
    files = open_graphnet(write_sqlite(tmp_path, pulses, degrees))
    assert "radians are expected" in files.truth
    assert all(known is None for _, known in files.events(1))


def test_a_path_with_odd_characters_and_a_broken_view_are_no_hindrance(
    tmp_path: Path, simulated: list[tuple[Event, Truth]]
) -> None:
    place = tmp_path / "run #1 ä?"
    place.mkdir()
    path = write_sqlite(place, *tables(simulated))
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE VIEW broken AS SELECT * FROM nowhere")
        database.commit()
    assert len(list(open_graphnet(path).events(1))) == len(simulated)
    assert len(list(open_graphnet(f"{path}#SplitInIcePulses").events(1))) == len(simulated)


def test_another_database_of_the_same_size_has_other_contents(
    tmp_path: Path, simulated: list[tuple[Event, Truth]]
) -> None:
    pulses, truth = tables(simulated)
    (tmp_path / "other").mkdir()
    one, other = (
        open_graphnet(write_sqlite(folder, pulses.assign(event_no=pulses.event_no + by), truth)).contents
        for folder, by in ((tmp_path, 0), (tmp_path / "other", 1))
    )
    assert one != other


WRITER = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
database.execute("UPDATE SRTInIcePulses SET charge = 777")
os._exit(9)
"""


def test_what_was_not_committed_is_not_read(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    """Of a writer that was killed: its journal lies beside the database."""
    place = write_sqlite(tmp_path, *tables(simulated * 20))
    assert subprocess.run([sys.executable, "-c", WRITER, place], check=False).returncode == 9
    assert (tmp_path / "events.db-journal").stat().st_size > 0
    with pytest.raises(SourceError, match="a write to it was not finished: open it once with sqlite3"):
        open_graphnet(place)
    with closing(sqlite3.connect(place)) as database:
        database.execute("SELECT count(*) FROM SRTInIcePulses").fetchone()
    found = {float(charge) for event, _ in open_graphnet(place).events(1) for charge in event.charge_pe}
    assert 777.0 not in found


def test_a_link_to_a_database_that_has_a_log_is_read_with_it(
    tmp_path: Path, simulated: list[tuple[Event, Truth]]
) -> None:
    pulses, truth = tables(simulated)
    place = write_sqlite(tmp_path, pulses, truth)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "other.db").symlink_to(place)
    with closing(sqlite3.connect(place, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("UPDATE SRTInIcePulses SET charge = 3")
        linked = open_graphnet(str(tmp_path / "links" / "other.db"))
        assert {float(charge) for event, _ in linked.events(1) for charge in event.charge_pe} == {3.0}
