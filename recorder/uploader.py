"""Brings spooled windows to MLflow: a point of the charts for each, Parquet parts and pictures once a minute.

Everything may be uploaded twice: MLflow keeps one point for the same key, step, time and value, and one artifact for a path.
"""

import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import LoggedModelInput, Metric, Run
from mlflow.exceptions import MlflowException
from redis import Redis

from icestream import __version__
from icestream.results.pictures import opening_angles, sky_map
from icestream.results.table import SCHEMA
from icestream.service.metrics import EXPERIMENT_TAGS
from icestream.streams import keys as streams
from recorder.metrics import RecorderMetrics
from recorder.spool import Spool, Start, Window
from recorder.windows import aggregates, description

PART_ROWS = 50_000  # a part is closed when it has so many
SHOWN_ROWS = 5000  # results in the pictures
LISTED_ROWS = 200  # results in the CSV that MLflow shows as a table


class Uploader:
    """Uploads the spool's starts, each as a run of its own. Methods raise MlflowException or OSError while MLflow is away."""

    def __init__(
        self,
        spool: Spool,
        url: str,
        experiment: str,
        session: str,
        part_s: float,
        redis: Redis,
        metrics: RecorderMetrics,
    ):
        self._spool, self._experiment, self._session, self._part_s, self._redis, self._metrics = (
            spool,
            experiment,
            session,
            part_s,
            redis,
            metrics,
        )
        self._client = MlflowClient(url)
        self._of = ""  # the start that the next three belong to
        self._logged = 0  # its last window whose points were logged
        self._recent = SCHEMA.empty_table()  # its last results
        self._since_ns = 0  # Unix time up to which its windows were logged
        self._tagged: set[tuple[str, str, str]] = set()  # MLflow run, model, version
        self._part_due = time.monotonic() + part_s

    def upload(self, closing: bool = False) -> None:
        """Upload what waits; `closing` uploads all of it and ends the current run."""
        try:
            for start in self._spool.starts():
                self._upload_start(start, closing)
        finally:  # while MLflow is away, too: that is when the spool grows
            self._metrics.spool(*self._spool.size())

    def _upload_start(self, start: Start, closing: bool) -> None:
        ended = start.name != self._spool.current.name
        if start.name != self._of:
            self._of, self._logged, self._recent = start.name, 0, SCHEMA.empty_table()
            self._since_ns = int(start.name)
        for window in start.windows():
            if window.number > self._logged:
                self._log_window(self._run(start), window)
                self._logged = window.number
        if ended or closing:
            self._finish(start, "KILLED" if ended else "FINISHED")
        elif self._part_is_due(start):
            self._upload_part(start)

    def _part_is_due(self, start: Start) -> bool:
        due = time.monotonic() >= self._part_due
        if due:
            self._part_due = time.monotonic() + self._part_s
        return due or sum(pq.read_metadata(window.path).num_rows for window in start.windows()) >= PART_ROWS

    def _run(self, start: Start) -> str:
        """The MLflow run of a start, made when there is something to log."""
        if (run_id := start.mlflow_run) is None:
            experiment = self._client.get_experiment_by_name(self._experiment)
            experiment_id = (
                experiment.experiment_id
                if experiment
                else self._client.create_experiment(self._experiment, tags=EXPERIMENT_TAGS)
            )
            made = self._client.search_runs([experiment_id], f"tags.`icestream.start` = '{start.name}'")
            run = made[0] if made else self._create_run(experiment_id, start)
            start.mlflow_run = run_id = run.info.run_id
        return run_id

    def _create_run(self, experiment_id: str, start: Start) -> Run:
        began = datetime.fromtimestamp(int(start.name) / 1e9, UTC)
        tags = {
            "icestream.version": __version__,
            "icestream.session": self._session,
            "icestream.start": start.name,
        }
        name = f"stream {began:%Y-%m-%d %H:%M:%S}"
        return self._client.create_run(experiment_id, start_time=int(start.name) // 1_000_000, tags=tags, run_name=name)

    def _log_window(self, run_id: str, window: Window) -> None:
        began, rows = time.monotonic(), window.read()
        when = int(rows["stored_ns"][-1].as_py() // 1_000_000)
        points = [Metric(name, value, when, window.number) for name, value in aggregates(rows, self._since_ns).items()]
        self._client.log_batch(run_id, metrics=points)
        self._since_ns = pc.max(rows["stored_ns"]).as_py()
        self._tag_models(run_id, rows)
        self._recent = pa.concat_tables([self._recent, rows])
        self._recent = self._recent.slice(max(0, self._recent.num_rows - SHOWN_ROWS))
        self._metrics.uploaded(time.monotonic() - began)

    def _tag_models(self, run_id: str, rows: pa.Table) -> None:
        """Say on the run which model, version and checkpoint its results come from."""
        found = {
            (run_id, *pair) for pair in zip(rows["model"].to_pylist(), rows["model_version"].to_pylist(), strict=True)
        }
        for _, name, version in sorted(found - self._tagged):
            found_by_bridge: Any = self._redis.hget(f"{streams.MODEL}:{name}", "checkpoint") or b""
            checkpoint = found_by_bridge.decode()
            for tag, value in (("model.name", name), ("model.version", version), ("model.checkpoint", checkpoint)):
                self._client.set_tag(run_id, tag, value)
            self._link_registered(run_id, name, checkpoint)
        self._tagged |= found

    def _link_registered(self, run_id: str, name: str, checkpoint: str) -> None:
        """Link the run to the registered version of the model, if there is one. Results do not wait for a registry's whims."""
        with suppress(MlflowException):
            versions = self._client.search_model_versions(f"name = '{name}' and tag.checkpoint = '{checkpoint}'")
            if versions:
                latest = max(versions, key=lambda version: int(version.version))
                self._client.set_tag(run_id, "model.registered", f"models:/{name}/{latest.version}")
                logged = (latest.source or "").removeprefix("models:/")  # (its model_id is empty, mlflow 3.17)
                self._client.log_inputs(run_id, models=[LoggedModelInput(logged)])

    def _upload_part(self, start: Start) -> None:
        """Join the windows so far to one Parquet part of at most PART_ROWS, draw the pictures, and let the windows go."""
        windows: list[Window] = []
        rows = 0
        for window in start.windows():
            count = pq.read_metadata(window.path).num_rows
            if windows and rows + count > PART_ROWS:
                break
            windows.append(window)
            rows += count
        if not windows:
            return
        began, run_id = time.monotonic(), self._run(start)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            part = folder / f"part-{windows[0].number:08d}.parquet"
            pq.write_table(pa.concat_tables([window.read() for window in windows]), part, compression="zstd")
            self._client.log_artifact(run_id, str(part), "predictions")
            sky_map(self._recent, folder / "sky.png")
            opening_angles(self._recent, folder / "opening_angle.png")
            pyarrow.csv.write_csv(
                self._recent.slice(max(0, self._recent.num_rows - LISTED_ROWS)), folder / "predictions.csv"
            )
            for picture in ("sky.png", "opening_angle.png", "predictions.csv"):
                self._client.log_artifact(run_id, str(folder / picture), "latest")
        self._client.set_tag(run_id, "mlflow.note.content", description(self._recent))
        self._spool.forget(start, windows)
        self._metrics.uploaded(time.monotonic() - began)

    def _finish(self, start: Start, status: str) -> None:
        """Upload what is left of a start and end its run."""
        while start.windows():
            self._upload_part(start)
        if run_id := start.mlflow_run:
            self._client.set_terminated(run_id, status)
        start.remove()
