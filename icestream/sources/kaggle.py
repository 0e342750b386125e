"""Events from and to the files of the Kaggle competition: `batch_N.parquet` with one row per pulse, `*_meta.parquet` with the truth.

A folder holds the files directly, or as the competition ships them (train/batch_1.parquet, train_meta.parquet), or as its authors
cut them (train_meta/train_meta_1.parquet).
"""

import re
from collections.abc import Iterable
from itertools import count, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icestream.event import Event
from icestream.sources.pulse_files import PulseFiles
from icestream.sources.pulse_table import Layout, columns_of
from icestream.sources.source import SourceError
from icestream.truth import Truth

LAYOUT = Layout(event_id="event_id", pulse=["sensor_id", "time", "charge", "auxiliary"], convert=columns_of)
EVENTS_PER_FILE = 200_000


def open_folder(folder: Path) -> PulseFiles:
    """Find the pulses and the truth in a folder; one file of pulses is taken for a folder with nothing else.

    Raises:
        SourceError: there is nothing to replay, or a file has other columns than the competition's.
    """
    if folder.is_file():
        batches = [folder]
    elif folder.is_dir():
        batches = _batches(folder)
    else:
        raise SourceError(
            f"{folder}: no such file or folder; name one that holds batch_1.parquet or train/batch_1.parquet"
        )
    return PulseFiles(batches, LAYOUT, _metas(folder) if folder.is_dir() else [])


def _batches(folder: Path) -> list[Path]:
    numbered = [
        (int(match[1]), str(path), path)
        for place in (folder, folder / "train", folder / "test")
        for path in place.glob("*.parquet")
        if (match := re.fullmatch(r"batch_(\d+)\.parquet", path.name))
    ]
    if not numbered:
        raise SourceError(f"{folder}: no batch_N.parquet in it, nor in its train/ or test/")
    for _, _, path in numbered:
        if not path.is_file():  # a pipe would be waited for
            raise SourceError(f"{path} is no regular file")
    return [path for _, _, path in sorted(numbered)]


def _metas(folder: Path) -> list[Path]:
    """Files that may hold the truth, of this folder, or of the one above if this is its train/ or test/."""
    places = [(folder, "*")]
    for real in (folder.absolute(), folder.resolve()):  # one of the two may be a link
        if real.name in ("train", "test"):
            places.append((real.parent, real.name))
    found = [
        path
        for place, name in places
        for pattern in (f"{name}meta*.parquet", f"{name}_meta*.parquet", f"{name}_meta/*.parquet")
        for path in place.glob(pattern)
        if not path.name.startswith(".") and path.is_file()
    ]
    return sorted(set(found))


def write_folder(folder: Path, events: Iterable[tuple[Event, Truth]]) -> None:
    """Write simulated events in the competition's form: train/batch_N.parquet and train_meta.parquet.

    Raises:
        SourceError: there are such files already.
    """
    there = [*folder.glob("*meta*.parquet"), *folder.glob("train/batch_*.parquet"), *folder.glob("batch_*.parquet")]
    if there:
        raise SourceError(f"{there[0]} is there already: give a folder without events")
    (folder / "train").mkdir(parents=True, exist_ok=True)
    metas = []
    remaining = iter(events)
    for number in count(1):
        part = list(islice(remaining, EVENTS_PER_FILE))
        if not part:
            break
        lengths = np.array([event.n_pulses for event, _ in part])
        ends = np.cumsum(lengths)
        ids = np.array([event.event_id for event, _ in part], np.int64)
        pulses = pa.table({
            "event_id": np.repeat(ids, lengths),
            "sensor_id": np.concatenate([event.sensor_id for event, _ in part]).astype(np.int16),
            "time": np.concatenate([event.time_ns for event, _ in part]).astype(np.int64),
            "charge": np.concatenate([event.charge_pe for event, _ in part]).astype(np.float64),
            "auxiliary": np.concatenate([event.auxiliary for event, _ in part]),
        })  # fmt: skip
        pq.write_table(pulses, folder / "train" / f"batch_{number}.parquet")
        metas.append(pa.table({
            "batch_id": np.full(len(part), number, np.int32),
            "event_id": ids,
            "first_pulse_index": ends - lengths,
            "last_pulse_index": ends - 1,
            "azimuth": [truth.azimuth for _, truth in part],
            "zenith": [truth.zenith for _, truth in part],
        }))  # fmt: skip
    pq.write_table(pa.concat_tables(metas), folder / "train_meta.parquet")
