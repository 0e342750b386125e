"""The competition's files, as folders have them."""

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icestream.event import Event, RawEvent
from icestream.sources.kaggle import open_folder, write_folder
from icestream.sources.replay import Replay
from icestream.sources.source import Position, SourceError
from icestream.truth import Truth


def same(one: RawEvent, other: RawEvent) -> bool:
    names = ("sensor_id", "time_ns", "charge_pe", "auxiliary")
    return one.event_id == other.event_id and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


def test_simulated_events_survive_the_competitions_files(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path, simulated)
    back = list(open_folder(tmp_path).events(run_id=8))
    assert len(back) == len(simulated)
    for (event, truth), (original, known) in zip(back, simulated, strict=True):
        assert same(event, original)
        assert event.run_id == 8
        assert truth is not None
        assert (truth.azimuth, truth.zenith) == (known.azimuth, known.zenith)


def test_the_files_have_the_competitions_columns(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path, simulated)
    pulses, meta = pq.read_table(tmp_path / "train" / "batch_1.parquet"), pq.read_table(tmp_path / "train_meta.parquet")
    assert pulses.schema.names == ["event_id", "sensor_id", "time", "charge", "auxiliary"]
    assert [str(t) for t in pulses.schema.types] == ["int64", "int16", "int64", "double", "bool"]
    for row in meta.to_pylist()[:5]:
        ids = pulses["event_id"][row["first_pulse_index"] : row["last_pulse_index"] + 1].unique().to_pylist()
        assert ids == [row["event_id"]]


def test_a_replay_goes_on_behind_an_event(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path, simulated)
    ids = [event.event_id for event, _ in simulated]
    assert [event.event_id for event, _ in open_folder(tmp_path).events(1, after=ids[20])] == ids[21:]
    assert list(open_folder(tmp_path).events(1, after=ids[-1])) == []


def test_several_files_are_taken_in_the_order_of_their_numbers(
    tmp_path: Path, simulated: list[tuple[Event, Truth]]
) -> None:
    for number, part in ((10, simulated[40:]), (2, simulated[:40])):
        write_folder(tmp_path / f"part{number}", part)
        shutil.move(tmp_path / f"part{number}" / "train" / "batch_1.parquet", tmp_path / f"batch_{number}.parquet")
    back = [(event, truth) for event, truth in open_folder(tmp_path).events(1)]
    assert [event.event_id for event, _ in back] == [event.event_id for event, _ in simulated]
    assert all(truth is None for _, truth in back)  # no meta: a test set


def test_a_folder_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"no batch_N\.parquet"):
        open_folder(tmp_path)
    (tmp_path / "batch_1.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="not a readable Parquet file"):
        open_folder(tmp_path)
    pq.write_table(pa.table({"event_id": [1]}), tmp_path / "batch_1.parquet")
    with pytest.raises(SourceError, match="column sensor_id is missing"):
        open_folder(tmp_path)


def test_a_file_without_rows_gives_no_events(tmp_path: Path) -> None:
    types = [
        ("event_id", pa.int64()),
        ("sensor_id", pa.int16()),
        ("time", pa.int64()),
        ("charge", pa.float64()),
        ("auxiliary", pa.bool_()),
    ]
    pq.write_table(pa.schema(types).empty_table(), tmp_path / "batch_1.parquet")
    assert list(open_folder(tmp_path).events(1)) == []


def test_files_that_macos_leaves_are_passed_over(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path, simulated)
    for name in ("train/._batch_1.parquet", "._train_meta.parquet"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert len(list(open_folder(tmp_path).events(1))) == len(simulated)


def test_a_position_that_is_not_there_is_an_error(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path, simulated)
    with pytest.raises(SourceError, match=r"event -5, at which run 1 was left, is not in"):
        list(Replay(open_folder(tmp_path), loop=False).events(1, Position(1, -5)))


def test_no_event_at_all_is_not_repeated_for_ever(tmp_path: Path, rows: pd.DataFrame) -> None:
    rows[:0].to_parquet(tmp_path / "batch_1.parquet")
    with pytest.raises(SourceError, match="there is no event in the files to repeat"):
        list(Replay(open_folder(tmp_path), loop=True).events(1, None))


@pytest.mark.parametrize("name", ["train_meta.parquet", "train/batch_7.parquet", "batch_1.parquet"])
def test_files_that_are_there_are_not_replaced(tmp_path: Path, simulated: list[tuple[Event, Truth]], name: str) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / name).write_text("mine")
    with pytest.raises(SourceError, match="is there already: give a folder without events"):
        write_folder(tmp_path, simulated)
    assert list(tmp_path.rglob("*.parquet")) == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_pipe_is_named_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train_meta.parquet")
    os.mkfifo(tmp_path / "batch_1.parquet")
    with pytest.raises(SourceError, match=r"batch_1\.parquet is no regular file"):
        open_folder(tmp_path)
