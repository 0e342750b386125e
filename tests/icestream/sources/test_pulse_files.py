"""Pulses in whatever order and types their rows are; broken ones, and files that change."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icestream import wire
from icestream.event import Event, InvalidEvent, RawEvent
from icestream.sources import pulse_table
from icestream.sources.kaggle import open_folder
from icestream.sources.source import SourceError
from icestream.truth import Truth

Change = Callable[[pd.DataFrame], pd.DataFrame]
REORDERED: dict[str, Change] = {
    "non-auxiliary pulses first": lambda rows: pd.concat([rows[~rows.auxiliary], rows[rows.auxiliary]]),
    "sorted by time": lambda rows: rows.sort_values("time", kind="stable"),
    "shuffled": lambda rows: rows.sample(frac=1, random_state=1),
    "ids as floats": lambda rows: rows.assign(event_id=rows.event_id.astype(float)),
    "ids as text": lambda rows: rows.assign(event_id=rows.event_id.astype(str)),
    "ids as the index": lambda rows: rows.set_index("event_id"),
    "smaller types": lambda rows: rows.astype({"charge": "float32", "time": "int32", "event_id": "int32"}),
    "flags as numbers": lambda rows: rows.assign(auxiliary=rows.auxiliary.astype("int8")),
}


@pytest.mark.parametrize("chunk_rows", [300, 4_000_000])
@pytest.mark.parametrize("name", REORDERED)
def test_rows_are_grouped_by_event_in_whatever_order_they_are(
    tmp_path: Path,
    rows: pd.DataFrame,
    simulated: list[tuple[Event, Truth]],
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str,
    chunk_rows: int,
) -> None:
    monkeypatch.setattr(pulse_table, "CHUNK_ROWS", chunk_rows)
    monkeypatch.setattr(pulse_table, "BATCH_ROWS", 250)
    REORDERED[name](rows).to_parquet(tmp_path / "batch_1.parquet")
    folder = open_folder(tmp_path)
    back = [event for event, _ in folder.events(1)]
    assert {event.event_id for event in back} == {event.event_id for event, _ in simulated}
    by_id = {event.event_id: event for event, _ in simulated}
    for event in back:
        original = by_id[event.event_id]
        assert event.n_pulses == original.n_pulses
        assert (np.diff(event.time_ns) >= 0).all()
        assert pulses_of(event) == pulses_of(original)
    ids = [event.event_id for event in back]
    for number in (0, 17, len(ids) - 1):  # and it is continued behind any of them
        assert [event.event_id for event, _ in folder.events(1, after=ids[number])] == ids[number + 1 :]


def pulses_of(event: RawEvent) -> list[tuple[float, ...]]:
    columns = (event.time_ns, event.sensor_id, event.charge_pe, event.auxiliary)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def test_an_event_across_two_files_is_one(
    tmp_path: Path, rows: pd.DataFrame, simulated: list[tuple[Event, Truth]]
) -> None:
    middle = len(rows) // 2
    rows[:middle].to_parquet(tmp_path / "batch_1.parquet")
    rows[middle:].to_parquet(tmp_path / "batch_2.parquet")
    back = [event for event, _ in open_folder(tmp_path).events(1)]
    assert [event.event_id for event in back] == [event.event_id for event, _ in simulated]
    assert [event.n_pulses for event in back] == [event.n_pulses for event, _ in simulated]


def test_events_whose_pulses_are_in_two_files_are_joined(
    tmp_path: Path, rows: pd.DataFrame, simulated: list[tuple[Event, Truth]]
) -> None:
    rows[rows.auxiliary].to_parquet(tmp_path / "batch_1.parquet")
    rows[~rows.auxiliary].to_parquet(tmp_path / "batch_2.parquet")
    back = {event.event_id: event for event, _ in open_folder(tmp_path).events(1)}
    assert {event.event_id: event.n_pulses for event, _ in simulated} == {
        number: event.n_pulses for number, event in back.items()
    }


def test_two_files_of_the_same_events_are_refused(tmp_path: Path, rows: pd.DataFrame) -> None:
    for name in ("batch_1", "batch_01"):
        rows.to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(
        SourceError,
        match=r"batch_01.* and .*batch_1.*: event \d+ has each of its pulses twice: remove what is there twice",
    ):
        list(open_folder(tmp_path).events(1))


def test_two_equal_pulses_are_no_event_that_is_there_twice(tmp_path: Path, rows: pd.DataFrame) -> None:
    first = rows[rows.event_id == rows.event_id.iloc[0]][:1]
    pd.concat([first, first, rows[rows.event_id != first.event_id.iloc[0]]]).to_parquet(tmp_path / "batch_1.parquet")
    assert next(open_folder(tmp_path).events(1))[0].n_pulses == 2


@pytest.mark.parametrize("batch_rows", [500_000, 7])
@pytest.mark.parametrize("how", ["each event after itself", "each row after itself"])
def test_a_file_with_each_pulse_twice_is_refused(
    tmp_path: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, how: str, batch_rows: int
) -> None:
    monkeypatch.setattr(pulse_table, "BATCH_ROWS", batch_rows)
    groups = [group for _, group in rows.groupby("event_id", sort=False)]
    if how == "each event after itself":
        doubled = pd.concat([one for group in groups for one in (group, group)])
    else:
        doubled = rows.loc[rows.index.repeat(2)]
    doubled.to_parquet(tmp_path / "batch_1.parquet")
    with pytest.raises(SourceError, match="has each of its pulses twice"):
        list(open_folder(tmp_path).events(1))


@pytest.mark.parametrize("batch_rows", [500_000, 7])
def test_pulses_that_are_not_in_the_order_of_time_are_put_into_it(
    tmp_path: Path,
    rows: pd.DataFrame,
    simulated: list[tuple[Event, Truth]],
    monkeypatch: pytest.MonkeyPatch,
    batch_rows: int,
) -> None:
    monkeypatch.setattr(pulse_table, "BATCH_ROWS", batch_rows)
    by_sensor = rows.sort_values(["event_id", "sensor_id"], kind="stable")
    by_sensor.to_parquet(tmp_path / "batch_1.parquet")
    expected = {event.event_id: event for event, _ in simulated}
    back = [event for event, _ in open_folder(tmp_path).events(1)]
    assert len(back) == len(expected)
    for event in back:
        order = np.lexsort(
            (expected[event.event_id].charge_pe, expected[event.event_id].sensor_id, expected[event.event_id].time_ns)
        )
        for name in ("time_ns", "sensor_id", "charge_pe", "auxiliary"):
            np.testing.assert_array_equal(getattr(event, name), getattr(expected[event.event_id], name)[order])


def test_two_files_of_one_number_are_both_replayed(tmp_path: Path, rows: pd.DataFrame) -> None:
    ids = rows.event_id.unique()
    rows[rows.event_id.isin(ids[:20])].to_parquet(tmp_path / "batch_01.parquet")
    rows[rows.event_id.isin(ids[20:])].to_parquet(tmp_path / "batch_1.parquet")
    assert [event.event_id for event, _ in open_folder(tmp_path).events(1)] == ids.tolist()


BROKEN: dict[str, tuple[str, object, str]] = {
    "an empty charge": ("charge", None, "not_finite"),
    "a charge that is no number": ("charge", float("nan"), "not_finite"),
    "an infinite time": ("time", float("inf"), "not_finite"),
    "an empty time": ("time", None, "not_finite"),
    "a charge of zero": ("charge", 0.0, "no_charge"),
    "a negative charge": ("charge", -1.0, "no_charge"),
    "an empty sensor": ("sensor_id", None, "unknown_sensor"),
    "a sensor that is not there": ("sensor_id", 5160, "unknown_sensor"),
    "a sensor beyond 16 bits": ("sensor_id", 70_000, "unknown_sensor"),
    "half a sensor": ("sensor_id", 0.5, "unknown_sensor"),
    "an empty flag": ("auxiliary", None, "not_finite"),
    "a flag of 2": ("auxiliary", 2, "not_finite"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_pulse_costs_one_event(tmp_path: Path, rows: pd.DataFrame, name: str) -> None:
    column, value, reason = BROKEN[name]
    rows = rows.astype({column: object})
    rows.loc[5, column] = value
    broken = rows.loc[5, "event_id"]
    kind = "Int64" if column == "auxiliary" else "Float64"
    values = rows[column].astype(float) if isinstance(value, float) else rows[column].astype(kind)
    rows.assign(**{column: values}).to_parquet(tmp_path / "batch_1.parquet")
    for event, _ in open_folder(tmp_path).events(1):
        sent = wire.encode_event(event, 1)
        if event.event_id == broken:
            with pytest.raises(InvalidEvent) as refused:
                wire.decode_event(sent)
            assert refused.value.reason == reason
        else:
            wire.decode_event(sent)


@pytest.mark.parametrize("ids", [None, 1.5, "seven", 2**64 - 1])
def test_ids_that_are_none_are_named(tmp_path: Path, rows: pd.DataFrame, ids: object) -> None:
    column = rows.event_id.astype(object)
    column[3] = ids
    table = pa.Table.from_pandas(rows.drop(columns="event_id"))
    kinds = {float: pa.float64(), str: pa.string(), int: pa.uint64(), type(None): pa.int64()}
    kind = kinds[type(ids)]
    values = [str(value) for value in column] if kind == pa.string() else column.tolist()
    pq.write_table(table.append_column("event_id", pa.array(values, kind)), tmp_path / "batch_1.parquet")
    with pytest.raises(SourceError, match=r"batch_1\.parquet: .*event_id"):
        list(open_folder(tmp_path).events(1))


@pytest.mark.parametrize("order", ["adjacent", "shuffled"])
def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path, rows: pd.DataFrame, order: str) -> None:
    rows = rows.sample(frac=1, random_state=1) if order == "shuffled" else rows
    rows.to_parquet(tmp_path / "batch_1.parquet")
    [(table, events)] = open_folder(tmp_path).tables()
    rows[:-1].to_parquet(tmp_path / "batch_1.parquet")
    with pytest.raises(SourceError, match="changed while it was read"):
        list(table.events(events, 0, 1))


def test_a_file_that_is_added_among_those_replayed_makes_other_contents(tmp_path: Path, rows: pd.DataFrame) -> None:
    ids = rows.event_id.unique()
    rows[rows.event_id.isin(ids[:20:2])].to_parquet(tmp_path / "batch_1.parquet")
    rows[rows.event_id.isin(ids[30:])].to_parquet(tmp_path / "batch_2.parquet")
    before = open_folder(tmp_path).contents
    rows[rows.event_id.isin(ids[1:20:2])].to_parquet(tmp_path / "batch_3.parquet")
    assert open_folder(tmp_path).contents[: len(before)] != before


@pytest.mark.parametrize("order", ["adjacent", "shuffled"])
def test_an_event_that_is_too_large_is_cut_and_costs_no_other(
    tmp_path: Path, rows: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr(pulse_table, "MOST_ROWS", 40)
    monkeypatch.setattr(pulse_table, "BATCH_ROWS", 25)
    changed = rows.sample(frac=1, random_state=1) if order == "shuffled" else rows
    changed.to_parquet(tmp_path / "batch_1.parquet")
    sizes = rows.groupby("event_id").size()
    if order == "adjacent":
        found = {event.event_id: event.n_pulses for event, _ in open_folder(tmp_path).events(1)}
        assert found.keys() == set(sizes.index)
        assert all(min(40, size) <= found[event_id] <= size for event_id, size in sizes.items())
    else:
        found = {event.event_id: event.n_pulses for event, _ in open_folder(tmp_path).events(1)}
        assert found == {event_id: min(40, size) for event_id, size in sizes.items()}


def test_events_that_are_joined_of_several_files_are_counted(
    tmp_path: Path, rows: pd.DataFrame, simulated: list[tuple[Event, Truth]]
) -> None:
    """Whoever puts two simulations side by side has to see that they became one."""
    other = rows.assign(time=rows.time + 7)
    rows.to_parquet(tmp_path / "batch_1.parquet")
    other[other.event_id.isin(other.event_id.unique()[:20])].to_parquet(tmp_path / "batch_2.parquet")
    files = open_folder(tmp_path)
    assert len(list(files.events(1))) == len(simulated)
    assert files.joined == 20
