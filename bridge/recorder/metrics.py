"""All metrics of the recorder."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from icestream.telemetry import LATENCY_BUCKETS, ProcessMetrics


class RecorderMetrics(ProcessMetrics):
    def __init__(self, registry: CollectorRegistry):
        super().__init__(registry, "recorder")
        self._events = Counter("icestream_recorder_events_total", "Results put into the spool, by whether the truth is known", ["truth"], registry=registry)
        for truth in ("known", "unknown"):
            self._events.labels(truth)
        self._unmatched = Gauge("icestream_recorder_unmatched_truths", "Truths whose result has not come yet", registry=registry)
        self._undecodable = Counter("icestream_recorder_undecodable_entries_total", "Entries that are no result or no truth", registry=registry)
        self._uploads = Counter("icestream_recorder_uploads_total", "Uploads to MLflow", ["outcome"], registry=registry)
        for outcome in ("done", "failed"):
            self._uploads.labels(outcome)
        self._upload = Histogram("icestream_recorder_upload_duration_seconds", "Time of an upload", buckets=LATENCY_BUCKETS, registry=registry)
        self._last = Gauge("icestream_recorder_last_upload_timestamp_seconds", "Unix time at which MLflow last took something", registry=registry)
        self._spool_files = Gauge("icestream_recorder_spool_files", "Files that wait for MLflow", registry=registry)
        self._spool_bytes = Gauge("icestream_recorder_spool_bytes", "Their size", registry=registry)
        self._redis = Counter("icestream_recorder_redis_failures_total", "Calls to Redis that failed and are tried again", registry=registry)

    def spooled(self, events: int, known: int) -> None:
        self._events.labels("known").inc(known)
        self._events.labels("unknown").inc(events - known)

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

    def redis_failed(self) -> None:
        self._redis.inc()
