"""The metrics of the bridge."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from icestream.event import REASONS
from icestream.inference.checked_model import STATES
from icestream.result import Results
from icestream.service.metrics import COUNT_BUCKETS, LATENCY_BUCKETS, Metric, ProcessMetrics
from icestream.streams.event_queue import Outcome
from icestream.streams.status import Oldest, StreamStatus
from icestream.tensors import Arrays

NS = 1e-9
OUTCOMES = {outcome: outcome.name.lower() for outcome in Outcome}
STAGES = ("queued", "waiting", "triton", "store")
TARGETS = ("redis", "triton", "model")

TABLE = (
    Metric("bridge_events_total", "counter", "Events by outcome", label="outcome", values=("rejected", *OUTCOMES.values())),
    Metric("bridge_rejected_total", "counter", "Rejected entries by reason", label="reason", values=REASONS),
    Metric("bridge_event_latency_seconds", "histogram", "From emitted to stored"),
    Metric("bridge_stage_duration_seconds", "histogram", "Duration per processing stage", label="stage", values=STAGES),
    Metric("bridge_batch_size_events", "histogram", "Events of one request", buckets=COUNT_BUCKETS),
    Metric("bridge_pulses_total", "counter", "Pulses of events that were sent to Triton"),
    Metric("bridge_padded_pulses_total", "counter", "Pulses and padding sent to Triton"),
    Metric("bridge_cut_events_total", "counter", "Events with more pulses than the model is given"),
    Metric("bridge_dropped_pulses_total", "counter", "Pulses outside the readout window, left out"),
    Metric("bridge_in_flight_requests", "gauge", "Requests that take up a slot, those that are asked again included"),
    Metric("bridge_held_events", "gauge", "Events read and not yet stored"),
    Metric("bridge_held_bytes", "gauge", "Bytes of those events in the stream"),
    Metric("bridge_claimed_events_total", "counter", "Events claimed from another bridge"),
    Metric("bridge_trimmed_entries_total", "counter", "Entries of results deleted because there is no recorder"),
    Metric("bridge_retries_total", "counter", "Calls that failed and are repeated", label="target", values=TARGETS),
    Metric("bridge_tritons", "gauge", "Servers by whether they have proved the model", label="state", values=STATES),
    Metric("bridge_split_requests_total", "counter", "Requests that Triton refused, or was lost at, and that were bisected"),
    Metric("stream_backlog_entries", "gauge", "Entries of the event stream without a result"),
    Metric("stream_pending_entries", "gauge", "Entries that some bridge has read and not completed"),
    Metric("stream_oldest_pending_age_seconds", "gauge", "Age of the oldest of those"),
    Metric("stream_oldest_unheld_age_seconds", "gauge", "Age of the oldest event that no bridge holds"),
    Metric(
        "stream_unrecorded_age_seconds", "gauge", "Age of the oldest result that the recorder has not put on disk"
    ),
)  # fmt: skip


class BridgeMetrics(ProcessMetrics):
    """The metrics of a bridge.

    Args:
        challenger: it answers for the challenger: its metrics begin with icestream_challenger_, so that no sum mixes the two.
    """

    def __init__(self, registry: CollectorRegistry, challenger: bool = False):
        if challenger:
            super().__init__(registry, "challenger", TABLE, lambda name: "challenger_" + name.removeprefix("bridge_"))
        else:
            super().__init__(registry, "bridge", TABLE)
        self._oldest: dict[str, tuple[str, float]] = {}  # metric → entry, since when it is the oldest

    def completed(self, results: Results, outcomes: Sequence[Outcome], stored_ns: int) -> None:
        rows = results.rows
        for outcome, name in OUTCOMES.items():
            if count := outcomes.count(outcome):
                self.metrics["bridge_events_total", name].inc(count)
        if outcomes.count(Outcome.STORED) < len(outcomes):
            rows = rows[[outcome is Outcome.STORED for outcome in outcomes]]
        self.metrics["bridge_event_latency_seconds"].observe_all(_seconds(stored_ns - rows["emitted_ns"]))
        stage = "bridge_stage_duration_seconds"
        self.metrics[stage, "queued"].observe_all(_seconds(rows["read_ns"] - rows["emitted_ns"]))
        self.metrics[stage, "waiting"].observe_all(_seconds(results.sent_ns - rows["read_ns"]))

    def store_took(self, seconds: float) -> None:
        self._stage("store", seconds)

    def rejected(self, reason: str) -> None:
        self.metrics["bridge_events_total", "rejected"].inc()
        self.metrics["bridge_rejected_total", reason].inc()

    def pulses_dropped(self, pulses: int) -> None:
        self.metrics["bridge_dropped_pulses_total"].inc(pulses)

    def request_began(self, events: int) -> None:
        self.metrics["bridge_in_flight_requests"].inc()
        self.metrics["bridge_batch_size_events"].observe(events)

    def pulses_sent(self, inputs: Arrays) -> None:
        length, pulses = inputs["sensor_id"].shape[1], inputs["n_pulses"]
        self.metrics["bridge_pulses_total"].inc(int(np.minimum(pulses, length).sum()))
        self.metrics["bridge_padded_pulses_total"].inc(inputs["sensor_id"].size)
        self.metrics["bridge_cut_events_total"].inc(int(np.count_nonzero(pulses > length)))

    def request_ended(self, seconds: float) -> None:
        self.metrics["bridge_in_flight_requests"].dec()
        self._stage("triton", seconds)

    def holding(self, events: int, size: int) -> None:
        self.metrics["bridge_held_events"].set(events)
        self.metrics["bridge_held_bytes"].set(size)

    def claimed(self, events: int) -> None:
        self.metrics["bridge_claimed_events_total"].inc(events)

    def trimmed(self, entries: int) -> None:
        self.metrics["bridge_trimmed_entries_total"].inc(entries)

    def tritons(self, states: Mapping[str, int]) -> None:
        for state, number in states.items():
            self.metrics["bridge_tritons", state].set(number)

    def retry(self, target: str) -> None:
        self.metrics["bridge_retries_total", target].inc()

    def split(self) -> None:
        self.metrics["bridge_split_requests_total"].inc()

    def stream_status(self, status: StreamStatus) -> None:
        self.metrics["stream_backlog_entries"].set(status.backlog)
        self.metrics["stream_pending_entries"].set(status.pending)
        for name, oldest in (
            ("stream_oldest_pending_age_seconds", status.oldest_pending),
            ("stream_oldest_unheld_age_seconds", status.oldest_unheld),
            ("stream_unrecorded_age_seconds", status.oldest_unrecorded),
        ):
            self.metrics[name].set(self._age_s(name, oldest))

    def _age_s(self, name: str, oldest: Oldest) -> float:
        """The age of an entry: at least as long as it has been the oldest, whatever Redis' clock says."""
        before, since_s = self._oldest.get(name, ("", 0.0))
        if oldest.entry != before:
            since_s = time.monotonic()
            self._oldest[name] = (oldest.entry, since_s)
        return max(oldest.age_s, time.monotonic() - since_s) if oldest.entry else 0.0

    def _stage(self, stage: str, seconds: float) -> None:
        self.metrics["bridge_stage_duration_seconds", stage].observe(seconds)


def _seconds(ns: NDArray[np.int64]) -> NDArray[np.float64]:
    """At most twice the last bound of the buckets: a stamp that no clock has set would outweigh a million others in the sum."""
    return np.clip(ns * NS, 0.0, 2 * LATENCY_BUCKETS[-1])
