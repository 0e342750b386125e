"""Results on disk until MLflow has them.

    SPOOL/lock                                    held by the recorder that uses the spool
    SPOOL/recent.npy                              the last events that were recorded and are no longer in a window: run_id, event_id
    SPOOL/<run>/window-<number>-<CRC-32>.parquet  one window of results of one run of the recorder
    SPOOL/<run>/run.json                          its MLflow run, once it has one, and the last window in a part there
    SPOOL/damaged/                                windows that could not be read, or have another checksum than their name says

A result is recorded once by its event: what is delivered again, after a crash or after Redis has lost its last writes, is in a
window or among the recent events.
"""

import fcntl
import io
import json
import math
import os
import re
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from icestream.results.table import SCHEMA

KEPT_EVENTS = 200_000  # that are recognised when they are delivered again: the last minute at 3000 events/s
SINCE = b"since_ns"  # metadata of a window: Unix time at which it begins

# The checksum is missing in files of an earlier version.
RUN, WINDOW = re.compile("[0-9]+"), re.compile(r"window-(?P<number>[0-9]+)(-(?P<checksum>[0-9a-f]{8}))?\.parquet")

EventKey = tuple[int, int]  # run_id, event_id


class SpoolInUse(Exception):
    """Another recorder uses the spool."""


@dataclass(frozen=True)
class Window:
    """One spooled window."""

    path: Path
    number: int
    checksum: str | None  # CRC-32 of the file; None in files of an earlier version


@dataclass(frozen=True, kw_only=True)
class WindowContent:
    """What a window holds."""

    rows: pa.Table
    since_ns: int | None  # Unix time at which it begins; None in files of an earlier version


class RecorderRun:
    """The windows of one run of the recorder: from its start, or from the end of the run before, for `run_hours` at most."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = folder.name

    def windows(self) -> list[Window]:
        """Those that are not in a part yet, in the order of their numbers."""
        uploaded = self.uploaded
        found = [
            Window(path, int(name["number"]), name["checksum"])
            for path in self.folder.iterdir()
            if (name := WINDOW.fullmatch(path.name))
        ]
        return sorted((window for window in found if window.number > uploaded), key=lambda window: window.number)

    def parts(self) -> list[Path]:
        """Files that a crash has left half written."""
        return [path for path in self.folder.glob("*.part") if path.stem == "run.json" or WINDOW.fullmatch(path.stem)]

    @property
    def mlflow_run(self) -> str | None:
        """Its run, once it has one."""
        run_id = self._state().get("mlflow_run_id")
        return run_id if isinstance(run_id, str) and run_id else None

    @mlflow_run.setter
    def mlflow_run(self, run_id: str | None) -> None:
        self._write_state(mlflow_run_id=run_id)

    @property
    def uploaded(self) -> int:
        """The last window that is in a part in MLflow."""
        number = self._state().get("uploaded")
        return number if isinstance(number, int) else 0

    @uploaded.setter
    def uploaded(self, number: int) -> None:
        self._write_state(uploaded=number)

    def _state(self) -> dict[str, Any]:
        """Nothing where the file is damaged: its run is found by a tag then, and its windows by their files."""
        try:
            state = json.loads((self.folder / "run.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def _write_state(self, **changes: Any) -> None:
        _write(self.folder / "run.json", json.dumps({**self._state(), **changes}).encode())

    def remove(self) -> None:
        """Remove the folder once all of it is in MLflow; files that are not the recorder's stay."""
        for path in self.folder.iterdir():
            if WINDOW.fullmatch(path.name):
                path.unlink(missing_ok=True)
        (self.folder / "run.json").unlink(missing_ok=True)  # the last one: it says that the windows are uploaded
        with suppress(OSError):
            self.folder.rmdir()


