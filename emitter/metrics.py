"""The metrics of the emitter."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from icestream.service.metrics import Metric, ProcessMetrics

TABLE = (
    Metric("emitter_events_total", "counter", "Events written into the stream"),
    Metric("emitter_pulses_total", "counter", "Pulses of those events"),
    Metric("emitter_left_out_pulses", "gauge", "Pulses of the source that are of no DOM of IceCube-86, not written"),
    Metric("emitter_publish_failures_total", "counter", "Calls to Redis that failed and are repeated"),
    Metric("emitter_publish_duration_seconds", "histogram", "Duration of one confirmed write"),
    Metric("emitter_backpressure_seconds_total", "counter", "Time spent waiting for a full stream to drain"),
    Metric("emitter_target_rate_events_per_second", "gauge", "The configured rate; 0 for as fast as possible"),
)


class EmitterMetrics(ProcessMetrics):
    def __init__(self, registry: CollectorRegistry):
        super().__init__(registry, "emitter", TABLE)

    def target(self, rate: float | None) -> None:
        self.metrics["emitter_target_rate_events_per_second"].set(rate or 0)

    def published(self, events: int, pulses: int, seconds: float) -> None:
        self.metrics["emitter_events_total"].inc(events)
        self.metrics["emitter_pulses_total"].inc(pulses)
        self.metrics["emitter_publish_duration_seconds"].observe(seconds)

    def left_out(self, pulses: Callable[[], int]) -> None:
        """Show how many pulses were left out since the start."""
        self.metrics["emitter_left_out_pulses"].set_function(pulses)

    def publish_failed(self) -> None:
        self.metrics["emitter_publish_failures_total"].inc()

    def waited(self, seconds: float) -> None:
        self.metrics["emitter_backpressure_seconds_total"].inc(seconds)
