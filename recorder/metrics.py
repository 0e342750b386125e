"""The metrics of the recorder."""

import math
from pathlib import Path

import pyarrow as pa
from prometheus_client import CollectorRegistry

from icestream.results.comparison import SIDES, Comparison, Copies
from icestream.results.table import numbers
from icestream.service.metrics import Metric, ProcessMetrics
from recorder.reference import BUCKETS, SHIPPED, Reference, values

ANGLE = "recorder_opening_angle_degrees"
BOUNDS = ("low", "mean", "high")
NONE = Comparison(epoch=0, champion_version="", challenger_version="")

TABLE = (
    Metric("recorder_events_total", "counter", "Results put into the spool, by whether the truth is known", label="truth", values=("known", "unknown")),
    Metric(ANGLE, "histogram", "Opening angle to the truth, where it is known", label="by", values=("network", "linefit"), buckets=BUCKETS["opening_angle_degrees"]),
    Metric("recorder_kappa", "histogram", "Concentration κ of the results", buckets=BUCKETS["kappa"]),
    Metric("recorder_cos_zenith", "histogram", "Cosine of the zenith of the results", buckets=BUCKETS["cos_zenith"]),
    Metric("recorder_azimuth_degrees", "histogram", "Azimuth of the results", buckets=BUCKETS["azimuth_degrees"]),
    Metric("recorder_pulses", "histogram", "Pulses of an event", buckets=BUCKETS["pulses"]),
    Metric("recorder_unmatched_truths", "gauge", "Truths without a result so far"),
    Metric("recorder_undecodable_entries_total", "counter", "Entries that are not a result or not a truth"),
    Metric("recorder_repeated_results_total", "counter", "Results of events that were recorded before, passed over"),
    Metric("recorder_damaged_windows_total", "counter", "Files of the spool that could not be read and were set aside"),
    Metric("recorder_uploads_total", "counter", "Uploads to MLflow", label="outcome", values=("done", "failed")),
    Metric("recorder_upload_duration_seconds", "histogram", "Duration of an upload"),
    Metric("recorder_uploaded_bytes_total", "counter", "Size of the results uploaded to MLflow"),
    Metric("recorder_last_upload_timestamp_seconds", "gauge", "Unix time of the last successful upload"),
    Metric("recorder_spool_files", "gauge", "Files that wait for MLflow"),
    Metric("recorder_spool_bytes", "gauge", "Size of those files"),
    Metric("recorder_challenge_pairs", "gauge", "Events answered by champion and challenger, in the challenge under way"),
    Metric("recorder_challenge_copies", "gauge", "Copies of events for the challenger, by what became of them", label="outcome", values=("answered", "refused", "dropped")),
    Metric("recorder_challenge_difference_degrees", "gauge", "Opening angle of the challenger minus that of the champion: mean, and its 95 % interval", label="bound", values=BOUNDS),
    Metric("recorder_challenge_opening_angle_degrees", "gauge", "Mean opening angle to the truth of those events", label="by", values=SIDES),
    Metric("recorder_challenge_within_half_ratio", "gauge", "Share of the truths within the 50 % radius", label="by", values=SIDES),
    Metric("recorder_challenge_within_most_ratio", "gauge", "Share of the truths within the 90 % radius", label="by", values=SIDES),
    Metric("recorder_challenge_answer_seconds", "gauge", "Seconds within which 99 % of the answers came from Triton", label="by", values=SIDES),
    Metric("recorder_challenge_between_degrees", "gauge", "Median angle between the two directions"),
    Metric("recorder_collect_failures_total", "counter", "Times that results could not be read or written to disk"),
)  # fmt: skip


class RecorderMetrics(ProcessMetrics):
    """The metrics of the recorder.

    Args:
        reference: a file of `recorder.reference`; a ValueError says what is wrong with it.
    """

    def __init__(self, registry: CollectorRegistry, reference: Path = SHIPPED):
        super().__init__(registry, "recorder", TABLE)
        registry.register(Reference(reference))

    def spooled(self, rows: pa.Table) -> None:
        columns = values(rows)
        known = len(columns["opening_angle_degrees"])
        self.metrics["recorder_events_total", "known"].inc(known)
        self.metrics["recorder_events_total", "unknown"].inc(rows.num_rows - known)
        self.metrics[ANGLE, "network"].observe_all(columns.pop("opening_angle_degrees"))
        self.metrics[ANGLE, "linefit"].observe_all(numbers(rows, "linefit_opening_angle_deg"))
        for name, column in columns.items():
            self.metrics[f"recorder_{name}"].observe_all(column)

    def unmatched(self, truths: int) -> None:
        self.metrics["recorder_unmatched_truths"].set(truths)

    def undecodable(self) -> None:
        self.metrics["recorder_undecodable_entries_total"].inc()

    def repeated(self, results: int) -> None:
        self.metrics["recorder_repeated_results_total"].inc(results)

    def damaged(self, windows: int) -> None:
        self.metrics["recorder_damaged_windows_total"].inc(windows)

    def uploaded(self, seconds: float) -> None:
        self.metrics["recorder_uploads_total", "done"].inc()
        self.metrics["recorder_upload_duration_seconds"].observe(seconds)
        self.metrics["recorder_last_upload_timestamp_seconds"].set_to_current_time()

    def part_uploaded(self, size: int) -> None:
        self.metrics["recorder_uploaded_bytes_total"].inc(size)

    def upload_failed(self) -> None:
        self.metrics["recorder_uploads_total", "failed"].inc()

    def spool(self, files: int, size: int) -> None:
        self.metrics["recorder_spool_files"].set(files)
        self.metrics["recorder_spool_bytes"].set(size)

    def collect_failed(self) -> None:
        self.metrics["recorder_collect_failures_total"].inc()

    def compared(self, challenge: tuple[Comparison, Copies] | None) -> None:
        """How challenger and champion compare; None while there is no challenger."""
        found, copies = challenge or (NONE, Copies(copied=0, answered=0, refused=0, dropped=0))
        self.metrics["recorder_challenge_pairs"].set(found.pairs)
        for outcome in ("answered", "refused", "dropped"):
            self.metrics["recorder_challenge_copies", outcome].set(getattr(copies, outcome))
        self.metrics["recorder_challenge_between_degrees"].set(found.median_between_deg)
        mean, half = found.difference
        for bound, value in zip(BOUNDS, (mean - half, mean, mean + half), strict=True):
            self.metrics["recorder_challenge_difference_degrees", bound].set(value)
        for name in SIDES:
            side, truths = getattr(found, name), found.truths or math.nan
            self.metrics["recorder_challenge_opening_angle_degrees", name].set(side.opening_angle_deg / truths)
            self.metrics["recorder_challenge_within_half_ratio", name].set(side.within_50 / truths)
            self.metrics["recorder_challenge_within_most_ratio", name].set(side.within_90 / truths)
            self.metrics["recorder_challenge_answer_seconds", name].set(side.p99_s)
