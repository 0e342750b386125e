"""Uploads spooled windows to MLflow: a point of the charts for each, Parquet parts and pictures once a minute.

Everything may be uploaded twice: MLflow keeps one point for the same key, step, time and value, and one artifact for a path.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

from icestream import __version__
from icestream.results.mlflow_names import EXPERIMENT_TAGS, PREDICTIONS
from icestream.results.pictures import opening_angles, sky_map
from icestream.results.table import SCHEMA
from icestream.service.logs import Log
from icestream.streams.challenge import Challenge
from recorder.challenge_run import ChallengeRun
from recorder.metrics import RecorderMetrics
from recorder.retention import Retention
from recorder.settings import RecorderSettings
from recorder.spool import RecorderRun, Spool, Window, WindowContent
from recorder.windows import aggregates, description

PART_ROWS = 50_000  # a part is closed when it has so many
SHOWN_ROWS = 5000  # results in the pictures
LISTED_ROWS = 200  # results in the CSV that MLflow shows as a table
HANGS_S = 120.0  # without progress, while it uploads: each read of a reply has a time-out, but not their number


class Uploader:
    """Uploads each run of the recorder as an MLflow run of its own.

    Methods raise MlflowException, OSError or RedisError while something is away.

    Args:
        describe_run: source, rate and seed of a run's events, as far as they are known.
        read_challenge: as of `ChallengeRun`.
    """

    def __init__(
        self,
        spool: Spool,
        settings: RecorderSettings,
        metrics: RecorderMetrics,
        *,
        describe_run: Callable[[int], dict[str, str]],
        read_challenge: Callable[[], Challenge | None],
        log: Log,
    ):
        self._spool, self._settings, self._metrics = spool, settings, metrics
        self._describe_run, self._log = describe_run, log
        self._client = MlflowClient(settings.mlflow_url)
        self._of = ""  # the recorder run that the next four belong to
        self._logged = 0  # its last window whose points were logged
        self._rows: dict[int, int] = {}  # of its windows, by their number
        self._recent = SCHEMA.empty_table()  # its last results,
        self._undrawn = False  # and whether there are some that are in no picture
        self._tagged: set[tuple[str, str, str]] = set()  # models it is tagged with: name, version, checkpoint
        self._part_due = time.monotonic() + settings.part_s
        self._progress_s: float | None = None  # the latest, while it uploads
        self._challenge = ChallengeRun(self._client, read_challenge, log)
        self._retention = Retention(self._client, settings.experiment, settings.keep_days, log)

    def upload(self, closing: bool = False) -> None:
        """Upload what waits; `closing` uploads all of it and ends the current run."""
        self._progress_s = time.monotonic()
        try:
            for recorder_run in self._spool.runs():
                try:
                    self._upload_run(recorder_run, closing)
                except MlflowException:
                    self._forget_deleted(recorder_run)
                    raise
            self._challenge.upload(closing)
            if not closing:
                self._retention.apply()
        finally:  # while MLflow is away, too: that is when the spool grows
            self._metrics.spool(*self._spool.size())
            self._progress_s = None

    @property
    def hangs(self) -> bool:
        """Whether MLflow has neither answered nor failed for long."""
        return (since_s := self._progress_s) is not None and time.monotonic() - since_s > HANGS_S

    def _uploaded(self, began_s: float) -> None:
        self._progress_s = time.monotonic()
        self._metrics.uploaded(self._progress_s - began_s)

    def _upload_run(self, recorder_run: RecorderRun, closing: bool) -> None:
        ended = recorder_run.name != self._spool.current.name
        if recorder_run.name != self._of:
            self._of, self._logged, self._recent = recorder_run.name, 0, SCHEMA.empty_table()
            self._rows, self._tagged, self._undrawn = {}, set(), False
        for window in recorder_run.windows():
            if window.number > self._logged:
                if content := self._read(window):
                    self._log_window(recorder_run, window.number, content)
                self._logged = window.number
        if ended or closing:
            crashed = ended and not self._spool.was_closed(recorder_run)
            self._finish(recorder_run, "KILLED" if crashed else "FINISHED")
        else:
            due = time.monotonic() >= self._part_due
            if due:
                self._part_due = time.monotonic() + self._settings.part_s
            if due or self._waiting_rows(recorder_run) >= PART_ROWS:
                self._upload_part(recorder_run)
            if due:
                self._draw(recorder_run)

    def _waiting_rows(self, recorder_run: RecorderRun) -> int:
        return sum(self._rows.get(window.number, 0) for window in recorder_run.windows())

    def _read(self, window: Window) -> WindowContent | None:
        """A window; None if it is damaged."""
        content = self._spool.read(window)
        if content is None:
            self._metrics.damaged(1)
            self._log.error(
                "a file of the spool is damaged: its results are lost, it is kept in damaged/", file=str(window.path)
            )
        return content

    def _run(self, recorder_run: RecorderRun, rows: pa.Table) -> str:
        """The MLflow run of a recorder run, created when there is something to log."""
        if (run_id := recorder_run.mlflow_run) is None:
            experiment = self._client.get_experiment_by_name(self._settings.experiment)
            if experiment is None:
                experiment_id = self._client.create_experiment(self._settings.experiment, tags=EXPERIMENT_TAGS)
            else:
                experiment_id = experiment.experiment_id
                if experiment.lifecycle_stage == LifecycleStage.DELETED:  # its name is still taken
                    self._log.warning(
                        "somebody has deleted the MLflow experiment: it is restored", experiment=experiment.name
                    )
                    self._client.restore_experiment(experiment_id)
            made = self._client.search_runs([experiment_id], f"tags.`icestream.start` = '{recorder_run.name}'")
            run = made[0] if made else self._create_run(experiment_id, recorder_run)
            if not (run_id := str(run.info.run_id)):
                raise MlflowException("MLflow's reply names no run: is something else at its address?")
            if not run.data.params:  # MLflow refuses other values; what a crash has left without them is completed here
                self._log_parameters(run_id, rows)
            recorder_run.mlflow_run = run_id
        return run_id

    def _forget_deleted(self, recorder_run: RecorderRun) -> None:
        """If somebody has deleted the MLflow run, let another be created with what is still in the spool."""
        if (run_id := recorder_run.mlflow_run) is None:
            return
        try:
            deleted = self._client.get_run(run_id).info.lifecycle_stage == LifecycleStage.DELETED
        except MlflowException as error:
            deleted = error.error_code in map(ErrorCode.Name, (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE))
        if deleted:
            self._log.warning(
                "somebody has deleted the MLflow run: another takes the results to come", mlflow_run=run_id
            )
            recorder_run.mlflow_run, self._of = None, ""

    def _create_run(self, experiment_id: str, recorder_run: RecorderRun) -> Run:
        began = datetime.fromtimestamp(int(recorder_run.name) / 1e9, UTC)
        tags = {
            "icestream.version": __version__,
            "icestream.session": self._settings.session,
            "icestream.start": recorder_run.name,
        }
        name = f"stream {began:%Y-%m-%d %H:%M:%S}"
        return self._client.create_run(
            experiment_id, start_time=int(recorder_run.name) // 1_000_000, tags=tags, run_name=name
        )

    def _log_window(self, recorder_run: RecorderRun, number: int, content: WindowContent) -> None:
        began, rows = time.monotonic(), content.rows
        run_id = self._run(recorder_run, rows)
        since_ns = int(recorder_run.name) if content.since_ns is None else content.since_ns
        when = int(rows["stored_ns"][-1].as_py() // 1_000_000)
        points = [Metric(name, value, when, number) for name, value in aggregates(rows, since_ns).items()]
        self._client.log_batch(run_id, metrics=points)
        self._rows[number] = rows.num_rows
        self._tag_models(run_id, rows)
        self._recent = pa.concat_tables([self._recent, rows])
        self._recent = self._recent.slice(max(0, self._recent.num_rows - SHOWN_ROWS))
        self._undrawn = True
        self._uploaded(began)

    def _log_parameters(self, run_id: str, rows: pa.Table) -> None:
        """Log the source of the events, the model, and this recorder's settings, once for a run."""
        first = rows.slice(0, 1).to_pylist()[0]
        parameters = {
            **self._describe_run(first["run_id"]),
            "run_id": str(first["run_id"]),
            "model": first["model"],
            "model_version": first["model_version"],
            "window_s": str(self._settings.window_s),
            "part_s": str(self._settings.part_s),
        }
        self._client.log_batch(run_id, params=[Param(name, value) for name, value in parameters.items()])

    def _tag_models(self, run_id: str, rows: pa.Table) -> None:
        """Tag the run with each model that made some of its results, the time of the first of them being the tag's name."""
        models = rows.group_by(["model", "model_version", "checkpoint"]).aggregate([("stored_ns", "min")]).to_pylist()
        models.sort(key=lambda one: one["stored_ns_min"])
        first = {(one["model"], one["model_version"], one["checkpoint"] or ""): one["stored_ns_min"] for one in models}
        if first.keys() <= self._tagged:
            return
        tagged = self._client.get_run(run_id).data.tags.values()  # an earlier process may have tagged it
        for (name, version, checkpoint), stored_ns in first.items():
            if (words := f"{name} {version} {checkpoint}") not in tagged:
                since = datetime.fromtimestamp(stored_ns / 1e9, UTC)
                self._client.set_tag(run_id, f"model.since.{since:%Y-%m-%dT%H:%M:%S.%f}Z", words)
            for tag, value in (("model.name", name), ("model.version", version), ("model.checkpoint", checkpoint)):
                self._client.set_tag(run_id, tag, value)
            self._link_registered(run_id, checkpoint)
        self._tagged |= first.keys()

    def _link_registered(self, run_id: str, checkpoint: str) -> None:
        """Name the registered version of the model, if there is one. A registry that fails does not hold up results."""
        with suppress(MlflowException):
            if versions := self._client.search_model_versions(f"tag.checkpoint = '{checkpoint}'"):
                latest = max(versions, key=lambda version: int(version.version))
                self._client.set_tag(run_id, "model.registered", f"models:/{latest.name}/{latest.version}")

    def _upload_part(self, recorder_run: RecorderRun) -> None:
        """Join the windows so far to one Parquet part of at most PART_ROWS (or one window), and delete the windows."""
        windows: list[Window] = []
        tables: list[pa.Table] = []
        for window in recorder_run.windows():
            if (content := self._read(window)) is None:
                continue
            if windows and sum(map(len, tables)) + len(content.rows) > PART_ROWS:
                break
            windows.append(window)
            tables.append(content.rows)
        if not windows:
            return
        began, run_id = time.monotonic(), self._run(recorder_run, tables[0])
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            part = folder / f"part-{windows[0].number:08d}.parquet"
            pq.write_table(pa.concat_tables(tables), part, compression="zstd")
            self._client.log_artifact(run_id, str(part), PREDICTIONS)
            self._metrics.part_uploaded(part.stat().st_size)
        self._spool.forget(recorder_run, windows)
        for window in windows:
            self._rows.pop(window.number, None)
        self._uploaded(began)

    def _draw(self, recorder_run: RecorderRun) -> None:
        """Draw the latest results, if there are newer ones than were drawn, and describe the run by them."""
        if not self._undrawn or (run_id := recorder_run.mlflow_run) is None:
            return
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sky_map(self._recent, folder / "sky.png")
            opening_angles(self._recent, folder / "opening_angle.png")
            pyarrow.csv.write_csv(
                self._recent.slice(max(0, self._recent.num_rows - LISTED_ROWS)), folder / "predictions.csv"
            )
            for picture in ("sky.png", "opening_angle.png", "predictions.csv"):
                self._client.log_artifact(run_id, str(folder / picture), "latest")
        self._client.set_tag(run_id, "mlflow.note.content", description(self._recent))
        self._undrawn = False

    def _finish(self, recorder_run: RecorderRun, status: str) -> None:
        """Upload what is left of a recorder run and end its MLflow run."""
        while recorder_run.windows():
            self._upload_part(recorder_run)
        self._draw(recorder_run)
        if run_id := recorder_run.mlflow_run:
            self._client.set_terminated(run_id, status)
        recorder_run.remove()
