"""All metrics of the emitter."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from icestream.service.metrics import LATENCY_BUCKETS, ProcessMetrics


class EmitterMetrics(ProcessMetrics):
    def __init__(self, registry: CollectorRegistry):
        super().__init__(registry, "emitter")
        self._events = Counter("icestream_emitter_events_total", "Events written into the stream", registry=registry)
        self._pulses = Counter("icestream_emitter_pulses_total", "Pulses of those events", registry=registry)
        self._failures = Counter(
            "icestream_emitter_publish_failures_total",
            "Writes that Redis did not confirm and that are tried again",
            registry=registry,
        )
        self._publish = Histogram(
            "icestream_emitter_publish_duration_seconds",
            "Time of one confirmed write",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._waited = Counter(
            "icestream_emitter_backpressure_seconds_total",
            "Time spent waiting for a full stream to drain",
            registry=registry,
        )
        self._target = Gauge(
            "icestream_emitter_target_rate_events_per_second",
            "The rate asked for; 0 for as fast as possible",
            registry=registry,
        )

    def target(self, rate: float | None) -> None:
        self._target.set(rate or 0)

    def published(self, events: int, pulses: int, seconds: float) -> None:
        self._events.inc(events)
        self._pulses.inc(pulses)
        self._publish.observe(seconds)

    def publish_failed(self) -> None:
        self._failures.inc()

    def waited(self, seconds: float) -> None:
        self._waited.inc(seconds)
