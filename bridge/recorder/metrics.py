"""All metrics of the recorder."""

from pathlib import Path

import pyarrow as pa
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bridge.recorder.reference import BUCKETS, SHIPPED, Reference, values
from icestream.predictions import numbers
from icestream.telemetry import LATENCY_BUCKETS, ProcessMetrics


class RecorderMetrics(ProcessMetrics):
    """Args:
    reference: a file of `bridge.recorder.reference`; a ValueError says what is wrong with it.
    """

    def __init__(self, registry: CollectorRegistry, reference: Path = SHIPPED):
        super().__init__(registry, "recorder")
        registry.register(Reference(reference))
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
            buckets=BUCKETS["opening_angle_degrees"],
            registry=registry,
        )
        self._angles = {by: angle.labels(by) for by in ("network", "linefit")}
        self._kappa = Histogram(
            "icestream_recorder_kappa", "Concentration of the answers", buckets=BUCKETS["kappa"], registry=registry
        )
        self._cos_zenith = Histogram(
            "icestream_recorder_cos_zenith",
            "Cosine of the zenith of the answers",
            buckets=BUCKETS["cos_zenith"],
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
        found = values(rows)
        known = len(found["opening_angle_degrees"])
        self._events.labels("known").inc(known)
        self._events.labels("unknown").inc(rows.num_rows - known)
        for histogram, observed in (
            (self._angles["network"], found["opening_angle_degrees"]),
            (self._angles["linefit"], numbers(rows, "linefit_opening_angle_deg")),
            (self._kappa, found["kappa"]),
            (self._cos_zenith, found["cos_zenith"]),
        ):
            for value in observed.tolist():
                histogram.observe(value)

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