class Spool:
    """The folder of all runs of the recorder; creating it starts a new run.

    Args:
        run_s: seconds after which the next window begins another run.

    Raises:
        SpoolInUse: another recorder uses it.
        OSError: the folder cannot be used.
    """

    def __init__(self, folder: Path, run_s: float = math.inf):
        self._folder, self._run_ns = folder, run_s * 1e9
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(folder / "lock", os.O_WRONLY | os.O_CREAT)  # held until the process ends
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise SpoolInUse(f"another recorder uses {folder}") from None
        for part in [folder / "recent.npy.part", *(part for run in self.runs() for part in run.parts())]:
            part.unlink(missing_ok=True)
        self.damaged = 0  # windows set aside by this process
        self._recent: OrderedDict[EventKey, None] = OrderedDict.fromkeys(self._kept_events())
        for run in self.runs():
            for window in run.windows():
                if content := self.read(window):
                    self._remember(_events(content.rows))
        self._begun: set[str] = set()  # runs of this process
        self._begin_run()
        self._since_ns = int(self.current.name)

    def close(self) -> None:
        """Let another recorder use the spool."""
        os.close(self._lock)

    def runs(self) -> list[RecorderRun]:
        """All that are on disk, in the order of their beginning."""
        found = (path for path in self._folder.iterdir() if RUN.fullmatch(path.name) and path.is_dir())
        return [RecorderRun(path) for path in sorted(found)]

    def was_closed(self, run: RecorderRun) -> bool:
        """Whether a run that is no longer the current one ended because its time was over, not by a crash."""
        return run.name in self._begun

    def has(self, event: EventKey) -> bool:
        """Whether an event was recorded, as far as it is remembered."""
        return event in self._recent

    def write(self, rows: pa.Table, confirm: Callable[[], None] = lambda: None) -> None:
        """Write a window durably (fsync) before its entries are acknowledged.

        Args:
            confirm: called when all of it is on disk and it does not count yet; it never does if this raises.
        """
        if time.time_ns() - int(self.current.name) > self._run_ns:
            self._begin_run()
        since_ns = min(self._since_ns, pc.min(rows["stored_ns"]).as_py())  # some may have waited for the recorder
        sink = pa.BufferOutputStream()
        pq.write_table(rows.replace_schema_metadata({SINCE: str(since_ns)}), sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        path = self.current.folder / f"window-{self._number + 1:08d}-{zlib.crc32(content):08x}.parquet"
        _write(path, content, confirm)
        self._number += 1
        self._since_ns = pc.max(rows["stored_ns"]).as_py()
        self._remember(_events(rows))

    def read(self, window: Window) -> WindowContent | None:
        """The content of a window, columns that an earlier version did not write empty; a damaged one is set aside.

        Raises:
            OSError, MemoryError: it could not be read; that passes.
        """
        content = window.path.read_bytes()
        try:
            if window.checksum not in (None, f"{zlib.crc32(content):08x}"):
                raise ValueError("another checksum")
            rows = pq.read_table(pa.BufferReader(content))
            columns = [
                rows[one.name] if one.name in rows.schema.names else pa.nulls(rows.num_rows, one.type) for one in SCHEMA
            ]
            since = (rows.schema.metadata or {}).get(SINCE)
            return WindowContent(rows=pa.table(columns, schema=SCHEMA), since_ns=None if since is None else int(since))
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError):
            self._set_aside(window.path, f"{window.path.parent.name}-{window.path.name}")
            return None

    def forget(self, run: RecorderRun, windows: list[Window]) -> None:
        """Delete windows that are in MLflow, after their number and their events were written."""
        content = io.BytesIO()
        np.save(content, np.array(list(self._recent), np.int64).reshape(-1, 2))
        _write(self._folder / "recent.npy", content.getvalue())
        run.uploaded = windows[-1].number
        for window in windows:
            window.path.unlink(missing_ok=True)

    def size(self) -> tuple[int, int]:
        """Files and bytes that wait."""
        sizes = []
        for window in [window for run in self.runs() for window in run.windows()]:
            with suppress(FileNotFoundError):  # it was uploaded meanwhile
                sizes.append(window.path.stat().st_size)
        return len(sizes), sum(sizes)

    def _begin_run(self) -> None:
        folder = self._folder / str(time.time_ns())
        folder.mkdir()
        self.current, self._number = RecorderRun(folder), 0
        self._begun.add(folder.name)

    def _kept_events(self) -> list[EventKey]:
        path = self._folder / "recent.npy"
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return []
        try:
            return list(map(tuple, np.load(io.BytesIO(content)).reshape(-1, 2).tolist()))
        except Exception:  # NumPy raises whatever its parser of the header does
            self._set_aside(path, f"{time.time_ns()}-{path.name}")
            return []

    def _set_aside(self, path: Path, name: str) -> None:
        """Keep a damaged file under another name."""
        (self._folder / "damaged").mkdir(exist_ok=True)
        path.rename(self._folder / "damaged" / name)
        self.damaged += 1

    def _remember(self, events: Iterable[EventKey]) -> None:
        for event in events:
            self._recent[event] = None
        while len(self._recent) > KEPT_EVENTS:
            self._recent.popitem(last=False)


def _events(rows: pa.Table) -> Iterable[EventKey]:
    return zip(rows["run_id"].to_numpy().tolist(), rows["event_id"].to_numpy().tolist(), strict=True)


def _write(path: Path, content: bytes, confirm: Callable[[], None] = lambda: None) -> None:
    """Replace a file: afterwards it is complete on disk, or as it was, as after an exception of `confirm`."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    confirm()
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
