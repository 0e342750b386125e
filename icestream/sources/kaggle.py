"""Events from and to the files of the Kaggle competition: `batch_N.parquet` with one row per pulse, `*_meta.parquet` with the truth.

A folder holds the files directly or as the competition ships them (train/batch_1.parquet, train_meta.parquet).
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from icestream.event import Event, InvalidEvent
from icestream.sources.source import EventAndTruth, Position
from icestream.truth import Truth

PULSE_COLUMNS = ["event_id", "sensor_id", "time", "charge", "auxiliary"]
EVENTS_PER_FILE = 200_000

Columns = tuple[NDArray[Any], ...]  # sensor_id, time, charge, auxiliary


class KaggleError(ValueError):
    """A folder that cannot be replayed; the message names the file, the cause and the fix."""


@dataclass(frozen=True)
class KaggleFolder:
    """The files of a folder that has pulses."""

    batches: list[Path]  # in the order of their numbers
    metas: list[Path]  # files with the truth; none for a test set

    def events(self, run_id: int, after: int | None = None) -> Iterator[EventAndTruth]:
        """All events, in the files' order.

        Args:
            after: leave out everything up to and including this event_id.

        Raises:
            KaggleError: a file is damaged, or an event cannot be one.
        """
        for path in self.batches:
            event_id, columns = _pulses(path)
            edges = _edges(event_id)
            if after is not None:
                passed = np.flatnonzero(event_id == after)
                if len(passed) == 0:
                    continue
                edges = edges[edges > passed[-1]]
                after = None
            truth = self._truth(event_id)
            for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                number, part = int(event_id[low]), slice(low, high)
                try:
                    sensor_id, time_ns, charge_pe, auxiliary = (column[part] for column in columns)
                    event = Event(
                        run_id=run_id, event_id=number, emitted_ns=0,
                        sensor_id=sensor_id, time_ns=time_ns, charge_pe=charge_pe, auxiliary=auxiliary,
                    )  # fmt: skip
                except InvalidEvent as error:
                    raise KaggleError(f"{path}: event {number}: {error}") from None
                angles = truth.get(number)
                yield event, angles and Truth(run_id=run_id, event_id=number, azimuth=angles[0], zenith=angles[1])

    def _truth(self, event_id: NDArray[np.int64]) -> dict[int, tuple[float, float]]:
        """Azimuth and zenith (rad) of a file's events. The competition's meta file has 132 million rows: only these are read."""
        found: dict[int, tuple[float, float]] = {}
        if len(event_id):
            span = [("event_id", ">=", int(event_id.min())), ("event_id", "<=", int(event_id.max()))]
            for meta in self.metas:
                table = _read(meta, ["event_id", "azimuth", "zenith"], span)
                angles = zip(table["azimuth"].to_pylist(), table["zenith"].to_pylist(), strict=True)
                found.update(zip(table["event_id"].to_pylist(), angles, strict=True))
        return found


class Replay:
    """A source that replays a folder, once or again and again; pass k is run `run_id + k`."""

    def __init__(self, folder: Path, loop: bool):
        self._folder, self._loop = open_folder(folder), loop

    def events(self, run_id: int, after: Position | None) -> Iterator[EventAndTruth]:
        """The events of a run, from its start or after a position."""
        first = run_id if after is None else after.run_id
        for current in count(first) if self._loop else [first]:
            yield from self._folder.events(current, after.event_id if after and after.run_id == current else None)


def read_pulses(path: Path) -> Iterator[tuple[int, Columns]]:
    """event_id and the columns (sensor_id, time in ns, charge in photo-electrons, auxiliary) of each event of one file, unchecked.

    Raises:
        KaggleError: it is no such file.
    """
    _check_columns(path, PULSE_COLUMNS)
    event_id, columns = _pulses(path)
    for low, high in pairwise(_edges(event_id).tolist()):
        yield int(event_id[low]), tuple(column[low:high] for column in columns)


def open_folder(folder: Path) -> KaggleFolder:
    """Find the pulses and the truth in a folder.

    Raises:
        KaggleError: there is nothing to replay, or a file has other columns than the competition's.
    """
    if not folder.is_dir():
        raise KaggleError(f"{folder}: no such folder; name one that holds batch_1.parquet or train/batch_1.parquet")
    numbered = {}
    for path in [
        *folder.glob("batch_*.parquet"),
        *folder.glob("train/batch_*.parquet"),
        *folder.glob("test/batch_*.parquet"),
    ]:
        if match := re.fullmatch(r"batch_(\d+)\.parquet", path.name):
            numbered[(int(match[1]), path.parent.name)] = path
    if not numbered:
        raise KaggleError(f"{folder}: no batch_N.parquet in it, nor in its train/ or test/")
    for path in numbered.values():
        _check_columns(path, PULSE_COLUMNS)
    metas = [
        meta
        for meta in sorted(folder.glob("*meta.parquet"))
        if {"event_id", "azimuth", "zenith"} <= set(_columns(meta))
    ]
    return KaggleFolder([numbered[key] for key in sorted(numbered)], metas)


def write_folder(folder: Path, events: Iterable[tuple[Event, Truth]]) -> None:
    """Write simulated events in the competition's form: train/batch_N.parquet and train_meta.parquet."""
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


def _pulses(path: Path) -> tuple[NDArray[np.int64], Columns]:
    """event_id and the columns of all pulses of a file."""
    table = _read(path, PULSE_COLUMNS)
    types = {"sensor_id": np.int16, "time": np.float32, "charge": np.float32, "auxiliary": np.bool_}
    return table["event_id"].to_numpy(), tuple(_column(path, table, name, dtype) for name, dtype in types.items())


def _edges(event_id: NDArray[np.int64]) -> NDArray[np.intp]:
    """Where each event begins, and where the last one ends."""
    return np.unique(np.concatenate([[0], np.flatnonzero(np.diff(event_id)) + 1, [len(event_id)]]).astype(np.intp))


def _columns(path: Path) -> list[str]:
    try:
        names: list[str] = pq.read_schema(path).names
    except (OSError, pa.ArrowInvalid) as error:
        raise KaggleError(f"{path}: not a readable Parquet file ({error})") from None
    return names


def _check_columns(path: Path, wanted: list[str]) -> None:
    missing = [name for name in wanted if name not in _columns(path)]
    if missing:
        raise KaggleError(f"{path}: column {missing[0]} is missing; expected {', '.join(wanted)}")


def _read(path: Path, columns: list[str], filters: list[tuple[str, str, int]] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, filters=filters, partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise KaggleError(f"{path}: cannot be read ({error})") from None


def _column(path: Path, table: pa.Table, name: str, dtype: type[np.generic]) -> NDArray[Any]:
    column = table[name]
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)):
        raise KaggleError(f"{path}: column {name} is {column.type}, no numbers")
    if column.null_count:
        raise KaggleError(f"{path}: column {name} has {column.null_count} empty values")
    if (
        name == "sensor_id"
        and len(column)
        and (pc.min(column).as_py() < 0 or pc.max(column).as_py() > np.iinfo(np.int16).max)
    ):
        raise KaggleError(f"{path}: column sensor_id has values that are no sensor")
    values: NDArray[Any] = column.to_numpy().astype(dtype)
    return values
