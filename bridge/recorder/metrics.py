"""All metrics of the recorder."""

import math

import pyarrow as pa
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from icestream.predictions import numbers
from icestream.telemetry import LATENCY_BUCKETS, ProcessMetrics

ANGLE_BUCKETS = [1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 150, 180]
KAPPA_BUCKETS = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]
COS_BUCKETS = [step / 5 for step in range(-4, 6)]


class RecorderMetrics(ProcessMetrics):
    def __init__(self, registry: CollectorRegistry):
        super().__init__(registry, "recorder")
        self._events = Counter(
            "icestream_recorder_events_total",
            "Results put into the spool, by whether the truth is known",
            ["truth"],
            registry=registry,
        )
        for truth in ("known", "unknown"):
            self._events.labels(truth)
        angle = Histogram(
            "icestream_recorder_opening_angle_degrees",
            "Angle to the truth, where it is known",
            ["by"],
            buckets=ANGLE_BUCKETS,
            registry=registry,
        )
        self._angles = {by: angle.labels(by) for by in ("network", "linefit")}
        self._kappa = Histogram(
            "icestream_recorder_kappa", "Concentration of the answers", buckets=KAPPA_BUCKETS, registry=registry
        )
        self._cos_zenith = Histogram(
            "icestream_recorder_cos_zenith",
            "Cosine of the zenith of the answers",
            buckets=COS_BUCKETS,
            registry=registry,
        )
        self._unmatched = Gauge(
            "icestream_recorder_unmatched_truths", "Truths whose result has not come yet", registry=registry
        )
        self._undecodable = Counter(
            "icestream_recorder_undecodable_entries_total", "Entries that are no result or no truth", registry=registry
        )
        self._uploads = Counter("icestream_recorder_uploads_total", "Uploads to MLflow", ["outcome"], registry=registry)
        for outcome in ("done", "failed"):
            self._uploads.labels(outcome)
        self._upload = Histogram(
            "icestream_recorder_upload_duration_seconds",
            "Time of an upload",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._last = Gauge(
            "icestream_recorder_last_upload_timestamp_seconds",
            "Unix time at which MLflow last took something",
            registry=registry,
        )
        self._spool_files = Gauge("icestream_recorder_spool_files", "Files that wait for MLflow", registry=registry)
        self._spool_bytes = Gauge("icestream_recorder_spool_bytes", "Their size", registry=registry)
        self._failures = Counter(
            "icestream_recorder_collect_failures_total",
            "Times that results could not be read or written to disk",
            registry=registry,
        )

    def spooled(self, rows: pa.Table) -> None:
        angles = {"network": numbers(rows, "opening_angle_deg"), "linefit": numbers(rows, "linefit_opening_angle_deg")}
        known = len(angles["network"])
        self._events.labels("known").inc(known)
        self._events.labels("unknown").inc(rows.num_rows - known)
        for by, values in angles.items():
            for value in values.tolist():
                self._angles[by].observe(value)
        for kappa, zenith in zip(numbers(rows, "kappa").tolist(), numbers(rows, "zenith").tolist(), strict=True):
            self._kappa.observe(kappa)
            self._cos_zenith.observe(math.cos(zenith))

    def unmatched(self, truths: int) -> None:
        self._unmatched.set(truths)

    def undecodable(self) -> None:
        self._undecodable.inc()

    def uploaded(self, seconds: float) -> None:
        self._uploads.labels("done").inc()
        self._upload.observe(seconds)
        self._last.set_to_current_time()

    def upload_failed(self) -> None:
        self._uploads.labels("failed").inc()

    def spool(self, files: int, size: int) -> None:
        self._spool_files.set(files)
        self._spool_bytes.set(size)

    def collect_failed(self) -> None:
        self._failures.inc()
