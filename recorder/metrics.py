"""All metrics of the recorder."""

from pathlib import Path

import pyarrow as pa
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from icestream.results.table import numbers
from icestream.service.metrics import LATENCY_BUCKETS, ProcessMetrics
from recorder.reference import BUCKETS, SHIPPED, Reference, values


class RecorderMetrics(ProcessMetrics):
    """Args:
    reference: a file of `recorder.reference`; a ValueError says what is wrong with it.
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
        self._linefit_angle = angle.labels("linefit")
        self._distributions = {
            name: Histogram(f"icestream_recorder_{name}", meaning, buckets=BUCKETS[name], registry=registry)
            for name, meaning in (
                ("kappa", "Concentration of the answers"),
                ("cos_zenith", "Cosine of the zenith of the answers"),
                ("azimuth_degrees", "Azimuth of the answers"),
                ("pulses", "Pulses of an event"),
            )
        } | {"opening_angle_degrees": angle.labels("network")}
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
        for name, observed in found.items():
            for value in observed.tolist():
                self._distributions[name].observe(value)
        for value in numbers(rows, "linefit_opening_angle_deg").tolist():
            self._linefit_angle.observe(value)

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
