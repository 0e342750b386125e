import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icestream.detector import nominal_icecube86
from icestream.event import Event
from icestream.sources.kaggle import KaggleError, open_folder, read_pulses, write_folder
from icestream.sources.simulation.simulator import simulated_events
from icestream.truth import Truth


@pytest.fixture(scope="module")
def simulated() -> list[tuple[Event, Truth]]:
    return list(islice(simulated_events(nominal_icecube86(), seed=5, run_id=3), 60))


def same(one: Event, other: Event) -> bool:
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
        write_folder(tmp_path / "part", part)
        shutil.move(tmp_path / "part" / "train" / "batch_1.parquet", tmp_path / f"batch_{number}.parquet")
    back = [(event, truth) for event, truth in open_folder(tmp_path).events(1)]
    assert [event.event_id for event, _ in back] == [event.event_id for event, _ in simulated]
    assert all(truth is None for _, truth in back)  # no meta: a test set


def test_a_folder_of_another_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(KaggleError, match="no such folder"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(KaggleError, match=r"no batch_N\.parquet"):
        open_folder(tmp_path)
    (tmp_path / "batch_1.parquet").write_bytes(b"no parquet")
    with pytest.raises(KaggleError, match="not a readable Parquet file"):
        open_folder(tmp_path)
    pq.write_table(pa.table({"event_id": [1]}), tmp_path / "batch_1.parquet")
    with pytest.raises(KaggleError, match="column sensor_id is missing"):
        open_folder(tmp_path)


def test_damaged_truth_and_words_for_numbers_are_named(tmp_path: Path, simulated: list[tuple[Event, Truth]]) -> None:
    write_folder(tmp_path, simulated)
    (tmp_path / "train_meta.parquet").write_bytes(b"no parquet")
    with pytest.raises(KaggleError, match=r"train_meta.parquet: not a readable"):
        open_folder(tmp_path)
    (tmp_path / "train_meta.parquet").unlink()
    words = {"event_id": [1], "sensor_id": ["five"], "time": [1], "charge": [1.0], "auxiliary": [True]}
    pq.write_table(pa.table(words), tmp_path / "train" / "batch_1.parquet")
    with pytest.raises(KaggleError, match="column sensor_id is string, no numbers"):
        list(open_folder(tmp_path).events(1))


def test_an_event_that_cannot_be_is_named(tmp_path: Path) -> None:
    table = {
        "event_id": [1, 2],
        "sensor_id": [5, 9000],
        "time": [1, 2],
        "charge": [1.0, 1.0],
        "auxiliary": [True, False],
    }
    pq.write_table(pa.table(table), tmp_path / "batch_1.parquet")
    with pytest.raises(KaggleError, match="event 2: unknown_sensor"):
        list(open_folder(tmp_path).events(1))
    pq.write_table(pa.table({**table, "sensor_id": [5, 99999]}), tmp_path / "batch_1.parquet")
    with pytest.raises(KaggleError, match="no sensor"):
        list(open_folder(tmp_path).events(1))


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
    assert list(read_pulses(tmp_path / "batch_1.parquet")) == []
