"""Results on disk until MLflow has them.

    SPOOL/position                                    the last entry of DIRECTIONS that was ever spooled
    SPOOL/<run>/window-<number>-<last entry>.parquet   one window of results of one run of the recorder
    SPOOL/<run>/run.json                              its MLflow run, once it has one, and the last window in a part there

A window's name carries its last entry, so writing the results and moving the position are one rename.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from icestream.results.table import SCHEMA


@dataclass(frozen=True)
class Window:
    """One spooled window."""

    path: Path

    @property
    def number(self) -> int:
        return int(self.path.stem.split("-")[1])

    @property
    def last_entry(self) -> tuple[int, int]:
        """Id of the last entry in it, as Redis orders them."""
        _, _, milliseconds, sequence = self.path.stem.split("-")
        return int(milliseconds), int(sequence)

    def read(self) -> pa.Table:
        """The results; columns that an earlier version did not write are empty."""
        rows = pq.read_table(self.path, partitioning=None)
        columns = [
            rows[one.name] if one.name in rows.schema.names else pa.nulls(rows.num_rows, one.type) for one in SCHEMA
        ]
        return pa.table(columns, schema=SCHEMA)


class RecorderRun:
    """The windows of one run of the recorder: from its start to its end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = folder.name

    def windows(self) -> list[Window]:
        """Those that are not in a part yet, in the order of their numbers."""
        found = [Window(path) for path in self.folder.glob("window-*.parquet")]
        return sorted((window for window in found if window.number > self.uploaded), key=lambda window: window.number)

    @property
    def mlflow_run(self) -> str | None:
        """Its run, once it has one."""
        return self._state().get("mlflow_run_id")

    @mlflow_run.setter
    def mlflow_run(self, run_id: str) -> None:
        self._write_state(mlflow_run_id=run_id)

    @property
    def uploaded(self) -> int:
        """The last window that is in a part in MLflow."""
        return int(self._state().get("uploaded", 0))

    @uploaded.setter
    def uploaded(self, number: int) -> None:
        self._write_state(uploaded=number)

    def _state(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return state

    def _write_state(self, **changes: Any) -> None:
        _write(self.folder / "run.json", json.dumps({**self._state(), **changes}).encode())

    def remove(self) -> None:
        """Remove the folder once all of it is in MLflow."""
        for path in [*self.folder.glob("window-*.parquet"), self.folder / "run.json"]:
            path.unlink(missing_ok=True)
        self.folder.rmdir()


class Spool:
    """The folder of all runs of the recorder; creating it starts a new run."""

    def __init__(self, folder: Path):
        self._folder = folder
        name = str(time.time_ns())
        (folder / name).mkdir(parents=True)
        self.current = RecorderRun(folder / name)
        self._number = 0
        for part in folder.glob("*/*.part"):
            part.unlink()

    def runs(self) -> list[RecorderRun]:
        """All that are on disk, the current one last."""
        return [RecorderRun(path) for path in sorted(self._folder.iterdir()) if path.name.isdigit()]

    def position(self) -> tuple[int, int]:
        """Id of the last entry that was ever spooled."""
        path = self._folder / "position"
        saved = tuple(int(part) for part in path.read_text().split("-")) if path.exists() else (0, 0)
        last = [window.last_entry for run in self.runs() for window in run.windows()]
        return max([(saved[0], saved[1]), *last])

    def write(self, rows: pa.Table, last_entry: tuple[int, int]) -> None:
        """Write a window durably (fsync) before its entries are acknowledged."""
        self._number += 1
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink, compression="zstd")
        name = f"window-{self._number:08d}-{last_entry[0]}-{last_entry[1]}.parquet"
        _write(self.current.folder / name, sink.getvalue().to_pybytes())

    def forget(self, run: RecorderRun, windows: list[Window]) -> None:
        """Delete windows that are in MLflow, after the position and their number were written."""
        position = self.position()
        _write(self._folder / "position", f"{position[0]}-{position[1]}".encode())
        run.uploaded = windows[-1].number
        for window in windows:
            window.path.unlink()

    def size(self) -> tuple[int, int]:
        """Files and bytes that wait."""
        sizes = [window.path.stat().st_size for run in self.runs() for window in run.windows()]
        return len(sizes), sum(sizes)


def _write(path: Path, content: bytes) -> None:
    """Replace a file: afterwards it is complete on disk, or as it was."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
