"""All metrics of the bridge."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from icestream.event import REASONS, Reconstruction
from icestream.service.metrics import COUNT_BUCKETS, LATENCY_BUCKETS, ProcessMetrics
from icestream.streams.outlet import Outcome
from icestream.streams.status import Standing

NS = 1e-9


class BridgeMetrics(ProcessMetrics):
    def __init__(self, registry: CollectorRegistry):
        super().__init__(registry, "bridge")
        events = Counter(
            "icestream_bridge_events_total", "Events by what became of them", ["outcome"], registry=registry
        )
        self._rejections = events.labels("rejected")
        self._outcomes = {outcome: events.labels(outcome.name.lower()) for outcome in Outcome}
        self._rejected = Counter(
            "icestream_bridge_rejected_total", "Rejected entries by reason", ["reason"], registry=registry
        )
        for reason in REASONS:
            self._rejected.labels(reason)
        self._latency = Histogram(
            "icestream_bridge_event_latency_seconds",
            "From emitted to stored",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        stage = Histogram(
            "icestream_bridge_stage_duration_seconds",
            "Each stage of an event's way",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._stages = {name: stage.labels(name) for name in ("queued", "waiting", "triton", "store")}
        self._batch = Histogram(
            "icestream_bridge_batch_size_events", "Events of one request", buckets=COUNT_BUCKETS, registry=registry
        )
        self._pulses = Counter(
            "icestream_bridge_pulses_total", "Pulses of events that were sent to Triton", registry=registry
        )
        self._slots = Counter(
            "icestream_bridge_padded_pulses_total", "Pulses and padding sent to Triton", registry=registry
        )
        self._cut = Counter(
            "icestream_bridge_cut_events_total", "Events with more pulses than the model is given", registry=registry
        )
        self._dropped = Counter(
            "icestream_bridge_dropped_pulses_total", "Pulses outside the readout window, left out", registry=registry
        )
        self._in_flight = Gauge(
            "icestream_bridge_in_flight_requests", "Requests that Triton is working on", registry=registry
        )
        self._held = Gauge("icestream_bridge_held_events", "Events read and not yet stored", registry=registry)
        self._claimed = Counter(
            "icestream_bridge_claimed_events_total", "Events taken over from another bridge", registry=registry
        )
        self._retries = Counter(
            "icestream_bridge_retries_total", "Calls that failed and are tried again", ["target"], registry=registry
        )
        for target in ("redis", "triton", "model"):
            self._retries.labels(target)
        self._splits = Counter(
            "icestream_bridge_split_requests_total",
            "Requests that Triton refused and that were halved",
            registry=registry,
        )
        self._backlog = Gauge(
            "icestream_stream_backlog_entries", "Entries of the event stream without a result", registry=registry
        )
        self._pending = Gauge(
            "icestream_stream_pending_entries", "Entries that some bridge has read and not finished", registry=registry
        )
        self._oldest = Gauge(
            "icestream_stream_oldest_pending_age_seconds", "Age of the oldest of those", registry=registry
        )
        self._unrecorded = Gauge(
            "icestream_stream_unrecorded_age_seconds",
            "Age of the oldest result that the recorder has not put on disk",
            registry=registry,
        )

    def finished(self, result: Reconstruction, outcome: Outcome) -> None:
        self._outcomes[outcome].inc()
        if outcome is Outcome.STORED:
            self._latency.observe((result.stored_ns - result.emitted_ns) * NS)
            self._stages["queued"].observe((result.read_ns - result.emitted_ns) * NS)
            self._stages["waiting"].observe((result.sent_ns - result.read_ns) * NS)

    def store_took(self, seconds: float) -> None:
        self._stages["store"].observe(seconds)

    def rejected(self, reason: str) -> None:
        self._rejections.inc()
        self._rejected.labels(reason).inc()

    def pulses_dropped(self, pulses: int) -> None:
        self._dropped.inc(pulses)

    def request_sent(self, events: int, pulses: int, padded: int, cut: int) -> None:
        self._in_flight.inc()
        self._batch.observe(events)
        self._pulses.inc(pulses)
        self._slots.inc(padded)
        self._cut.inc(cut)

    def request_ended(self, seconds: float) -> None:
        self._in_flight.dec()
        self._stages["triton"].observe(seconds)

    def holding(self, events: int) -> None:
        self._held.set(events)

    def claimed(self, events: int) -> None:
        self._claimed.inc(events)

    def retry(self, target: str) -> None:
        self._retries.labels(target).inc()

    def split(self) -> None:
        self._splits.inc()

    def standing(self, now: Standing) -> None:
        self._backlog.set(now.backlog)
        self._pending.set(now.pending)
        self._oldest.set(now.oldest_pending_s)
        self._unrecorded.set(now.unrecorded_s)
